"""What a fitted model learned, as numbers that can be checked by hand."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from train.estimator import last_step


def describe(model: BaseEstimator, feature_names: tuple[str, ...]) -> dict[str, Any]:
    """Return the weights as plain JSON values.

    A linear model has `coef` and `intercept` as fitted, and `slope` and `intercept` under
    `own_units`, with the scaler worked in: prediction = intercept + sum of slope x feature.
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
        described |= _linear(final, scaler, feature_names)
    if hasattr(final, "feature_importances_"):
        importances = final.feature_importances_.tolist()
        described["feature_importances"] = dict(zip(feature_names, importances, strict=True))
    return described


def _scaler(model: BaseEstimator) -> StandardScaler | None:
    first = model.steps[0][1] if isinstance(model, Pipeline) else None
    return first if isinstance(first, StandardScaler) else None


def _linear(
    final: BaseEstimator, scaler: StandardScaler | None, feature_names: tuple[str, ...]
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
    return {
        "coef": np.asarray(final.coef_).tolist(),
        "intercept": np.asarray(final.intercept_).tolist(),
        # One equation in regression and between two classes, one a class otherwise.
        "own_units": own[0] if len(own) == 1 else own,
    }
