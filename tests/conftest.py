"""What tests of every kind share: their order, free ports, and servers."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests import running
from tests.e2e import container
from tests.e2e.container import Image
from tests.running import Running

ORDER = ("unit", "integration/train", "e2e")
"""The folders that come first, so that `first_run` starts and trains while quick tests run."""

PORTS = range(20_000, 30_000)
"""Below the ephemeral range, so that no outgoing connection takes a port between probe and use."""

MLFLOW_START_TIMEOUT_S = 90.0
FIRST_START_S = 600.0
IMAGE_BUILD_S = 240.0
STOP_TIMEOUT_S = 15.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the tests into the order of their folders."""
    folders = [Path(__file__).parent / folder for folder in ORDER]

    def place(item: pytest.Item) -> int:
        places = (n for n, folder in enumerate(folders) if item.path.is_relative_to(folder))
        return next(places, len(folders))

    items.sort(key=place)


def is_needed(request: pytest.FixtureRequest, fixture: str) -> bool:
    """Whether a test of this run takes a fixture."""
    return any(fixture in getattr(item, "fixturenames", ()) for item in request.session.items)


def find_free_port() -> int:
    """Return a port on which nothing listens, chosen at random so that two copies rarely meet."""
    for port in random.sample(PORTS, 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free port in {PORTS}")


def stop_process_group(process: subprocess.Popen[bytes]) -> None:
    """End a process started in a session of its own, and all its children."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            continue
    process.wait(STOP_TIMEOUT_S)


def wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Return when `url` answers 200; raise with the log's end if that takes too long."""
    deadline = time.monotonic() + MLFLOW_START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(url, timeout=2).ok:
                return
        except requests.RequestException:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"{url} did not answer:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A function that names a port on which nothing listens, each once in a run."""
    named: set[int] = set()

    def find() -> int:
        while (port := find_free_port()) in named:
            pass
        named.add(port)
        return port

    return find


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


@pytest.fixture(scope="session", autouse=True)
def _the_slow_ones_go_ahead(request: pytest.FixtureRequest) -> None:
    """Let them start, train and build while the unit tests leave a processor free."""
    for needed, slow in (
        ("mlflow_server", "launched_mlflow"),
        ("first", "first_run"),
        ("image", "image_build"),
    ):
        if is_needed(request, needed):
            request.getfixturevalue(slow)


@pytest.fixture(scope="session")
def first(first_run: Running) -> Running:
    """The system of the first `make run`. The last test of test_make_run.py ends it."""
    running.await_start(first_run, FIRST_START_S)
    return first_run


@pytest.fixture(scope="session")
def image_build(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[Image]]:
    """What the Dockerfile makes; it may still be training."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(container.build_image, tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="session")
def image(image_build: Future[Image]) -> Image:
    """What the Dockerfile makes."""
    return image_build.result(IMAGE_BUILD_S)


@dataclass(frozen=True)
class Launched:
    """A server that may still be starting."""

    process: subprocess.Popen[bytes]
    uri: str
    log: Path


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
    one = launched_mlflow
    wait_until_healthy(one.process, f"{one.uri}/health", one.log)
    return one.uri
