"""What starts before a test needs it, while others leave a processor free.

A system that has started takes a fifth of a processor or more, so none starts long before it is
asked: `BESIDE` says beside which tests each one does. Nothing goes ahead of long tests, which want
no neighbours.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import hanging_server, houses, mlflow_relay, running, stage
from tests.conftest import (
    find_free_port,
    is_needed,
    stop_process_group,
    wait_until_healthy,
)
from tests.faults import conftest as faults
from tests.integration.rollouts.conftest import PAUSE_S
from tests.integration.serving import conftest as serving
from tests.odd_models import Line, Moody
from tests.running import Running
from tests.stage import Stage

BESIDE = {
    "unit/serve_app/openapi/test_openapi.py": ("first_run", "hung_check"),
    "e2e/test_documents.py": ("launched_mlflow", "launched_houses"),
    "integration/serving/test_registry_model.py": ("launched_stage",),
    "integration/rollouts/test_rollout.py": ("launched_system",),
}
"""What starts beside the tests of a module."""

assert all((Path(__file__).parent / module).is_file() for module in BESIDE)


@pytest.fixture(scope="session")
def first_run(
    tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[Running]:
    """`make run` in a clean copy, without var; it may still be training its first model.

    It uses our virtual environment; that it makes one of its own is a test by itself.
    """
    clone = running.copy_project(tmp_path_factory.mktemp("clone") / "project")
    if (Path(sys.prefix) / f".installed-{running.lock_sum()}").exists():
        (clone / ".venv").symlink_to(sys.prefix)
    launched = running.launch(clone, running.environ(free_port), ["make", "run"])
    yield launched
    running.stop(launched)


@pytest.fixture(scope="module", autouse=True)
def _what_comes_soon_goes_ahead(request: pytest.FixtureRequest) -> None:
    """Launch what is needed soon."""
    items = request.session.items
    has_long_ones = any(item.get_closest_marker("system") is not None for item in items)
    for fixture in BESIDE.get(request.path.relative_to(Path(__file__).parent).as_posix(), ()):
        if is_needed(request, fixture) and not has_long_ones:
            request.getfixturevalue(fixture)


@pytest.fixture(scope="session")
def first(first_run: Running) -> Running:
    """The system of the first `make run`. The last test of test_make_run.py ends it."""
    running.await_start(first_run, running.FIRST_START_S)
    return first_run


@dataclass(frozen=True)
class Launched:
    """A server that may still be starting."""

    process: subprocess.Popen[bytes]
    uri: str
    log: Path

    def wait(self) -> None:
        """Return when it answers."""
        wait_until_healthy(self.process, f"{self.uri}/health", self.log)


@pytest.fixture(scope="session")
def launched_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    """A real MLflow server over SQLite; it may still be starting."""
    folder = tmp_path_factory.mktemp("mlflow")
    port = find_free_port()
    log = folder / "server.log"
    command = [sys.executable, "-m", "mlflow", "server"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    yield Launched(process, f"http://127.0.0.1:{port}", log)
    stop_process_group(process)


@pytest.fixture(scope="session")
def mlflow_server(launched_mlflow: Launched) -> str:
    """The URI of a real MLflow server, shared by the whole test run.

    Tests that must not see each other's models use model and experiment names of their own.
    """
    launched_mlflow.wait()
    return launched_mlflow.uri


@pytest.fixture(scope="session")
def hung_check(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[hanging_server.Ended]]:
    """`serve_app check` of a server that hangs; it may still be waiting."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(
            hanging_server.check_a_server_that_hangs, tmp_path_factory.mktemp("cache")
        )


@pytest.fixture(scope="session")
def launched_system(
    tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[Running]:
    """What the tests of faults share; it may still be starting."""
    estimator = Moody(faults.SLOPE, faults.PAUSE_S)
    launched = running.launch(
        *faults.prepare(tmp_path_factory.mktemp("faults"), free_port, estimator)
    )
    yield launched
    if launched.process.poll() is None:
        running.stop(launched)


@pytest.fixture(scope="session")
def launched_stage(
    mlflow_server: str, tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[Stage]:
    """What the tests of rollouts share; it may still be starting."""
    root = tmp_path_factory.mktemp("rollouts") / "project"
    with mlflow_relay.relay(mlflow_server) as relay:
        launched = stage.launch(
            root,
            running.environ(free_port),
            mlflow_server,
            relay,
            "rollouts",
            Line(1.0, PAUSE_S),
            stage.with_rollouts(),
        )
        yield launched
        if launched.service.process.poll() is None:
            running.stop(launched.service)


@pytest.fixture(scope="session")
def houses_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of tests/houses.py."""
    return houses.write(tmp_path_factory.mktemp("houses") / "model")


@pytest.fixture(scope="session")
def launched_houses(
    houses_directory: Path,
    tmp_path_factory: pytest.TempPathFactory,
    free_port: Callable[[], int],
) -> Iterator[Running]:
    """What the tests of serving share; it may still be starting."""
    root = running.copy_project(tmp_path_factory.mktemp("shared") / "project")
    serving.configure(root, houses_directory)
    environ = running.environ(free_port, RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S="1")
    launched = running.launch(root, environ)
    yield launched
    if launched.process.poll() is None:
        running.stop(launched)
