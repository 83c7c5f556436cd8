"""Model directories for tests, written by MLflow as training writes them."""

from pathlib import Path
from typing import Any

import mlflow.sklearn
import numpy as np
import pandas as pd
from mlflow.models import infer_signature
from sklearn.base import BaseEstimator

from contract import model_types


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
