"""The champion, asked to predict the candidate's held-out rows."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import skops.io
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, is_classifier

from contract import names
from contract.model_types import TRUSTED_TYPES, untrusted_types
from contract.registry import NOT_FOUND, Registry
from train.data import Dataset, numbers
from train.errors import BadDataError
from train.gate import Champion
from train.settings import TrainSettings


class _ObstacleError(Exception):
    """Why the champion can't predict these rows."""


def predict(
    registry: Registry, version: str, settings: TrainSettings, dataset: Dataset
) -> Champion:
    """Load a version from the registry, reading no pickle and no foreign types, and predict.

    The champion may use other columns than the candidate, if the source has them, but must have
    been trained for the same target, as far as its run says so.
    """
    target = _target(registry, version)
    if target not in (None, dataset.target_name):
        return Champion(
            version,
            None,
            obstacle=f"it predicts {target!r}, and this model {dataset.target_name!r}; "
            "use another model_name",
        )
    with tempfile.TemporaryDirectory() as folder:
        path = mlflow.artifacts.download_artifacts(
            f"models:/{settings.model_name}/{version}", dst_path=folder
        )
        try:
            predictions = _predict(Path(path), settings, dataset)
        except _ObstacleError as error:
            return Champion(version, None, obstacle=str(error))
    return Champion(version, predictions)


def _target(registry: Registry, version: str) -> str | None:
    """Return what a version was trained to predict; None if no run of a training job says it."""
    run_id = registry.get(version).run_id
    if not run_id:
        return None
    try:
        target = registry.client.get_run(run_id).data.params.get("data.target")
    except MlflowException as error:
        if error.error_code not in NOT_FOUND:
            raise
        return None
    return target


def _predict(path: Path, settings: TrainSettings, dataset: Dataset) -> NDArray[Any]:
    model = _load(path / names.MODEL_FILE, settings.extra_trusted_types)
    if is_classifier(model) != (settings.task == "classification"):
        raise _ObstacleError(f"it is no model for {settings.task}; use another model_name")
    features = _features(path, dataset)
    try:
        predictions = np.asarray(model.predict(features))
    except Exception as error:  # any estimator, any error: it can't predict
        raise _ObstacleError(f"it fails on these rows: {error}") from error
    if predictions.dtype.kind != dataset.test.target.dtype.kind:
        raise _ObstacleError("its labels are of another type; use another model_name")
    return predictions


def _load(file: Path, extra_trusted_types: tuple[str, ...]) -> BaseEstimator:
    if not file.is_file():
        raise _ObstacleError(f"it has no {names.MODEL_FILE}, and nothing else is read")
    try:
        if untrusted := untrusted_types(file, extra_trusted_types):
            raise _ObstacleError(f"it holds types that are not trusted: {untrusted}")
        return skops.io.load(file, trusted=[*TRUSTED_TYPES, *extra_trusted_types])
    except _ObstacleError:
        raise
    except Exception as error:  # a damaged file may raise anything
        raise _ObstacleError(f"its {names.MODEL_FILE} can't be read: {error}") from error


def _features(path: Path, dataset: Dataset) -> NDArray[np.float64]:
    schema = Model.load(str(path)).get_input_schema()  # type: ignore[no-untyped-call]
    if schema is None or not schema.has_input_names():
        raise _ObstacleError("its signature does not name its features")
    columns = tuple(str(name) for name in schema.input_names())
    if missing := [name for name in columns if name not in dataset.frame.columns]:
        raise _ObstacleError(
            f"it needs the columns {missing}, which the source does not have; "
            "add them, or use another model_name"
        )
    try:
        return numbers(dataset.frame.iloc[dataset.test.rows], columns)
    except BadDataError as error:
        raise _ObstacleError(f"its features have a gap: {error}") from error
