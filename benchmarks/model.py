"""The models that are served, as MLflow model directories in skops format."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.datasets import load_diabetes
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import LinearRegression

from contract import model_types

LINEAR: Final = "linear"
BOOSTING: Final = "boosting"
_HELD_OUT: Final = 20
_BMI: Final = "bmi"


@dataclass(frozen=True)
class Model:
    """A model directory, and what its answers must be."""

    directory: Path
    columns: tuple[str, ...]
    records: npt.NDArray[np.float64]
    """The data set's own records, shape (442, columns)."""
    estimator: BaseEstimator

    def rows(self, count: int) -> npt.NDArray[np.float64]:
        """Return `count` records, shape (count, columns), the data set over and over."""
        return np.resize(self.records, (count, len(self.columns)))

    def expected(self, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the right answers, shape (rows,)."""
        values: npt.NDArray[np.float64] = self.estimator.predict(rows)
        return values


def write(kind: str, directory: Path) -> Model:
    """Fit the linear model on `bmi`, or the tree ensemble on all ten columns, and write it."""
    data = load_diabetes(as_frame=True)
    columns = (_BMI,) if kind == LINEAR else tuple(data.feature_names)
    records = data.data.loc[:, list(columns)].to_numpy(dtype=np.float64)
    estimator = LinearRegression() if kind == LINEAR else GradientBoostingRegressor(random_state=0)
    estimator.fit(records[:-_HELD_OUT], data.target.to_numpy()[:-_HELD_OUT])
    _save(estimator, directory, records, columns)
    return Model(directory, columns, records, estimator)


def _save(
    estimator: BaseEstimator,
    directory: Path,
    records: npt.NDArray[np.float64],
    columns: tuple[str, ...],
) -> None:
    # Importing MLflow takes seconds: only who writes a model waits for it.
    import mlflow.sklearn  # noqa: PLC0415
    from mlflow.models import infer_signature  # noqa: PLC0415

    shutil.rmtree(directory, ignore_errors=True)
    example = pd.DataFrame(records[:3], columns=pd.Index(columns))
    mlflow.sklearn.save_model(
        estimator,
        str(directory),
        serialization_format="skops",
        skops_trusted_types=list(model_types.TRUSTED_TYPES),
        signature=infer_signature(example, estimator.predict(example.to_numpy())),
        input_example=example,
        pip_requirements=["scikit-learn"],
    )
