"""How serving starts: what can't be served ends the start in time, and plain `serve run` works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from sklearn.linear_model import LinearRegression

from tests import hanging_server, models, running, signed_models
from tests.running import Running

READY_S = 120.0
SLOPE = 2.0
ENDED_S = 60.0
"""Within which a start that can't work has ended. 30 s are promised; others may use the machine."""


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"MODEL_NAME": "never-registered"}, 2, "no version of 'never-registered'"),
        ({"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}, 4, "no MLflow server answers"),
        pytest.param(
            {"MLFLOW_TRACKING_URI": "http://192.0.2.1:5000"},
            4,
            "no MLflow server answers",
            marks=pytest.mark.system,
        ),
        ({"MODEL_SERVED": "s3"}, 2, "model_served"),
    ],
)
def test_what_cannot_be_served_fails_the_start_with_one_line_in_time(
    mlflow_server: str,
    tmp_path: Path,
    free_port: Callable[[], int],
    changes: dict[str, str],
    code: int,
    says: str,
) -> None:
    """In time, with the way out, and with nothing left behind."""
    root = running.copy_project(tmp_path / "project")
    environ = running.environ(free_port, **{"MLFLOW_TRACKING_URI": mlflow_server, **changes})
    began = time.monotonic()
    completed = subprocess.run(
        [sys.executable, "-m", "launcher", "run"],
        cwd=root,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert completed.returncode == code
    assert says in completed.stderr
    assert len(completed.stderr.strip().splitlines()) == 1
    assert time.monotonic() - began < ENDED_S
    assert not (root / "var" / "run.json").exists()


def nothing(directory: Path) -> None:
    """Leave a directory without a model."""


def a_model_that_links_out(directory: Path) -> None:
    """Put a model there whose file is somewhere else."""
    rows = np.arange(3.0)[:, np.newaxis]
    estimator = LinearRegression().fit(rows, rows[:, 0])
    signed_models.link_out(models.write(directory, estimator, rows, ["x"]))


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (nothing, r"model holds no model: .*make export"),
        pytest.param(
            a_model_that_links_out,
            r"a link that leads out of the model's directory",
            marks=pytest.mark.system,
        ),
    ],
)
def test_a_model_directory_that_cannot_be_served_is_named(
    tmp_path: Path, free_port: Callable[[], int], made: Callable[[Path], None], why: str
) -> None:
    """The start fails in time with one clear line, and leaves nothing."""
    made(tmp_path / "model")
    root = running.copy_project(tmp_path / "project")
    environ = running.environ(free_port, MODEL_SERVED="local", MODEL_DIR=str(tmp_path / "model"))
    began = time.monotonic()
    with (
        pytest.raises(RuntimeError, match=rf"ended with 2(?s:.*){why}"),
        running.system(root, environ),
    ):
        pass
    assert time.monotonic() - began < ENDED_S
    assert not (root / "var" / "run.json").exists()


@pytest.mark.system
@pytest.mark.timeout(200)
def test_plain_serve_run_works_without_launcher_and_environment(
    mlflow_server: str, client: MlflowClient, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """`serve run serve_config.yaml` answers, and says that it is the slower way."""
    models.register(client, "plain", SLOPE)
    root = running.copy_project(tmp_path / "project")
    environ = running.environ(
        free_port,
        MLFLOW_TRACKING_URI=mlflow_server,
        MODEL_NAME="plain",
        MODEL_CACHE_DIR=str(tmp_path / "cache"),
        HOME=str(tmp_path),
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    )
    with serve_run(root, environ) as service:
        assert service.post("/stream", {"X": 1.5}).json()["result"] == pytest.approx(SLOPE * 1.5)
        assert "slower path" in service.output()


@contextmanager
def serve_run(root: Path, environ: Mapping[str, str]) -> Iterator[Running]:
    """`serve run serve_config.yaml` in a copy of the project, until the block ends."""
    port = int(environ["PORT"])
    running.change_config(root, lambda config: config["http_options"].update(port=port))
    with running.ray_folder() as folder:
        service = running.launch(
            root,
            {**environ, "RAY_TMPDIR": str(folder), "TMPDIR": str(folder)},
            ["serve", "run", "serve_config.yaml"],
        )
        try:
            running.wait_for(service.is_ready, READY_S)
            yield service
        finally:
            running.end_tree(service.process.pid)
            service.process.wait()


@pytest.mark.system
def test_a_champion_that_may_not_be_loaded_fails_the_deployment_with_one_line(
    mlflow_server: str, client: MlflowClient, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """Serve's own traceback stays in its log; people get the reason, and nothing is left."""
    models.register(client, "pickled", 2.0, serialization_format="cloudpickle")
    root = running.copy_project(tmp_path / "project")
    environ = running.environ(free_port, MLFLOW_TRACKING_URI=mlflow_server, MODEL_NAME="pickled")
    with (
        pytest.raises(RuntimeError, match=r"not deployed: only the scikit-learn flavor in skops"),
        running.system(root, environ),
    ):
        pass
    assert not (root / "var" / "run.json").exists()


@pytest.mark.system
@pytest.mark.timeout(900)
def test_a_system_whose_champion_is_named_no_more_starts_again(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """With what it served last; and where that is lost too, by the command that it names."""
    root = running.copy_project(tmp_path / "project")
    environ = running.environ(free_port)
    with running.system(root, environ) as service:
        remove_alias(service)
        service.interrupt()
    with running.system(root, environ) as service:
        assert "starting with what was served here last" in service.output()
        assert facts(service)["is_from_cache"] is True
        promote = ["launcher", "train", "promote", "--version", "1", "--reason", "it is good"]
        subprocess.run([sys.executable, "-m", *promote], cwd=root, env=environ, check=True)
        running.wait_for(lambda: facts(service)["is_from_cache"] is False, 30)
        remove_alias(service)
        service.interrupt()
    shutil.rmtree(root / "var" / "cache")
    with (
        pytest.raises(RuntimeError, match="ended with 2") as refused,
        running.system(root, environ),
    ):
        pass
    [command] = re.findall(r"name one by `(.*)`, and start again", str(refused.value))
    command = command.replace("--version N", "--version 1")
    subprocess.run(["/bin/sh", "-c", command], cwd=root, env=environ, check=True, timeout=READY_S)
    with running.system(root, environ) as service:
        assert facts(service)["is_from_cache"] is False
        service.interrupt()


def facts(service: Running) -> dict[str, Any]:
    """What a service says of its champion."""
    found: dict[str, Any] = service.get("/model").json()
    return found


def remove_alias(service: Running) -> None:
    """Do what the button on MLflow's page does."""
    client = MlflowClient(tracking_uri=service.mlflow_uri)
    client.delete_registered_model_alias("diabetes", "champion")


def test_a_server_that_is_well_but_hangs_is_given_up_after_25_s(
    hung_check: Future[hanging_server.Ended],
) -> None:
    """`serve_app check` ends with 4; on a busy machine its process takes some seconds to end."""
    completed, took_s = hung_check.result(90)
    assert completed.returncode == 4
    assert "not done after 25 s" in completed.stderr
    assert 20 < took_s < 40
