"""What a fitted model learned, as numbers that can be checked by hand."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from train.estimator import last_step


def describe(model: BaseEstimator, feature_names: tuple[str, ...]) -> dict[str, Any]:
    """Return the weights as plain JSON values.

    A linear model has `coef` and `intercept` as fitted, and `slope` and `intercept` under
    `own_units`, with the scaler worked in: prediction (in classification, its decision function) =
    intercept + sum of slope x feature. A model that has them, but predicts by something else than
    this sum, has no `own_units`.
    Other models have their feature importances, if any.
    """
    final = last_step(model)
    described: dict[str, Any] = {
        "estimator": f"{type(final).__module__}.{type(final).__qualname__}",
        "features": list(feature_names),
    }
    if hasattr(final, "classes_"):
        described["classes"] = final.classes_.tolist()
    scaler = _scaler(model)
    if scaler is not None:
        described["scaler"] = {"mean": scaler.mean_.tolist(), "scale": scaler.scale_.tolist()}
    if hasattr(final, "coef_") and hasattr(final, "intercept_"):
        described |= _linear(model, final, scaler, feature_names)
    if hasattr(final, "feature_importances_"):
        importances = final.feature_importances_.tolist()
        described["feature_importances"] = dict(zip(feature_names, importances, strict=True))
    return described


def _scaler(model: BaseEstimator) -> StandardScaler | None:
    first = model.steps[0][1] if isinstance(model, Pipeline) else None
    return first if isinstance(first, StandardScaler) else None


def _linear(
    model: BaseEstimator,
    final: BaseEstimator,
    scaler: StandardScaler | None,
    feature_names: tuple[str, ...],
) -> dict[str, Any]:
    coef = np.atleast_2d(np.asarray(final.coef_, dtype=np.float64))
    intercept = np.atleast_1d(np.asarray(final.intercept_, dtype=np.float64))
    if coef.shape[1] != len(feature_names):
        return {}
    scale = scaler.scale_ if scaler is not None else np.ones(coef.shape[1])
    mean = scaler.mean_ if scaler is not None else np.zeros(coef.shape[1])
    slopes = coef / scale
    intercepts = intercept - slopes @ mean
    own = [
        {"slope": dict(zip(feature_names, row.tolist(), strict=True)), "intercept": float(constant)}
        for row, constant in zip(slopes, intercepts, strict=True)
    ]
    described = {
        "coef": np.asarray(final.coef_).tolist(),
        "intercept": np.asarray(final.intercept_).tolist(),
    }
    if _is_sum(model, slopes, intercepts, scaler):
        # One equation in regression and between two classes, one a class otherwise.
        described["own_units"] = own[0] if len(own) == 1 else own
    return described


def _is_sum(
    model: BaseEstimator,
    slopes: NDArray[np.float64],
    intercepts: NDArray[np.float64],
    scaler: StandardScaler | None,
) -> bool:
    """Whether the model predicts these sums, tried on rows around zero or the scaler's means."""
    features = slopes.shape[1]
    rows = np.vstack([np.zeros(features), np.eye(features), np.linspace(-2.0, 2.0, features)])
    if scaler is not None:
        rows = rows * scaler.scale_ + scaler.mean_
    sums = rows @ slopes.T + intercepts
    try:
        predicted = getattr(model, "decision_function", model.predict)(rows)
        compared = np.reshape(predicted, sums.shape)
    except (ValueError, TypeError, ArithmeticError):  # it can't predict such rows, or gives others
        return False
    return bool(np.allclose(compared, sums, rtol=1e-6, atol=1e-9 * np.abs(sums).max()))
