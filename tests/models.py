"""Models for tests, in directories and in a registry, written by MLflow as training writes them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow.sklearn
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, DataType, Schema
from sklearn.base import BaseEstimator
from sklearn.linear_model import LinearRegression

from contract import model_types, names

ROWS = np.random.default_rng(0).normal(size=(10, 1))


def write(
    directory: Path,
    estimator: BaseEstimator,
    rows: Any,
    names: list[str],
    trusted_types: list[str] | None = None,
) -> Path:
    """Write a fitted estimator in skops format, with signature and input example."""
    example = pd.DataFrame(np.asarray(rows)[:3], columns=pd.Index(names))
    answers = estimator.predict(example.to_numpy())
    return _save(directory, estimator, example, answers, trusted_types)


def write_frame(directory: Path, estimator: BaseEstimator, rows: pd.DataFrame) -> Path:
    """Write an estimator that was fitted on a frame of columns of any kind."""
    example = rows[:3]
    return _save(directory, estimator, example, estimator.predict(example), None)


def _save(
    directory: Path,
    estimator: BaseEstimator,
    example: pd.DataFrame,
    answers: Any,
    trusted_types: list[str] | None,
) -> Path:
    mlflow.sklearn.save_model(
        estimator,
        str(directory),
        serialization_format="skops",
        skops_trusted_types=trusted_types or list(model_types.TRUSTED_TYPES),
        signature=infer_signature(example, answers),
        input_example=example,
        pip_requirements=["scikit-learn"],
    )
    return directory


def register(
    client: MlflowClient, name: str, slope: float, serialization_format: str = "skops"
) -> str:
    """Log and register y = slope x, make it champion, and return its version."""
    mlflow.set_experiment(name)
    with mlflow.start_run() as run:
        mlflow.log_metric("test_r2", slope)
        info = mlflow.sklearn.log_model(
            LinearRegression().fit(ROWS, ROWS[:, 0] * slope),
            name=names.MODEL_ARTIFACT,
            serialization_format=serialization_format,
            signature=ModelSignature(
                Schema([ColSpec(DataType.double, "x")]), Schema([ColSpec(DataType.double)])
            ),
            pip_requirements=["scikit-learn"],
        )
    if not client.search_registered_models(filter_string=f"name='{name}'"):
        client.create_registered_model(name)
    version = client.create_model_version(
        name, info.model_uri, run_id=run.info.run_id, model_id=info.model_id
    ).version
    client.set_registered_model_alias(name, names.CHAMPION, version)
    return str(version)


def register_directory(
    client: MlflowClient,
    name: str,
    directory: Path,
    tags: dict[str, str] | None = None,
    prepare: Callable[[Path, str], None] = lambda directory, run_id: None,
) -> str:
    """Register a model directory as `prepare` leaves it, without an alias; return its version."""
    mlflow.set_experiment(name)
    with mlflow.start_run() as run:
        prepare(directory, run.info.run_id)
        mlflow.log_artifacts(str(directory), names.MODEL_ARTIFACT)
    if not client.search_registered_models(filter_string=f"name='{name}'"):
        client.create_registered_model(name)
    source = f"{run.info.artifact_uri}/{names.MODEL_ARTIFACT}"
    found = client.create_model_version(name, source, run_id=run.info.run_id, tags=tags or {})
    return str(found.version)
