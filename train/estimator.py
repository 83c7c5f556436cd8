"""The estimator that the settings name, unfitted."""

import importlib
import inspect
from typing import Any, cast

from sklearn.base import BaseEstimator, is_classifier, is_regressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from train.errors import BadSettingsError
from train.settings import TrainSettings


def build(settings: TrainSettings) -> BaseEstimator:
    """Return a new, unfitted estimator; with `standardize`, a pipeline with a scaler before it.

    The job's seed becomes its `random_state`, if it takes one and the parameters give none.
    Raises BadSettingsError for a path, a class or a parameter that doesn't exist.
    """
    chosen = settings.estimator
    made = _instantiate(_find_class(chosen.path), chosen.parameters, settings.seed)
    wanted = {"regression": is_regressor, "classification": is_classifier}[settings.task]
    if not wanted(made):
        raise BadSettingsError(f"estimator.path: {chosen.path} is not made for {settings.task}")
    if chosen.epochs and not hasattr(made, "partial_fit"):
        raise BadSettingsError(
            f"estimator.epochs: {chosen.path} has no partial_fit; leave epochs out"
        )
    if chosen.standardize:
        return Pipeline([("scaler", StandardScaler()), ("model", made)])
    return made


def last_step(estimator: BaseEstimator) -> BaseEstimator:
    """Return the estimator itself, or the last step of a pipeline."""
    return cast(BaseEstimator, getattr(estimator, "_final_estimator", estimator))


def _find_class(path: str) -> type[BaseEstimator]:
    module_name, _, class_name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadSettingsError(f"estimator.path: {path!r} can't be imported: {error}") from error
    if not (inspect.isclass(found) and issubclass(found, BaseEstimator)):
        raise BadSettingsError(f"estimator.path: {path!r} is no scikit-learn estimator class")
    return found


def _instantiate(
    estimator_class: type[BaseEstimator], parameters: dict[str, Any], seed: int
) -> BaseEstimator:
    known = set(inspect.signature(estimator_class).parameters)
    seeded = {"random_state": seed} if "random_state" in known else {}
    try:
        return estimator_class(**{**seeded, **parameters})
    except TypeError as error:
        raise BadSettingsError(
            f"estimator.parameters: {error}; {estimator_class.__name__} takes {sorted(known)}"
        ) from error
