"""A loaded model: rows in, one outcome a row out, whatever the estimator does."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from serve_app.models import blame
from serve_app.models.blame import Block, Predict
from serve_app.models.predictions import Predictions
from serve_app.records.rows import Rows, frame
from serve_app.records.signature import Signature

NO_FINITE_ANSWER = "the model gives no finite number for this record"


@dataclass(frozen=True)
class Model:
    """A fitted scikit-learn estimator with its signature."""

    estimator: Any
    signature: Signature
    example: Rows
    """A record that the model is known to take, shape (1, features)."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Labels of a classifier that gives probabilities, in their order; None otherwise."""
        if not hasattr(self.estimator, "predict_proba") or not hasattr(self.estimator, "classes_"):
            return None  # without labels, shares of a mixture's parts say nothing to a client
        return tuple(str(label) for label in self.estimator.classes_)

    @property
    def labels(self) -> tuple[Any, ...] | None:
        """All that a classifier predicts, as JSON has it; None for a model of numbers."""
        if not hasattr(self.estimator, "classes_"):
            return None
        return tuple(np.asarray(self.estimator.classes_).tolist())

    def width(self, wants_probabilities: bool) -> tuple[int, ...]:
        """Return the shape of one row's answer."""
        return (len(self.estimator.classes_),) if wants_probabilities else ()

    def predict(self, rows: Rows, sizes: Sequence[int] = ()) -> Predictions:
        """Return a label or a number for each row.

        `sizes` are the row counts of the requests that make up `rows`; () is one request.
        """
        return _predict(self._estimate, rows, sizes, self.width(False))

    def probabilities(self, rows: Rows, sizes: Sequence[int] = ()) -> Predictions:
        """Return the classes' probabilities for each row, shape (records, classes)."""
        predict = self._taking_rows(self.estimator.predict_proba)
        return _predict(predict, rows, sizes, self.width(True))

    @cached_property
    def _estimate(self) -> Predict:
        from serve_app.models import linear  # noqa: PLC0415  # imports scikit-learn: for workers only

        # Its sums take a matrix; rows of mixed columns go to the estimator as a table.
        known = linear.arithmetic(self.estimator) if self.signature.is_numeric else None
        return known or self._taking_rows(self.estimator.predict)

    def _taking_rows(self, predict: Predict) -> Predict:
        if self.signature.is_numeric:
            return unwarned()(predict)
        return unwarned()(lambda rows: predict(frame(rows, self.signature.columns)))


@contextlib.contextmanager
def unwarned() -> Iterator[None]:
    """Keep the estimator's warnings out of the log: what comes of overflows is checked.

    Of whatever kind, as a change of filters makes Python forget which it has already shown once.
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def _predict(
    estimate: Predict, rows: Rows, sizes: Sequence[int], width: tuple[int, ...]
) -> Predictions:
    """Predict all rows, those at fault told apart; `width` is the shape of one row's answer."""
    blocks, errors = blame.predict(estimate, rows, sizes or (len(rows),), width)
    values = _joined(blocks, (len(rows), *width))
    if not values.dtype.isnative:  # orjson refuses others
        values = values.astype(values.dtype.newbyteorder("="))
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        finite = np.isfinite(values).reshape(len(rows), -1).all(axis=1)
        for at in np.flatnonzero(~finite).tolist():
            errors.setdefault(at, NO_FINITE_ANSWER)
    return Predictions(values, errors)


def _joined(blocks: Sequence[Block], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return the blocks' values in one array of `shape`, zeros where there is none."""
    if len(blocks) == 1 and len(blocks[0].values) == shape[0]:
        return blocks[0].values
    dtypes = [block.values.dtype for block in blocks]
    # Truth values give way to any other type when outcomes are put together.
    values = np.zeros(shape, dtype=np.result_type(*dtypes) if dtypes else np.bool_)
    for start, block in blocks:
        values[start : start + len(block)] = block
    return values
