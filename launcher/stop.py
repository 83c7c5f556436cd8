"""`make stop`: end the run that `var/run.json` records, by process id."""

import contextlib
import time
from typing import Final

import psutil

from launcher import console, processes, state
from launcher.errors import LaunchError
from launcher.layout import Layout

DEADLINE_S: Final = 30.0
_POLL_S: Final = 0.2


def stop(layout: Layout) -> None:
    """Ask the launcher to stop; if it was killed, end what it had started.

    Raises LaunchError if something is still there after 30 s.
    """
    run = state.read(layout.state)
    if run is None:
        console.say("nothing runs here")
        return
    launcher = run.launcher.find()
    with console.step("stopped"):
        if launcher is not None:
            launcher.terminate()
            _wait_for_end(launcher)
        recorded = [found for one in run.processes if (found := one.find()) is not None]
        left = processes.end(recorded, DEADLINE_S / 2)
    layout.state.unlink(missing_ok=True)
    if left:
        raise LaunchError(f"still running: {', '.join(str(one.pid) for one in left)}")


def _wait_for_end(process: psutil.Process) -> None:
    until = time.monotonic() + DEADLINE_S
    with contextlib.suppress(psutil.NoSuchProcess):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > until:
                raise LaunchError(f"process {process.pid} did not stop within {DEADLINE_S:g} s")
            time.sleep(_POLL_S)
