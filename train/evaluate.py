"""How good a model is: on the held-out rows, and by cross-validation on the training rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn import metrics
from sklearn.base import BaseEstimator
from sklearn.model_selection import KFold, StratifiedKFold

from train.data import Matrix, Part
from train.errors import BadSettingsError
from train.estimator import last_step
from train.fit import fit
from train.settings import METRICS, Task, TrainSettings


@dataclass(frozen=True)
class Evaluation:
    """Metrics by name, and the prediction for each row they were measured on."""

    metrics: dict[str, float]
    predictions: NDArray[Any]


def evaluate(
    model: BaseEstimator, features: Matrix, target: NDArray[Any], task: Task
) -> Evaluation:
    """Predict the rows and measure. Metrics that can't be measured (NaN predictions) are NaN.

    Raises BadSettingsError if the estimator can't predict them.
    """
    try:
        return _evaluate(model, features, target, task)
    except Exception as error:  # estimators raise whatever they like
        name = type(last_step(model)).__name__
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadSettingsError(
            f"estimator: {name} was fitted, but can't predict {len(target)} other rows: {reason}"
        ) from error


def _evaluate(
    model: BaseEstimator, features: Matrix, target: NDArray[Any], task: Task
) -> Evaluation:
    predictions = np.asarray(model.predict(features))
    if task == "classification":
        return Evaluation(_classification(model, features, target, predictions), predictions)
    predictions = predictions.astype(np.float64).reshape(len(target))
    if not np.isfinite(predictions).all():
        return Evaluation(dict.fromkeys(METRICS[task], float("nan")), predictions)
    return Evaluation(_regression(target, predictions), predictions)


def cross_validate(settings: TrainSettings, part: Part) -> dict[str, tuple[float, ...]]:
    """Return each metric's value on every fold, computed over the active joblib backend."""
    folds = settings.cross_validation.folds
    splitter = StratifiedKFold if settings.task == "classification" else KFold
    shuffled = splitter(folds, shuffle=True, random_state=settings.seed)
    measured = joblib.Parallel()(
        joblib.delayed(_score_fold)(settings, part, fitted_rows, tested_rows)
        for fitted_rows, tested_rows in shuffled.split(part.features, part.target)
    )
    return {name: tuple(fold[name] for fold in measured) for name in measured[0]}


def _score_fold(
    settings: TrainSettings, part: Part, fitted_rows: NDArray[Any], tested_rows: NDArray[Any]
) -> dict[str, float]:
    fitted = fit(settings, part.features[fitted_rows], part.target[fitted_rows])
    tested = part.features[tested_rows], part.target[tested_rows]
    return evaluate(fitted.model, *tested, settings.task).metrics


def _regression(target: NDArray[Any], predictions: NDArray[Any]) -> dict[str, float]:
    mse = float(metrics.mean_squared_error(target, predictions))
    return {
        "r2": float(metrics.r2_score(target, predictions)),
        "mse": mse,
        "rmse": mse**0.5,
        "mae": float(metrics.mean_absolute_error(target, predictions)),
    }


def _classification(
    model: BaseEstimator, features: Matrix, target: NDArray[Any], predictions: NDArray[Any]
) -> dict[str, float]:
    labels = np.unique(target)
    recall = metrics.recall_score(
        target, predictions, labels=labels, average="macro", zero_division=0
    )
    f1 = metrics.f1_score(target, predictions, average="macro", zero_division=0)
    measured = {
        "accuracy": float(metrics.accuracy_score(target, predictions)),
        "balanced_accuracy": float(recall),
        "f1_macro": float(f1),
    }
    # A label that the model never saw has no probability, and so no log loss.
    if hasattr(model, "predict_proba") and np.isin(labels, model.classes_).all():
        probabilities = model.predict_proba(features)
        loss = metrics.log_loss(target, probabilities, labels=model.classes_)
        measured["log_loss"] = float(loss)
    return measured
