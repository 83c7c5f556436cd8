"""What tests of every kind share: their order, free ports, and how what they start ends."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

pytest_plugins = ["tests.ahead"]

ORDER = (
    "unit",
    "e2e",
    "integration/train",
    "integration/serving",
    "integration/deploy",
    "integration/benchmarks",
    "integration/rollouts",
    "faults",
)
"""What goes ahead starts and trains while the unit tests run, and those that wait more than they
work stand before each folder that has a system of its own."""

PORTS = range(20_000, 30_000)
"""Below the ephemeral range, so that no outgoing connection takes a port between probe and use."""

MLFLOW_START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 15.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the tests into the order of their folders."""
    folders = [Path(__file__).parent / folder for folder in ORDER]

    def place(item: pytest.Item) -> int:
        return next(n for n, folder in enumerate(folders) if item.path.is_relative_to(folder))

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
