"""A loaded model: rows in, one outcome a row out, whatever the estimator does."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serve_app.predictions import Predictions
from serve_app.records import Rows
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

    def predict(self, rows: Rows) -> Predictions:
        """Return a label or a number for each row."""
        return _predict(lambda block: np.asarray(self.estimator.predict(block)), rows, ())

    def probabilities(self, rows: Rows) -> Predictions:
        """Return the classes' probabilities for each row, shape (records, classes)."""
        width = (len(self.estimator.classes_),)
        return _predict(lambda block: np.asarray(self.estimator.predict_proba(block)), rows, width)


Predict = Callable[[Rows], npt.NDArray[Any]]


def _predict(predict: Predict, rows: Rows, width: tuple[int, ...]) -> Predictions:
    """Predict all rows at once; if that raises, halve until only the rows at fault have failed.

    `width` is the shape of one row's answer.
    """
    errors: dict[int, str] = {}
    parts = list(_blocks(predict, rows, 0, errors))
    if not parts:
        return Predictions(np.zeros((len(rows), *width)), errors)
    if len(parts) == 1 and len(parts[0][1]) == len(rows):
        values = parts[0][1]
    else:
        values = np.zeros((len(rows), *width), dtype=parts[0][1].dtype)
        for start, block in parts:
            values[start : start + len(block)] = block
    if values.dtype.kind == "f":
        finite = np.isfinite(values).reshape(len(rows), -1).all(axis=1)
        for at in np.flatnonzero(~finite).tolist():
            errors.setdefault(at, NO_FINITE_ANSWER)
    return Predictions(values, errors)


def _blocks(
    predict: Predict, rows: Rows, start: int, errors: dict[int, str]
) -> list[tuple[int, npt.NDArray[Any]]]:
    try:
        values = predict(rows)
        if len(values) != len(rows):
            raise ValueError(f"{len(values)} predictions for {len(rows)} records")
    except Exception as error:  # noqa: BLE001  # an estimator may raise anything
        if len(rows) == 1:
            errors[start] = f"the model raised {type(error).__name__} for this record"
            return []
        half = len(rows) // 2
        return [
            *_blocks(predict, rows[:half], start, errors),
            *_blocks(predict, rows[half:], start + half, errors),
        ]
    return [(start, values)]
