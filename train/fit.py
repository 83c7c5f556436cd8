"""Fitting: at once, or one `partial_fit` an epoch with the loss of each."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import skops.io
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, is_classifier
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.metrics import log_loss, mean_squared_error, zero_one_loss
from sklearn.pipeline import Pipeline

from contract import names
from contract.model_types import untrusted_types
from train.data import Matrix
from train.errors import BadSettingsError
from train.estimator import build, last_step
from train.settings import TrainSettings

BOOSTING = (GradientBoostingClassifier, GradientBoostingRegressor)


@dataclass(frozen=True)
class Fitted:
    """A fitted estimator, the training loss of each epoch (none for some), what it warned of."""

    model: BaseEstimator
    losses: tuple[float, ...]
    warnings: tuple[str, ...]

    @property
    def round_name(self) -> str:
        """Boosting adds a stage at a time; others go through the rows, an epoch at a time."""
        return "stage" if isinstance(last_step(self.model), BOOSTING) else "epoch"


def fit(
    settings: TrainSettings,
    features: Matrix,
    target: NDArray[Any],
    on_epoch: Callable[[int, int], None] = lambda done, total: None,
) -> Fitted:
    """Fit a new estimator on plain arrays, which is what serving predicts on.

    Raises BadSettingsError if the estimator refuses its parameters or the data.
    """
    model = build(settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if settings.estimator.epochs:
                losses = _fit_by_epochs(
                    model, features, target, settings.estimator.epochs, on_epoch
                )
            else:
                model.fit(features, target)
                losses = _own_losses(model)
        except (ValueError, TypeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise BadSettingsError(
                f"estimator: {settings.estimator.path} can't be fitted: {reason}"
            ) from error
    texts = dict.fromkeys(str(w.message).strip().splitlines()[0] for w in caught)
    return Fitted(model=model, losses=losses, warnings=tuple(texts))


def check_trusted(model: BaseEstimator, extra_trusted_types: tuple[str, ...]) -> None:
    """Raise BadSettingsError if serving would refuse to read the model."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / names.MODEL_FILE
        try:
            skops.io.dump(model, file)
            untrusted = untrusted_types(file, extra_trusted_types)
        except Exception as error:  # skops raises whatever the object's state does
            raise BadSettingsError(f"estimator: can't be written by skops: {error}") from error
    if untrusted:
        raise BadSettingsError(
            f"estimator: serving does not trust the types {untrusted}; choose another estimator, "
            "or name them in extra_trusted_types here and in serve_config.yaml"
        )


def _fit_by_epochs(
    model: BaseEstimator,
    features: Matrix,
    target: NDArray[Any],
    epochs: int,
    on_epoch: Callable[[int, int], None],
) -> tuple[float, ...]:
    final = last_step(model)
    if isinstance(model, Pipeline):
        features = model[:-1].fit_transform(features, target)
    first: dict[str, Any] = {"classes": np.unique(target)} if is_classifier(final) else {}
    losses = []
    for epoch in range(epochs):
        final.partial_fit(features, target, **first)
        first = {}
        losses.append(_loss(final, features, target))
        on_epoch(epoch + 1, epochs)
    return tuple(losses)


def _loss(final: BaseEstimator, features: Matrix, target: NDArray[Any]) -> float:
    """Return the mean squared error, or log loss (share of wrong labels without probabilities)."""
    if not is_classifier(final):
        return float(mean_squared_error(target, final.predict(features)))
    if hasattr(final, "predict_proba"):
        return float(log_loss(target, final.predict_proba(features), labels=final.classes_))
    return float(zero_one_loss(target, final.predict(features)))


def _own_losses(model: BaseEstimator) -> tuple[float, ...]:
    """Return the losses that boosting and neural networks record by themselves."""
    final = last_step(model)
    if isinstance(final, BOOSTING):
        return tuple(float(value) for value in final.train_score_)
    return tuple(float(value) for value in getattr(final, "loss_curve_", ()))
