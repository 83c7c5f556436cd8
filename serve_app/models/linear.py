"""Linear models by their arithmetic alone.

scikit-learn looks at its input anew at every step (its type, its shape, whether all is finite),
which takes ten to a hundred times longer than a linear model's sums, and again for each scaler in
front of it. What reaches a model here has been checked, so for the estimators below only the sums
are left: the same operations in the same order, and so the same bits.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, Ridge, SGDRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

Matrix = npt.NDArray[np.float64]
Step = Callable[[Matrix], Matrix]

_LINEAR: Final = (ElasticNet, Lasso, LinearRegression, Ridge, SGDRegressor)


def arithmetic(estimator: Any) -> Step | None:
    """Return what predicts exactly as `estimator.predict`, or None if that isn't known here.

    It takes finite numbers of shape (records, features); what overflows becomes infinite or NaN
    where the estimator might raise. Subclasses are not known: they may do anything.
    """
    steps = [step for _, step in estimator.steps] if type(estimator) is Pipeline else [estimator]
    *scalers, last = steps
    if not all(type(one) is StandardScaler for one in scalers) or not _is_sum(last):
        return None
    steps = [*map(_scaling, scalers), _sum(last)]
    # Sums give no other warnings than NumPy's.
    return np.errstate(all="ignore")(steps[0] if len(steps) == 1 else _in_turn(steps))


def _is_sum(estimator: Any) -> bool:
    return (
        type(estimator) in _LINEAR
        and isinstance(estimator.coef_, np.ndarray)
        and (estimator.coef_.ndim == 1)
    )


def _in_turn(steps: list[Step]) -> Step:
    def predict(rows: Matrix) -> Matrix:
        for step in steps:
            rows = step(rows)
        return rows

    return predict


def _scaling(scaler: StandardScaler) -> Step:
    """Return `scaler.transform`."""
    mean = scaler.mean_ if scaler.with_mean else None
    scale = scaler.scale_ if scaler.with_std else None

    def transform(rows: Matrix) -> Matrix:
        if mean is not None:
            rows = rows - mean
        return rows if scale is None else rows / scale

    return transform


def _sum(estimator: Any) -> Step:
    """Return `estimator.predict`."""
    weights, intercept = estimator.coef_, estimator.intercept_

    def predict(rows: Matrix) -> Matrix:
        found: Matrix = rows @ weights + intercept
        return found

    return predict
