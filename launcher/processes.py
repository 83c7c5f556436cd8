"""The processes of one run: started with their own log, watched, and ended with all they started.

On Linux the launcher makes itself the reaper of its descendants, so that what a process leaves
behind when it dies (HAProxy outlives the Serve actor that started it) becomes the launcher's child
and is still known to be its own. Nothing else on the machine is ever looked at.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from launcher.errors import LaunchError

_PR_SET_CHILD_SUBREAPER: Final = 36
_POLL_S: Final = 0.1
_LONGEST_LINE: Final = 300


@dataclass(frozen=True)
class Child:
    """A process that the launcher started, and the file that has its output."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self.process.poll() is not None

    def last_words(self) -> str:
        """Return the last line of its output."""
        with contextlib.suppress(OSError):
            lines = [one.strip() for one in self.log.read_text(errors="replace").splitlines()]
            return next((one for one in reversed(lines) if one), "no output")[:_LONGEST_LINE]
        return "no output"


def adopt_orphans() -> None:
    """Make this process the one that inherits its descendants' orphans (Linux; else nothing)."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def start(
    name: str,
    command: Sequence[str],
    *,
    environ: Mapping[str, str],
    log: Path,
    cwd: Path,
) -> Child:
    """Start a command in a session of its own, so that the terminal's Ctrl-C reaches us only."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=dict(environ),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Child(name, process, log)


def check_alive(children: Iterable[Child]) -> None:
    """Raise LaunchError if one of the processes has ended by itself."""
    for child in children:
        if child.has_ended:
            raise LaunchError(
                f"{child.name} ended by itself with code {child.process.returncode}: "
                f"{child.last_words()} (see {child.log})"
            )


def interrupt(child: Child, signal_number: int, deadline_s: float) -> bool:
    """Send a signal and wait; return whether the process ended in time."""
    if not child.has_ended:
        with contextlib.suppress(ProcessLookupError):
            child.process.send_signal(signal_number)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.process.wait(deadline_s)
        return True
    return False


def descendants() -> list[psutil.Process]:
    """Return every process that this one started, directly or not, and that still runs."""
    return [
        process for process in psutil.Process().children(recursive=True) if _is_running(process)
    ]


def end(processes: Iterable[psutil.Process], deadline_s: float) -> list[psutil.Process]:
    """End processes by SIGTERM, then by SIGKILL; return those that are still there after that."""
    remaining = [process for process in processes if _is_running(process)]
    until = time.monotonic() + deadline_s
    for number, share in ((signal.SIGTERM, 0.5), (signal.SIGKILL, 1.0)):
        for process in remaining:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        stop_waiting = until - deadline_s * (1 - share)
        while remaining and time.monotonic() < stop_waiting:
            reap_orphans()
            remaining = [process for process in remaining if _is_running(process)]
            time.sleep(_POLL_S)
    return remaining


def reap_orphans(children: Iterable[Child] = ()) -> None:
    """Collect adopted processes that have ended; `children` are left to their Popen objects."""
    if sys.platform != "linux":
        return  # nothing is adopted
    own = {child.process.pid for child in children}
    with contextlib.suppress(ChildProcessError):
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid in own:
                return
            os.waitpid(ended.si_pid, 0)


def _is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
