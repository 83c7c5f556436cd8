"""The registry's champion, when it is there and when it isn't."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from sklearn.linear_model import LinearRegression

from contract import names
from serve_app import registry
from serve_app.model_errors import ModelError, NoSuchModelError
from serve_app.settings import Settings
from tests import running

ROWS = np.random.default_rng(0).normal(size=(10, 1))


@pytest.fixture
def client(mlflow_server: str) -> MlflowClient:
    """A client of the shared server."""
    mlflow.set_tracking_uri(mlflow_server)
    return MlflowClient(tracking_uri=mlflow_server)


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


def settings(mlflow_server: str, cache: Path, name: str) -> Settings:
    """Settings that serve a champion."""
    return Settings(model_name=name, mlflow_tracking_uri=mlflow_server, cache_dir=cache)


def test_the_alias_is_resolved_to_an_exact_version_once(
    mlflow_server: str, client: MlflowClient, tmp_path: Path
) -> None:
    """What was resolved stays what it was when the alias moves on."""
    chosen = settings(mlflow_server, tmp_path / "cache", "resolve-once")
    register(client, "resolve-once", 2.0)
    first = registry.resolve(chosen)
    register(client, "resolve-once", 3.0)
    assert (first.version, first.metrics["test_r2"]) == ("1", 2.0)
    model = registry.load(first, chosen)
    np.testing.assert_allclose(model.predict(np.array([[1.0]])).values, [2.0])
    assert registry.resolve(chosen).version == "2"


def test_a_node_without_a_copy_fetches_the_exact_version(
    mlflow_server: str, client: MlflowClient, tmp_path: Path
) -> None:
    """A replica on another node loads what the builder chose, not what the alias says now."""
    register(client, "other-node", 2.0)
    version = registry.resolve(settings(mlflow_server, tmp_path / "one", "other-node"))
    register(client, "other-node", 3.0)
    model = registry.load(version, settings(mlflow_server, tmp_path / "two", "other-node"))
    np.testing.assert_allclose(model.predict(np.array([[1.0]])).values, [2.0])


def test_a_cached_version_needs_no_server(
    mlflow_server: str, client: MlflowClient, tmp_path: Path
) -> None:
    """Loading what is there asks nobody."""
    register(client, "cached", 2.0)
    version = registry.resolve(settings(mlflow_server, tmp_path, "cached"))
    registry.load(version, settings("http://127.0.0.1:9", tmp_path, "cached"))


def test_a_copy_that_was_changed_is_fetched_again(
    mlflow_server: str, client: MlflowClient, tmp_path: Path
) -> None:
    """By whoever resolves, loads or exports next."""
    register(client, "damaged", 2.0)
    chosen = settings(mlflow_server, tmp_path / "cache", "damaged")
    version = registry.resolve(chosen)
    copy = tmp_path / "cache" / "files" / version.digest

    (copy / "MLmodel").write_text("changed")
    assert registry.resolve(chosen) == version
    (copy / "MLmodel").write_text("changed")
    np.testing.assert_allclose(
        registry.load(version, chosen).predict(np.array([[1.0]])).values, [2.0]
    )
    (copy / "MLmodel").write_text("changed")
    registry.export(chosen, tmp_path / "model")
    assert registry.resolve(
        Settings(model_served="local", model_dir=tmp_path / "model")
    ).digest == (version.digest)


class Hanging(http.server.BaseHTTPRequestHandler):
    """Says that it is well, and answers nothing else."""

    def do_GET(self) -> None:
        """Answer `/health`; let everything else wait until the server ends."""
        if self.path == "/health":
            self.send_response(200)
            self.end_headers()
        elif isinstance(self.server, HangingServer):
            self.server.ended.wait(60)

    do_POST = do_GET  # noqa: N815


class HangingServer(http.server.ThreadingHTTPServer):
    """A server that hangs until it is ended."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Hanging)
        self.ended = threading.Event()


