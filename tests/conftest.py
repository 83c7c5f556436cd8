"""What tests of every kind share: free ports, processes that end, and a real MLflow server."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

PORTS = range(20_000, 30_000)
"""Below the ephemeral range, so that no outgoing connection takes a port between probe and use."""

MLFLOW_START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 15.0


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
    """A function that names a port on which nothing listens."""
    return find_free_port


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of a real MLflow server over SQLite, shared by the whole test run.

    Tests that must not see each other's models use model and experiment names of their own.
    """
    folder = tmp_path_factory.mktemp("mlflow")
    port = find_free_port()
    uri = f"http://127.0.0.1:{port}"
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
    try:
        wait_until_healthy(process, f"{uri}/health", log)
        yield uri
    finally:
        stop_process_group(process)
