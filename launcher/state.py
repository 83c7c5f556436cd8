"""What runs now, in `var/run.json`: for `make stop`, `make train` and `make export`."""

import contextlib
import functools
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from launcher.errors import UnreachableError

_PROC: Final = Path("/proc")


@dataclass(frozen=True, order=True)
class ProcessId:
    """A process, told apart from a later one with the same number by its start."""

    pid: int
    started: str
    """On Linux by no clock that anybody sets: ticks since the boot, and which boot."""

    @staticmethod
    def of(process: psutil.Process) -> "ProcessId":
        """Return the identity of a process. Raises psutil.NoSuchProcess if it has ended."""
        return ProcessId(process.pid, _start_of(process))

    def find(self) -> psutil.Process | None:
        """Return the process if it still runs."""
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.pid)
            if _start_of(process) == self.started:
                return process
        return None


def identities(processes: Iterable[psutil.Process]) -> tuple[ProcessId, ...]:
    """Return the identities of those that still run, in order."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(ProcessId.of(process))
    return tuple(sorted(found))


def start_ticks(stat: str) -> int:
    """Return `starttime` of a `/proc/PID/stat`, whose second field may hold any character."""
    return int(stat.rpartition(")")[2].split()[19])


def _start_of(process: psutil.Process) -> str:
    if sys.platform != "linux":
        return str(process.create_time())
    try:
        stat = (_PROC / str(process.pid) / "stat").read_text(errors="replace")
    except OSError as error:
        raise psutil.NoSuchProcess(process.pid) from error
    return f"{start_ticks(stat)}@{_boot()}"


@functools.cache
def _boot() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text()[:8]
    except OSError:  # some sandboxes have none
        return "boot"


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
        """Return the recorded processes that still run, and what they have started since.

        Without its launcher a run goes on, unrecorded: Serve starts workers and HAProxies anew.
        """
        found = {one: None for known in self.processes if (one := known.find()) is not None}
        for one in list(found):
            with contextlib.suppress(psutil.NoSuchProcess):
                found |= dict.fromkeys(one.children(recursive=True))
        return list(found)


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
