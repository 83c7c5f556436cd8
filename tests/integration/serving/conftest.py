"""A client of the shared MLflow server, and a system that modules share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from mlflow import MlflowClient

from tests import customers, models, running
from tests.running import Running

DEPLOY_S = 120.0

Config = dict[str, Any]
Change = Callable[[Config], None]
Serve = Callable[..., Running]


@pytest.fixture(scope="module")
def client(mlflow_server: str) -> MlflowClient:
    """A client of the shared server, which MLflow's own functions ask too."""
    mlflow.set_tracking_uri(mlflow_server)
    return MlflowClient(tracking_uri=mlflow_server)


@pytest.fixture(scope="package")
def customers_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of tests/customers.py."""
    directory = tmp_path_factory.mktemp("customers") / "model"
    return models.write_frame(directory, customers.estimator(), customers.frame(3))


@pytest.fixture(scope="package")
def serve(launched_houses: Running, houses_directory: Path) -> Iterator[Serve]:
    """Serve a model directory, with another change of serve_config.yaml if that is given.

    There is one system, with one ingress and one worker, which is replaced by each call; at first
    it serves the houses. So a module calls it once, and keeps what is returned to itself.
    """
    served: list[tuple[Path, Change | None]] = [(houses_directory, None)]

    def serve(directory: Path, change: Change | None = None) -> Running:
        if served[-1] != (directory, change):
            configure(service.root, directory, change)
            deploy(service)
            served.append((directory, change))
        return service

    with running.up(launched_houses) as service:
        yield serve


def configure(root: Path, directory: Path, change: Change | None = None) -> None:
    """Let a copy's serve_config.yaml serve a model directory, and differ by nothing else."""

    def with_model(config: Config) -> None:
        served = {"model_served": "local", "model_dir": str(directory)}
        config["applications"][0]["args"].update(served)
        for one in config["applications"][0]["deployments"]:
            one.get("autoscaling_config", {}).update(min_replicas=1)

    (root / "serve_config.yaml").write_text((running.ROOT / "serve_config.yaml").read_text())
    for one in (with_model, *([change] if change else [])):
        running.change_config(root, one)


def deploy(service: Running) -> None:
    """Let a system serve what its serve_config.yaml says now, and nothing of what it served."""
    ports = yaml.safe_load((service.root / "var" / "serve_config.yaml").read_text())
    wanted = yaml.safe_load((service.root / "serve_config.yaml").read_text())
    service.apply({**ports, "applications": []})
    running.wait_for(lambda: not service.applications(), DEPLOY_S)
    service.apply({**ports, "applications": wanted["applications"]})
    running.wait_for(lambda: service.applications() == {"endeavour": "RUNNING"}, DEPLOY_S)
    running.wait_for(service.is_ready, DEPLOY_S)
