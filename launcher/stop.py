"""`make stop`: end the run that `var/run.json` records, by process id."""

import contextlib
import shutil
import time
from pathlib import Path
from typing import Final

import psutil

from launcher import console, processes, state
from launcher.errors import LaunchError
from launcher.layout import Layout

DRAIN_S: Final = 30.0
"""How long requests under way may take: `limits.deadline_s` as shipped."""
SERVE_STOP_S: Final = 15.0
REST_STOP_S: Final = 10.0
PATIENCE_S: Final = DRAIN_S + SERVE_STOP_S + REST_STOP_S + 10.0
"""Longer than an orderly end takes; a launcher that hangs is then killed."""
REST_S: Final = 6.0
_POLL_S: Final = 0.2


def stop(layout: Layout) -> None:
    """Ask the launcher to stop; end what it leaves, or had started before it was killed.

    Raises LaunchError if something is still there after that.
    """
    run = state.read(layout.state)
    if run is None:
        console.say("nothing runs here")
        return
    launcher = run.launcher.find()
    with console.step("stopped"):
        if launcher is not None:
            _end(launcher)
        left = processes.end(run.survivors(), REST_S)
        shutil.rmtree(Path(run.scratch), ignore_errors=True)
    if left:
        raise LaunchError(
            f"still running: {', '.join(str(one.pid) for one in left)}; `make stop` tries again"
        )
    layout.state.unlink(missing_ok=True)


def _end(launcher: psutil.Process) -> None:
    """Ask, wait, and kill a launcher that doesn't end."""
    until = time.monotonic() + PATIENCE_S
    with contextlib.suppress(psutil.NoSuchProcess):
        launcher.terminate()
        while launcher.is_running() and launcher.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > until:
                launcher.kill()
            time.sleep(_POLL_S)
