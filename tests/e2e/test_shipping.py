"""The containers' own commands, taken from the files and run in fresh folders: no engine here."""

from __future__ import annotations

import shlex
import shutil
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
from tests.e2e import container
from tests.e2e.container import Container
from tests.e2e.dockerfile import ROOT, read

Environ = Mapping[str, str]
STAGES = read()
SERVE = STAGES["serve"]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())[
    "services"
]
CHECK_S = 10.0
JOB_S = 120.0


@pytest.fixture(scope="module")
def model_stage(tmp_path_factory: pytest.TempPathFactory) -> Container:
    """The stage that trains the image's model and exports it."""
    return container.build(STAGES, "model", tmp_path_factory.mktemp("model"), {})


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, model_stage: Container) -> Container:
    """The stage that serves."""
    folder = tmp_path_factory.mktemp("serve")
    return container.build(STAGES, "serve", folder, {"model": model_stage})


@pytest.fixture
def ports(free_port: Callable[[], int]) -> Environ:
    """The three public ports, all free and different."""
    names = ("PORT", "MLFLOW_PORT", "RAY_DASHBOARD_PORT")
    chosen = running.environ(free_port)
    return {name: chosen[name] for name in names}


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


def test_the_build_exports_a_model_that_every_user_may_read(image: Container) -> None:
    model = image.app / "model"
    assert (model / "MLmodel").is_file()
    closed = [path for path in (model, *model.rglob("*")) if not path.stat().st_mode & 0o004]
    assert closed == []


def test_the_image_serves_its_model_and_leaves_nothing_at_sigterm(
    image: Container, ports: Environ
) -> None:
    before = files_outside_var(image)
    assert health_code(image, ports) == 1
    command = SERVE.last("CMD").exec_form
    with running.system(image.app, {**image.environ, **ports}, command) as system:
        assert health_code(image, ports) == 0
        assert 338 < system.post("/stream", {"X": 0.2}).json()["result"] < 343
        stopped = system.interrupt(signal.SIGTERM)
    assert_left_nothing(stopped)
    assert files_outside_var(image) == before


@pytest.mark.system
def test_the_services_of_compose_work_together(
    image: Container, model_stage: Container, ports: Environ
) -> None:
    """`web` serves the champion of `mlflow`; `train` submits to it and ends with the job's code."""
    # A registry with a champion, so that `web` needs no training of its own.
    shutil.copy(model_stage.folder / "tmp" / "mlflow.db", image.app / "var" / "mlflow")
    with mlflow_service(image, ports):
        assert mlflow_status(ports, "mlflow:5000") == HTTPStatus.OK
        assert mlflow_status(ports, "mlflow.example:5000") == HTTPStatus.FORBIDDEN
        command, environ = service("web", image, ports)
        with running.system(image.app, {**environ, **ports}, command) as web:
            assert health_code(image, ports) == 0
            assert web.post("/stream", {"X": 0.2}).headers["x-model-version"] == "1"
            command, environ = service("train", image, ports)
            job = image.run(command, JOB_S, environ)
            assert "nothing registered" in job.stdout, job.stdout + job.stderr
            assert job.returncode == 0
            stopped = web.interrupt(signal.SIGTERM)
        assert_left_nothing(stopped)


def assert_left_nothing(stopped: running.Stopped) -> None:
    assert stopped.code == 0
    assert not stopped.processes_left
    assert not stopped.ports_held


def files_outside_var(image: Container) -> set[str]:
    paths = (path.relative_to(image.app) for path in image.app.rglob("*"))
    kept = {
        str(path) for path in paths if path.parts[0] != "var" and "__pycache__" not in path.parts
    }
    return kept - {"launcher.log"}


def health_code(image: Container, ports: Environ) -> int:
    """Run the image's health check, which reads a moved port from PORT."""
    return image.run(SERVE.last("HEALTHCHECK").exec_form, CHECK_S, ports).returncode


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
