"""What runs now, in `var/run.json`: for `make stop`, `make train` and `make export`."""

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from launcher.errors import UnreachableError


@dataclass(frozen=True, order=True)
class ProcessId:
    """A process, told apart from a later one with the same number by its start time."""

    pid: int
    created_s: float

    @staticmethod
    def of(process: psutil.Process) -> "ProcessId":
        """Return the identity of a process."""
        return ProcessId(process.pid, process.create_time())

    def find(self) -> psutil.Process | None:
        """Return the process if it still runs."""
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.pid)
            if process.create_time() == self.created_s:
                return process
        return None


@dataclass(frozen=True)
class Run:
    """One running system: its launcher, where its parts answer, and all of its processes."""

    launcher: ProcessId
    address: str
    mlflow_uri: str | None
    ray_address: str
    dashboard: str
    scratch: str
    """Folder of Ray's session; it goes with the run."""
    processes: tuple[ProcessId, ...] = ()

    def save(self, file: Path) -> None:
        """Write the run, whole or not at all."""
        fresh = file.with_suffix(f".{os.getpid()}")
        fresh.touch(mode=0o600)  # an address may carry a password
        fresh.write_text(json.dumps(asdict(self), indent=2) + "\n")
        fresh.replace(file)

    def survivors(self) -> list[psutil.Process]:
        """Return the recorded processes that still run."""
        return [found for one in self.processes if (found := one.find()) is not None]


def read(file: Path) -> Run | None:
    """Return the recorded run, or None if there's none that can be read."""
    try:
        content: dict[str, Any] = json.loads(file.read_text())
        return Run(
            **{
                **content,
                "launcher": ProcessId(**content["launcher"]),
                "processes": tuple(ProcessId(**one) for one in content["processes"]),
            }
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None


def running(file: Path) -> Run | None:
    """Return the recorded run if its launcher is alive."""
    run = read(file)
    return run if run is not None and run.launcher.find() is not None else None


def require_running(file: Path) -> Run:
    """Return the run, or raise UnreachableError that says how to start one."""
    run = running(file)
    if run is None:
        raise UnreachableError("nothing runs here: start the system with `make run`")
    return run
