"""The containers' own commands, taken from the files and run in fresh folders: no engine here."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from launcher import environment
from tests import running
from tests.conftest import stop_process_group, wait_until_healthy
from tests.e2e.container import CHECK_S, Container, Image
from tests.e2e.dockerfile import ROOT, read

Environ = Mapping[str, str]
STAGES = read()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())[
    "services"
]
JOB_S = 240.0


@pytest.fixture
def ports(free_port: Callable[[], int]) -> Environ:
    """The three public ports, all free and different."""
    return running.ports(free_port)


@pytest.mark.system
def test_the_install_command_is_hash_checked_and_installs_what_is_tested_here() -> None:
    words = STAGES["install"].last("RUN").words
    assert words == shlex.split("pip install --require-hashes -r requirements.lock")
    done = subprocess.run(
        [sys.executable, "-m", *words, "--dry-run", "--no-index", "--quiet"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Would install" not in done.stdout


@pytest.mark.system
def test_the_build_exports_a_model_that_every_user_may_read(image: Image) -> None:
    model = image.serve.app / "model"
    assert (model / "MLmodel").is_file()
    closed = [path for path in (model, *model.rglob("*")) if not path.stat().st_mode & 0o004]
    assert closed == []


@pytest.mark.system
def test_the_services_of_compose_work_together(image: Image, ports: Environ) -> None:
    """`web` trains for `mlflow` and serves it; `train` submits to `web`, and has the job's code."""
    serve = image.serve
    with mlflow_service(serve, ports):
        assert mlflow_status(ports, "mlflow:5000") == HTTPStatus.OK
        assert mlflow_status(ports, "mlflow.example:5000") == HTTPStatus.FORBIDDEN
        command, environ = service("web", serve, ports)
        with running.system(serve.app, {**environ, **ports}, command) as web:
            assert image.health_code(ports) == 0
            assert web.post("/stream", {"X": 0.2}).headers["x-model-version"] == "1"
            command, environ = service("train", serve, ports)
            job = serve.run(command, JOB_S, environ)
            assert "nothing registered" in job.stdout, job.stdout + job.stderr
            assert job.returncode == 0
            stopped = web.interrupt(signal.SIGTERM)
    assert (stopped.code, stopped.processes_left, stopped.ports_held) == (0, [], [])


def service(name: str, image: Container, ports: Environ) -> tuple[list[str], dict[str, str]]:
    """Return a service's command and environment, with this machine for the others' names."""
    text = yaml.safe_dump(SERVICES[name])
    for inside, variable in (("mlflow:5000", "MLFLOW_PORT"), ("web:8265", "RAY_DASHBOARD_PORT")):
        text = text.replace(f"http://{inside}", f"http://127.0.0.1:{ports[variable]}")
    moved = yaml.safe_load(text)
    command = [*moved.get("entrypoint", []), *moved.get("command", [])]
    shared = environment.of_file(ROOT / moved["env_file"])
    own = {key: image.mapped(value) for key, value in moved["environment"].items()}
    return command, {**image.environ, **shared, **own}


@contextmanager
def mlflow_service(image: Container, ports: Environ) -> Iterator[None]:
    """Run compose's MLflow server, on loopback and on a free port, until the block ends."""
    command, environ = service("mlflow", image, ports)
    moved = {"--host=0.0.0.0": "--host=127.0.0.1", "--port=5000": f"--port={ports['MLFLOW_PORT']}"}
    assert moved.keys() <= set(command)
    log = image.folder / "mlflow.log"
    folder = Path(image.mapped(SERVICES["mlflow"]["working_dir"]))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [image.mapped(moved.get(word, word)) for word in command],
            cwd=folder,
            env=environ,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until_healthy(process, f"http://127.0.0.1:{ports['MLFLOW_PORT']}/health", log)
        yield
    finally:
        stop_process_group(process)


def mlflow_status(ports: Environ, host: str) -> int:
    """Return the status of a request to MLflow under that name."""
    url = f"http://127.0.0.1:{ports['MLFLOW_PORT']}/api/2.0/mlflow/registered-models/search"
    return requests.get(url, headers={"Host": host}, timeout=CHECK_S).status_code
