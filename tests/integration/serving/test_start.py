"""How serving starts: what can't be served ends the start in time, and plain `serve run` works."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests import running
from tests.conftest import is_needed
from tests.models import register
from tests.running import Running

Ended = tuple[subprocess.CompletedProcess[str], float]
"""A command that has ended, and the seconds since it had first asked the server."""


class Hanging(http.server.BaseHTTPRequestHandler):
    """Says that it is well, and answers nothing else."""

    def do_GET(self) -> None:
        """Answer `/health`; let everything else wait until the server ends."""
        assert isinstance(self.server, HangingServer)
        self.server.asked_at.append(time.monotonic())
        if self.path == "/health":
            self.send_response(200)
            self.end_headers()
        else:
            self.server.ended.wait(60)

    do_POST = do_GET  # noqa: N815


class HangingServer(http.server.ThreadingHTTPServer):
    """A server that hangs until it is ended."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Hanging)
        self.ended = threading.Event()
        self.asked_at: list[float] = []


@pytest.fixture(scope="module")
def hung_check(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[Ended]]:
    """`serve_app check` of a server that hangs; it may still be waiting."""
    cache = tmp_path_factory.mktemp("cache")

    def check() -> Ended:
        completed = subprocess.run(
            [sys.executable, "-m", "serve_app", "check"],
            cwd=running.ROOT,
            env={
                **os.environ,
                "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{server.server_port}",
                "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
                "MODEL_CACHE_DIR": str(cache),
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return completed, time.monotonic() - server.asked_at[0]

    with HangingServer() as server, ThreadPoolExecutor(1) as pool:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield pool.submit(check)
        server.ended.set()
        server.shutdown()


@pytest.fixture(scope="module")
def unloadable(
    mlflow_server: str,
    client: MlflowClient,
    tmp_path_factory: pytest.TempPathFactory,
    free_port: Callable[[], int],
) -> Iterator[Running]:
    """A start with a champion that may not be loaded; it may still be under way."""
    register(client, "pickled", 2.0, serialization_format="cloudpickle")
    root = running.copy_project(tmp_path_factory.mktemp("unloadable") / "project")
    environ = running.environ(free_port, MLFLOW_TRACKING_URI=mlflow_server, MODEL_NAME="pickled")
    launched = running.launch(root, environ)
    yield launched
    running.stop(launched)


@pytest.fixture(scope="module", autouse=True)
def _the_slow_ones_go_ahead(request: pytest.FixtureRequest) -> None:
    """Let them wait and start while the other tests run; each takes half a minute."""
    for name in ("hung_check", "unloadable"):
        if is_needed(request, name):
            request.getfixturevalue(name)


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


def test_the_model_directory_is_named_if_it_is_missing(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """The start fails within 30 s with one clear line, and leaves nothing."""
    root = running.copy_project(tmp_path / "project")
    environ = running.environ(free_port, MODEL_SERVED="local", MODEL_DIR=str(tmp_path / "none"))
    began = time.monotonic()
    with (
        pytest.raises(RuntimeError, match=r"ended with 2(?s:.*)none holds no model: .*make export"),
        running.system(root, environ),
    ):
        pass
    assert time.monotonic() - began < 30
    assert not (root / "var" / "run.json").exists()


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
            env={**environ, "RAY_TMPDIR": str(folder), "TMPDIR": str(folder)},
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
            running.end_tree(process.pid)
            process.wait()


def test_a_champion_that_may_not_be_loaded_fails_the_deployment_with_one_line(
    unloadable: Running,
) -> None:
    """Serve's own traceback stays in its log; people get the reason, and nothing is left."""
    with pytest.raises(RuntimeError, match=r"not deployed: only the scikit-learn flavor in skops"):
        running.await_start(unloadable)
    assert not (unloadable.root / "var" / "run.json").exists()


def test_a_server_that_is_well_but_hangs_is_out_of_reach_within_30_s(
    hung_check: Future[Ended],
) -> None:
    """`serve_app check` ends with 4."""
    completed, took_s = hung_check.result(70)
    assert completed.returncode == 4
    assert "not done after 25 s" in completed.stderr
    assert 20 < took_s < 30
