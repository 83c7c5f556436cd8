"""One server at a time: started on free loopback ports, ended with everything that it started."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from benchmarks import environments
from benchmarks.client import Client
from benchmarks.errors import BenchError, ServerError
from benchmarks.model import Model
from benchmarks.servers import Peer, Server, service
from launcher import ports, processes
from launcher.processes import Child

HOST: Final = "127.0.0.1"
ROOT: Final = Path(__file__).parent.parent
_COPIED: Final = ("contract", "launcher", "serve_app", "train", "serve.env", "serve_config.yaml")
_NOT_INHERITED: Final = ("RAY_", "MLFLOW_", "MODEL_", "SERVE_", "PORT", "PYTHONPATH", "VIRTUAL_ENV")
_PORTS: Final = range(20_000, 29_900)
_START_S: Final = 180.0
_INTERRUPT_S: Final = {True: 45.0, False: 6.0}
"""How long this service and a peer have to end by themselves."""
_KILL_S: Final = 20.0
_LOG_TAIL: Final = 1500


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    server: Server
    address: str
    port: int
    client: Client
    scratch: Path


@dataclass(frozen=True)
class Setup:
    """How this service is set up, where that isn't as shipped."""

    workers: int | None = None

    @property
    def name(self) -> str:
        """What it is called in the results."""
        if self.workers is None:
            return "shipped"
        return "1 worker" if self.workers == 1 else f"{self.workers} workers"


@contextlib.contextmanager
def peer(one: Peer, model: Model) -> Iterator[Running]:
    """A peer that serves `model` inside the `with` block. Raises ServerError if it doesn't."""
    with _scratch() as scratch:
        numbers = free_ports(3)
        folder = scratch / "peer"
        shutil.copytree(one.folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
        bin_folder = environments.ensure(one)
        words = {
            "bin": str(bin_folder),
            "host": HOST,
            "ports": numbers,
            "model": str(model.directory),
            "scratch": str(scratch),
        }
        environ = {
            **_inherited(),
            # What a peer would leave in the user's home goes with the run.
            "HOME": str(scratch),
            "TMPDIR": str(scratch),
            "PATH": os.pathsep.join([str(bin_folder), os.environ.get("PATH", os.defpath)]),
            "HOST": HOST,
            "PORT": str(numbers[0]),
            "MODEL_DIR": str(model.directory),
            **{name: text.format(**words) for name, text in one.definition.environment.items()},
        }
        command = [word.format(**words) for word in one.definition.command]
        with _process(one.name, command, environ, folder, scratch / "log") as child:
            yield _wait(one.server, child, numbers[0], model, scratch)


@contextlib.contextmanager
def endeavour(model: Model, setup: Setup) -> Iterator[Running]:
    """This service, started as `make run` starts it, in a copy of the project."""
    with _scratch() as scratch:
        copy = scratch / "project"
        _copy_project(copy, setup)
        port, mlflow_port, dashboard_port = free_ports(3)
        environ = {
            **_inherited(),
            "PORT": str(port),
            "MLFLOW_PORT": str(mlflow_port),
            "RAY_DASHBOARD_PORT": str(dashboard_port),
            "MODEL_SERVED": "local",
            "MODEL_DIR": str(model.directory),
        }
        command = [sys.executable, "-m", "launcher", "run"]
        one = service()
        with _process(one.name, command, environ, copy, scratch / "log") as child:
            yield _wait(one, child, port, model, scratch)


def free_ports(count: int) -> list[int]:
    """Return ports on which nothing listens, below those that the system hands out by itself."""
    found: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, 1000):
        if ports.is_free(port):
            found.append(port)
        if len(found) == count:
            return found
    raise BenchError(f"no {count} free ports from {_PORTS[0]} on")


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder with a path short enough for Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="edb-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _inherited() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)
    }


def _copy_project(target: Path, setup: Setup) -> None:
    target.mkdir()
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / name)
    file = target / "serve_config.yaml"
    config = yaml.safe_load(file.read_text())
    config["http_options"]["host"] = HOST
    if setup.workers is not None:
        deployments = config["applications"][0]["deployments"]
        worker = next(one for one in deployments if one["name"] == "ModelWorker")
        worker["autoscaling_config"]["min_replicas"] = setup.workers
        worker["autoscaling_config"]["max_replicas"] = setup.workers
    file.write_text(yaml.safe_dump(config))


@contextlib.contextmanager
def _process(
    name: str, command: list[str], environ: Mapping[str, str], folder: Path, log: Path
) -> Iterator[Child]:
    child = processes.start(name, command, environ=environ, log=log, cwd=folder)
    try:
        yield child
    finally:
        processes.interrupt(child, signal.SIGINT, _INTERRUPT_S[name == service().name])
        # Started alone: whatever descends from this process was started by that server.
        left = processes.end(processes.descendants(), _KILL_S)
        if left:
            raise BenchError(f"{name} left processes: {', '.join(str(one.pid) for one in left)}")


def _wait(server: Server, child: Child, port: int, model: Model, scratch: Path) -> Running:
    address = f"http://{HOST}:{port}"
    client = Client(address)

    def look() -> None:
        if child.has_ended:
            raise ServerError(f"ended by itself with code {child.process.returncode}")

    try:
        client.wait_until_right(server.stream(model), _START_S, look)
    except ServerError as error:
        output = child.log.read_text(errors="replace")[-_LOG_TAIL:]
        raise ServerError(f"{server.name}: {error}\n{output}") from error
    return Running(server, address, port, client, scratch)
