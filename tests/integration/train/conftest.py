"""A Ray head of our own, and training jobs run as people run them."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from contract import signing
from tests import signed_models
from tests.conftest import is_needed
from tests.integration.train.registry import only_run
from tests.signed_models import Keys

ROOT = Path(__file__).parents[3]
RAY_START_TIMEOUT_S = 90.0
JOB_TIMEOUT_S = 240.0

RAY_PORTS = (
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "metrics-export-port",
    "ray-client-server-port",
    "runtime-env-agent-port",
)

Train = Callable[..., subprocess.CompletedProcess[str]]
WriteConfig = Callable[..., Path]


@pytest.fixture(scope="session")
def mlflow_client(mlflow_server: str) -> MlflowClient:
    """A client of the shared MLflow server, which MLflow's own functions ask too."""
    mlflow.set_tracking_uri(mlflow_server)
    mlflow.set_registry_uri(mlflow_server)
    return MlflowClient(tracking_uri=mlflow_server, registry_uri=mlflow_server)


@dataclass(frozen=True)
class Head:
    """A Ray head that may still be starting; its environment names it once its process runs."""

    environment: dict[str, str]
    log: Path
    process: Future[subprocess.Popen[bytes] | None]


@pytest.fixture(scope="package")
def ray_head(free_port: Callable[[], int]) -> Iterator[Head]:
    """A Ray head with two CPUs; it may still be starting. It ends with the tests of this folder."""
    # Ray's socket paths must be short, so this is no folder of pytest's.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
    }

    def start_once() -> subprocess.Popen[bytes] | None:
        environment["RAY_ADDRESS"] = f"127.0.0.1:{(port := free_port())}"
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
        command += ["--num-cpus=2", "--node-ip-address=127.0.0.1", "--include-dashboard=false"]
        command += ["--disable-usage-stats", f"--temp-dir={folder}", f"--port={port}"]
        command += [f"--{name}={free_port()}" for name in RAY_PORTS]
        return start_ray(command, environment, folder)

    def start() -> subprocess.Popen[bytes] | None:
        # Ray gives its own processes 30 s, which a machine that others load may not keep; and
        # whatever starts beside it may take one of its ports first.
        return start_once() or start_once() or start_once()

    try:
        with ThreadPoolExecutor(1) as pool:
            starting = pool.submit(start)
            yield Head(environment, folder / "head.log", starting)
            if (process := starting.result()) is not None:
                stop_ray(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="package", autouse=True)
def _ray_goes_ahead(request: pytest.FixtureRequest) -> None:
    """Let it start while the tests that need MLflow only run."""
    if is_needed(request, "ray_environment"):
        request.getfixturevalue("ray_head")


@pytest.fixture(scope="package")
def ray_environment(ray_head: Head) -> dict[str, str]:
    """The environment that names a Ray head with two CPUs."""
    assert ray_head.process.result() is not None, ray_head.log.read_text()[-2000:]
    return ray_head.environment


@pytest.fixture(scope="package")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """What models here are signed with."""
    return signed_models.new_keys(tmp_path_factory.mktemp("keys"))


@dataclass(frozen=True)
class Trained:
    """A job that ended well, and what it left in MLflow."""

    model_name: str
    config: Path
    output: str
    seconds: float
    run: Run
    artifacts: Path


@pytest.fixture(scope="package")
def promoted(
    train: Train,
    write_config: WriteConfig,
    mlflow_client: MlflowClient,
    tmp_path_factory: pytest.TempPathFactory,
    keys: Keys,
) -> Trained:
    """The shipped settings, trained once into an empty registry, and signed."""
    config = write_config("promoted")
    started = time.monotonic()
    done = train("--config", config, environment={signing.KEY_FILE_VARIABLE: str(keys.private)})
    seconds = time.monotonic() - started
    assert done.returncode == 0, done.stderr
    run = only_run(mlflow_client, "promoted")
    folder = tmp_path_factory.mktemp("artifacts")
    mlflow_client.download_artifacts(run.info.run_id, "", str(folder))
    return Trained("promoted", config, done.stdout, seconds, run, folder)


def start_ray(
    command: list[str], environment: dict[str, str], folder: Path
) -> subprocess.Popen[bytes] | None:
    """Return the head once it says that it runs; None, with the log in `head.log`, if it fails."""
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    log = folder / "head.log"
    with log.open("wb") as output:
        head = subprocess.Popen(
            command,
            env=inherited | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + RAY_START_TIMEOUT_S
    while time.monotonic() < deadline and head.poll() is None:
        if "Ray runtime started" in log.read_text():
            return head
        time.sleep(0.1)
    stop_ray(head)
    return None


def stop_ray(head: subprocess.Popen[bytes]) -> None:
    """End a head, which ends all that it started."""
    head.terminate()
    try:
        head.wait(20)
    except subprocess.TimeoutExpired:
        head.kill()
        head.wait(5)


@pytest.fixture(scope="package")
def train(mlflow_server: str, ray_environment: dict[str, str]) -> Train:
    """Run `python -m train` with the given arguments against the shared servers."""

    def run(
        *arguments: str | Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "train", *map(str, arguments)],
            cwd=ROOT,
            env={
                **os.environ,
                **ray_environment,
                "MLFLOW_TRACKING_URI": mlflow_server,
                **(environment or {}),
            },
            capture_output=True,
            text=True,
            timeout=JOB_TIMEOUT_S,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def write_config(tmp_path_factory: pytest.TempPathFactory) -> WriteConfig:
    """Write a copy of shipped settings, with other sections and a model name of its own."""

    def write(model_name: str, shipped: str = "train_config.yaml", **sections: Any) -> Path:
        values = yaml.safe_load((ROOT / shipped).read_text())
        values |= {"model_name": model_name, "experiment": model_name, **sections}
        file = tmp_path_factory.mktemp("config") / "train_config.yaml"
        file.write_text(yaml.safe_dump(values))
        return file

    return write
