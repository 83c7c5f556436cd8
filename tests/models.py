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
    mlflow.sklearn.save_model(
        estimator,
        str(directory),
        serialization_format="skops",
        skops_trusted_types=trusted_types or list(model_types.TRUSTED_TYPES),
        signature=infer_signature(example, estimator.predict(example.to_numpy())),
        input_example=example,
        pip_requirements=["scikit-learn"],
    )
    return directory
