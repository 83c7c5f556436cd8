"""A system with API keys and a model that does as it is told, shared by the modules here."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from serve_app.access import key_file, keys
from tests import models, odd_models, running, secrecy, traffic
from tests.odd_models import Line
from tests.running import Running
from tests.traffic import Task, Traffic

SLOPE = 2.0
PAUSE_S = 0.002
"""How long the model of the shared system takes."""
VERSION = "local"
PER_S = 150.0
ROWS = np.full((3, 1), 0.5)
DEADLINE_S = 30.0
"""`limits.deadline_s` as shipped."""
BACK_S = 60.0
"""Within which whatever was killed runs again."""


@dataclass
class System:
    """A running system, and faults for it."""

    service: Running
    known: set[int] = field(default_factory=set)
    """Replicas, by process, that were there when a test began and have heard of each other."""

    @contextmanager
    def traffic(self, per_s: float = PER_S, **options: Any) -> Iterator[Traffic]:
        """Steady traffic inside the `with` block."""
        task = Task(self.service.url, per_s, {VERSION: SLOPE}, key=self.service.key, **options)
        with traffic.traffic(task) as under_way:
            yield under_way

    def pids(self, deployment: str) -> list[int]:
        """The processes of a deployment's replicas that run."""
        return [replica["pid"] for replica in self.service.replicas(deployment)]

    def find(self, name: str) -> int | None:
        """Return the process of this name, or of the Ray actor of this class."""
        for process in self.service.processes():
            with contextlib.suppress(psutil.Error):
                if name == process.name() or " ".join(process.cmdline()).startswith(name):
                    return process.pid
        return None

    def memory(self) -> float:
        """Bytes that everything of the service holds, shared pages counted once (PSS)."""
        total = 0.0
        for process in self.service.processes():
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total

    def kill_process(self, name: str) -> None:
        """End a process, and return when another one of its name runs."""
        before = self.find(name)
        assert before is not None, name
        psutil.Process(before).kill()
        running.wait_for(lambda: self.find(name) not in (None, before), BACK_S)

    def kill(self, deployment: str, held_s: float = 0.0) -> float:
        """End one of a deployment's replicas; return when that was (monotonic s), once another
        runs in its place.

        With `held_s` it has something under way: for so long all of them stand still, so that each
        is asked, and then this one alone, until what still waits is with it.
        """
        before = self.pids(deployment)
        replica, *others = map(psutil.Process, before)
        if held_s:
            for process in (replica, *others):
                process.suspend()
            time.sleep(held_s)
            for process in others:
                process.resume()
            time.sleep(held_s)
        replica.kill()
        killed_at = time.monotonic()
        self.await_replaced(deployment, before[0], len(before))
        return killed_at

    def await_replaced(self, deployment: str, pid: int, count: int) -> None:
        """Return when a replica is gone, and there are as many as before."""

        def is_replaced() -> bool:
            now = self.pids(deployment)
            return len(now) >= count and pid not in now

        running.wait_for(is_replaced, BACK_S)


def start(
    root: Path,
    free_port: Callable[[], int],
    estimator: Line,
    change: Callable[[dict[str, Any]], None] = lambda config: None,
    **environ: str,
) -> AbstractContextManager[Running]:
    """Return what runs a system with this model and one key, which is for everything."""
    return running.system(*prepare(root, free_port, estimator, change, **environ))


def prepare(
    root: Path,
    free_port: Callable[[], int],
    estimator: Line,
    change: Callable[[dict[str, Any]], None] = lambda config: None,
    **environ: str,
) -> tuple[Path, dict[str, str]]:
    """Return a copy of the project for such a system, and its environment."""
    with odd_models.behaving():
        directory = models.write(
            root / "model", estimator.fit(ROWS), ROWS, ["x"], odd_models.TRUSTED
        )
    key, sent = keys.create("predict,feedback,admin,metrics")
    key_file.add(root / "api_keys", keys.create("predict", note="never used")[0])
    project = running.copy_project(root / "project")

    def with_types(config: dict[str, Any]) -> None:
        config["applications"][0]["args"]["extra_trusted_types"] = odd_models.TRUSTED
        change(config)

    running.change_config(project, with_types)
    own = {
        "MODEL_SERVED": "local",
        "MODEL_DIR": str(directory),
        "ENDEAVOUR_ENV": "production",
        "ENDEAVOUR_API_KEYS": str(key),
        "ENDEAVOUR_API_KEYS_FILE": str(root / "api_keys"),
        "ENDEAVOUR_API_KEY": sent,
    }
    return project, running.environ(free_port, **own, **environ)


@pytest.fixture(scope="package")
def shared_system(launched_system: Running) -> Iterator[System]:
    """A system with two ingresses and two workers."""
    with running.up(launched_system) as service:
        yield System(service)
        running.wait_for(service.is_ready, BACK_S)
        secrecy.check(service)


@pytest.fixture
def system(shared_system: System) -> Iterator[System]:
    """The shared system, whole before each test."""
    running.wait_for(
        lambda: (
            len(shared_system.pids("Ingress")) >= 2 and len(shared_system.pids("ModelWorker")) >= 2
        ),
        BACK_S,
    )
    running.wait_for(shared_system.service.is_ready, BACK_S)
    replicas = {*shared_system.pids("Ingress"), *shared_system.pids("ModelWorker")}
    if replicas != shared_system.known:
        time.sleep(1.0)  # until the ingresses have heard of all of them
        shared_system.known = replicas
    yield shared_system
