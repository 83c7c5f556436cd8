"""A loaded model: rows in, one outcome a row out, whatever the estimator does."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serve_app.predictions import Predictions
from serve_app.rows import Rows, frame
from serve_app.signature import Signature

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
        if not hasattr(self.estimator, "predict_proba"):
            return None
        return tuple(str(label) for label in self.estimator.classes_)

    @property
    def labels(self) -> tuple[Any, ...] | None:
        """All that a classifier predicts, as JSON has it; None for a model of numbers."""
        if not hasattr(self.estimator, "classes_"):
            return None
        return tuple(np.asarray(self.estimator.classes_).tolist())

    def predict(self, rows: Rows, sizes: Sequence[int] = ()) -> Predictions:
        """Return a label or a number for each row.

        `sizes` are the row counts of the requests that make up `rows`; () is one request.
        """
        return _predict(self._taking_rows(self.estimator.predict), rows, sizes, ())

    def probabilities(self, rows: Rows, sizes: Sequence[int] = ()) -> Predictions:
        """Return the classes' probabilities for each row, shape (records, classes)."""
        width = (len(self.estimator.classes_),)
        predict = self._taking_rows(self.estimator.predict_proba)
        return _predict(predict, rows, sizes, width)

    def _taking_rows(self, predict: "Predict") -> "Predict":
        if self.signature.is_numeric:
            return predict
        return lambda rows: predict(frame(rows, self.signature.columns))


@contextlib.contextmanager
def unwarned() -> Iterator[None]:
    """Keep the estimator's warnings out of the log: what comes of overflows is checked.

    Of whatever kind, as a change of filters makes Python forget which it has already shown once.
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


Predict = Callable[[Rows], Any]


def _predict(
    predict: Predict, rows: Rows, sizes: Sequence[int], width: tuple[int, ...]
) -> Predictions:
    """Predict all rows at once; if that raises, halve until only the requests at fault have failed.

    A failed request has one error, at its first bad record; the values of its rows are undefined.
    `width` is the shape of one row's answer.
    """
    errors: dict[int, str] = {}
    with unwarned():
        blocks = _blocks(predict, rows, tuple(sizes) or (len(rows),), 0, errors)
    values = _joined(blocks, (len(rows), *width))
    if values.dtype.kind == "f":
        finite = np.isfinite(values).reshape(len(rows), -1).all(axis=1)
        for at in np.flatnonzero(~finite).tolist():
            errors.setdefault(at, NO_FINITE_ANSWER)
    return Predictions(values, errors)


Block = tuple[int, npt.NDArray[Any]]
"""Where the rows start, and their values."""


def _blocks(
    predict: Predict, rows: Rows, sizes: tuple[int, ...], start: int, errors: dict[int, str]
) -> list[Block]:
    values, error = _tried(predict, rows)
    if error is None:
        return [(start, values)]
    if len(sizes) == 1:
        at, reason = _first_fault(predict, rows, error)
        errors[start + at] = reason
        return []
    half = len(sizes) // 2
    cut = sum(sizes[:half])
    return [
        *_blocks(predict, rows[:cut], sizes[:half], start, errors),
        *_blocks(predict, rows[cut:], sizes[half:], start + cut, errors),
    ]


def _first_fault(predict: Predict, rows: Rows, error: Exception) -> tuple[int, str]:
    """Return index and reason of the first record that makes `predict` raise, as `rows` do.

    The window of rows that raise is halved: n rows take log2(n) predictions of n rows in all.
    """
    low, high = 0, len(rows)
    while high - low > 1:
        middle = (low + high) // 2
        _, found = _tried(predict, rows[low:middle])
        if found is None:
            low = middle
        else:
            high, error = middle, found
    return low, f"the model raised {type(error).__name__} for this record"


def _tried(predict: Predict, rows: Rows) -> tuple[npt.NDArray[Any], Exception | None]:
    try:
        values = np.asarray(predict(rows))
        if len(values) != len(rows):
            raise ValueError(f"{len(values)} predictions for {len(rows)} records")
    except Exception as error:  # noqa: BLE001  # an estimator may raise anything
        return np.empty(0), error
    return values, None


def _joined(blocks: Sequence[Block], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return the blocks' values in one array of `shape`, zeros where there is none."""
    if len(blocks) == 1 and len(blocks[0][1]) == shape[0]:
        return blocks[0][1]
    values = np.zeros(shape, dtype=blocks[0][1].dtype if blocks else np.float64)
    for start, block in blocks:
        values[start : start + len(block)] = block
    return values
