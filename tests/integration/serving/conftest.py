"""A client of the shared MLflow server."""

from __future__ import annotations

import mlflow
import pytest
from mlflow import MlflowClient


@pytest.fixture(scope="module")
def client(mlflow_server: str) -> MlflowClient:
    """A client of the shared server, which MLflow's own functions ask too."""
    mlflow.set_tracking_uri(mlflow_server)
    return MlflowClient(tracking_uri=mlflow_server)