@pytest.mark.system
def test_a_server_that_is_well_but_hangs_is_out_of_reach_within_30_s(tmp_path: Path) -> None:
    """`serve_app check` ends with 4."""
    with HangingServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        began = time.monotonic()
        completed = subprocess.run(
            [sys.executable, "-m", "serve_app", "check"],
            cwd=running.ROOT,
            env={
                **os.environ,
                "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{server.server_port}",
                "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
                "MODEL_CACHE_DIR": str(tmp_path),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        took_s = time.monotonic() - began
        server.ended.set()
        server.shutdown()
    assert completed.returncode == 4
    assert "not done after 25 s" in completed.stderr
    assert took_s < 35  # 25 s, and the start of a process on a busy machine


def test_an_export_serves_the_same_model_as_the_registry(
    mlflow_server: str, client: MlflowClient, tmp_path: Path
) -> None:
    """The directory carries version, digest and metrics; a second export replaces it."""
    register(client, "exported", 2.0)
    chosen = settings(mlflow_server, tmp_path / "cache", "exported")
    directory = tmp_path / "out" / "model"
    registry.export(chosen, directory)
    register(client, "exported", 3.0)
    exported = registry.export(chosen, directory)
    local = registry.resolve(Settings(model_served="local", model_dir=directory))
    assert (local.version, local.digest) == ("2", exported.digest)
    assert local.metrics == exported.metrics
    assert [entry.name for entry in directory.parent.iterdir()] == ["model"]


def test_an_export_never_replaces_what_is_no_model(
    mlflow_server: str, client: MlflowClient, tmp_path: Path
) -> None:
    """A folder with other files is left alone."""
    register(client, "careful", 2.0)
    (tmp_path / "precious").write_text("x")
    with pytest.raises(ModelError, match="not empty"):
        registry.export(settings(mlflow_server, tmp_path / "cache", "careful"), tmp_path)
    assert (tmp_path / "precious").read_text() == "x"


def test_no_champion_says_how_to_get_one(mlflow_server: str, tmp_path: Path) -> None:
    """Neither an unknown model nor one without the alias is a crash."""
    with pytest.raises(NoSuchModelError, match="make train"):
        registry.resolve(settings(mlflow_server, tmp_path, "never-registered"))


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"MODEL_NAME": "never-registered"}, 2, "no version of 'never-registered'"),
        ({"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}, 4, "no MLflow server answers"),
        ({"MLFLOW_TRACKING_URI": "http://192.0.2.1:5000"}, 4, "no MLflow server answers"),
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
    """Within 30 s, with the way out, and with nothing left behind."""
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
        timeout=60,
    )
    assert completed.returncode == code
    assert says in completed.stderr
    assert len(completed.stderr.strip().splitlines()) == 1
    assert time.monotonic() - began < 30
    assert not (root / "var" / "run.json").exists()


@pytest.mark.system
@pytest.mark.timeout(200)
def test_a_champion_that_may_not_be_loaded_fails_the_deployment_with_one_line(
    mlflow_server: str, client: MlflowClient, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """Serve's own traceback stays in its log; people get the reason, and nothing is left."""
    register(client, "pickled", 2.0, serialization_format="cloudpickle")
    root = running.copy_project(tmp_path / "project")
    environ = running.environ(free_port, MLFLOW_TRACKING_URI=mlflow_server, MODEL_NAME="pickled")
    with pytest.raises(RuntimeError, match=r"not deployed: only the scikit-learn flavor in skops"):
        running.start(root, environ)
    assert not (root / "var" / "run.json").exists()


@pytest.mark.system
@pytest.mark.timeout(200)
def test_plain_serve_run_works_without_launcher_and_environment(
    mlflow_server: str, client: MlflowClient, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """`serve run serve_config.yaml` answers, and says that it is the slower way."""
    register(client, "plain", 2.0)
    root = running.copy_project(tmp_path / "project")
    environ = running.environ(
        free_port,
        MLFLOW_TRACKING_URI=mlflow_server,
        MODEL_NAME="plain",
        MODEL_CACHE_DIR=str(tmp_path / "cache"),
        HOME=str(tmp_path),
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    )
    port = int(environ["PORT"])
    running.change_config(root, lambda config: config["http_options"].update(port=port))
    log = tmp_path / "serve.log"
    with running.ray_folder() as folder, log.open("wb") as output:
        process = subprocess.Popen(
            ["serve", "run", "serve_config.yaml"],
            cwd=root,
            env={**environ, "RAY_TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        service = running.Running(root, process, log, environ)
        try:
            running.wait_for(service.is_ready, 120)
            assert service.post("/stream", {"X": 1.5}).json()["result"] == pytest.approx(3.0)
            assert "slower path" in log.read_text()
        finally:
            running.end_tree(process)
