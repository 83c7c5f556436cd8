"""What runs beside the requests gives way to them: lower priority for Ray's own processes.

Ray runs workers at niceness 15, and its dashboard, log monitor and agents at 0. `serve.env` puts
workers at 0, as replicas are workers, and with them Serve's controller and its proxy actor. On few
processors it is these that the slowest requests wait for, so they go back behind. What starts
other processes is left as it is, as those would inherit it: the raylet, and the actor that starts
HAProxy.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import PurePath
from typing import Final

import psutil

NICENESS: Final = 10
"""A tenth of the weight of 0: behind, and yet a twentieth of a processor on which two others are
busy, which is more than Serve's controller takes."""

_TITLES: Final = (
    "ray::ServeController",
    "ray::ProxyActor",
    "ray::DashboardAgent",
    "ray-dashboard-",
)
_SCRIPTS: Final = frozenset({"dashboard.py", "log_monitor.py", "monitor.py"})


def is_beside_requests(command: Sequence[str]) -> bool:
    """Whether a process of Ray's, by its command line, does nothing that a request waits for."""
    if not command:
        return False
    scripts = (PurePath(word) for word in command[1:] if word.endswith(".py"))
    return command[0].startswith(_TITLES) or any(
        one.name in _SCRIPTS and "ray" in one.parts for one in scripts
    )


def give_way(processes: Iterable[psutil.Process]) -> None:
    """Lower the priority of those that do nothing that a request waits for; again does no harm."""
    for process in processes:
        with suppress(psutil.Error, OSError):
            if process.nice() < NICENESS and is_beside_requests(process.cmdline()):
                _lower(process)


def give_way_oneself() -> None:
    """Lower the priority of this process; what it starts from now on inherits that."""
    this = psutil.Process()
    if this.nice() < NICENESS:
        _lower(this)


def _lower(process: psutil.Process) -> None:
    """Lower a process with all of its threads, each of which has its own niceness on Linux."""
    if sys.platform == "linux":
        for thread in process.threads():
            with suppress(ProcessLookupError):  # ended since
                os.setpriority(os.PRIO_PROCESS, thread.id, NICENESS)
    else:
        process.nice(NICENESS)
