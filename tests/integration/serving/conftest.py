"""A client of the shared MLflow server, and a system that modules share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
import yaml
from mlflow import MlflowClient

from tests import running
from tests.running import Running

DEPLOY_S = 120.0

Config = dict[str, Any]
Serve = Callable[..., Running]


@pytest.fixture(scope="module")
def client(mlflow_server: str) -> MlflowClient:
    """A client of the shared server, which MLflow's own functions ask too."""
    mlflow.set_tracking_uri(mlflow_server)
    return MlflowClient(tracking_uri=mlflow_server)


@pytest.fixture(scope="package")
def serve(
    tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[Serve]:
    """Serve a model directory, with another change of serve_config.yaml if that is given.

    One ingress and one worker do. The first call starts a system; each later one, which takes half
    the time, replaces what it serves. So a module calls it once, and keeps what is returned to
    itself.
    """
    root = running.copy_project(tmp_path_factory.mktemp("shared") / "project")
    shipped = (root / "serve_config.yaml").read_text()
    environ = running.environ(free_port, RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S="1")
    started: list[Running] = []

    def serve(directory: Path, change: Callable[[Config], None] | None = None) -> Running:
        def with_model(config: Config) -> None:
            served = {"model_served": "local", "model_dir": str(directory)}
            config["applications"][0]["args"].update(served)
            for one in config["applications"][0]["deployments"]:
                one.get("autoscaling_config", {}).update(min_replicas=1)

        (root / "serve_config.yaml").write_text(shipped)
        for one in (with_model, *([change] if change else [])):
            running.change_config(root, one)
        if started:
            deploy(started[0])
        else:
            started.append(stack.enter_context(running.system(root, environ)))
        return started[0]

    with ExitStack() as stack:
        yield serve


def deploy(service: Running) -> None:
    """Let a system serve what its serve_config.yaml says now, and nothing of what it served."""
    ports = yaml.safe_load((service.root / "var" / "serve_config.yaml").read_text())
    wanted = yaml.safe_load((service.root / "serve_config.yaml").read_text())
    _put(service, {**ports, "applications": []})
    running.wait_for(lambda: not service.applications(), DEPLOY_S)
    _put(service, {**ports, "applications": wanted["applications"]})
    running.wait_for(lambda: service.applications() == {"endeavour": "RUNNING"}, DEPLOY_S)
    running.wait_for(service.is_ready, DEPLOY_S)


def _put(service: Running, config: Config) -> None:
    answer = requests.put(
        f"{service.dashboard}/api/serve/applications/",
        json=config,
        headers={"Authorization": f"Bearer {service.token}"},
        timeout=running.ASK_TIMEOUT_S,
    )
    answer.raise_for_status()
