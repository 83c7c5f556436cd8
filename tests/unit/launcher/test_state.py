"""Which processes are a run's, whatever becomes of the clock."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from launcher import state, stop
from launcher.errors import UnreachableError
from launcher.layout import Layout

ONLY_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has another clock")


@pytest.fixture
def process() -> Iterator[psutil.Process]:
    """A process that sleeps; ended after the test."""
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(sleep) as started:
        yield psutil.Process(started.pid)
        started.kill()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A copy of the project in which nothing has run."""
    made = Layout(tmp_path, tmp_path / "var" / "ray_token")
    made.make()
    return made


def run_of(process: psutil.Process, layout: Layout) -> state.Run:
    """A run whose launcher is gone, and that left this process."""
    left = state.ProcessId.of(process)
    gone = replace(left, started="1@another")
    return state.Run(gone, "http://a", None, "r", "d", str(layout.root / "scratch"), (left,))


def set_clock(monkeypatch: pytest.MonkeyPatch, by_s: float) -> None:
    """Move the time of the boot, as a step of the clock does."""
    before = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: before + by_s)


@ONLY_LINUX
@pytest.mark.parametrize("by_s", [-1.0, 1.0, 3_600.0])
def test_a_clock_that_is_set_makes_no_process_another(
    process: psutil.Process, layout: Layout, monkeypatch: pytest.MonkeyPatch, by_s: float
) -> None:
    """Jobs find the run, and `make stop` what a launcher that was killed has left."""
    left = run_of(process, layout)
    replace(left, launcher=left.processes[0]).save(layout.state)
    set_clock(monkeypatch, by_s)
    assert state.require_running(layout.state).launcher.pid == process.pid
    left.save(layout.state)
    stop.stop(layout)
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    assert not layout.state.exists()


def test_what_started_after_the_last_record_is_ended_too(layout: Layout) -> None:
    """A run goes on without its launcher, and Serve starts workers and HAProxies anew."""
    code = (
        "import subprocess; print((p := subprocess.Popen(['sleep', '60'])).pid, flush=1); p.wait()"
    )
    parent = [sys.executable, "-c", code]
    with subprocess.Popen(parent, stdout=subprocess.PIPE, text=True) as started:
        run_of(psutil.Process(started.pid), layout).save(layout.state)
        assert started.stdout is not None
        child = psutil.Process(int(started.stdout.readline()))
        stop.stop(layout)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


@ONLY_LINUX
def test_a_process_of_before_the_boot_is_another(
    process: psutil.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers and ticks begin anew."""
    of_now = state.ProcessId.of(process)
    assert of_now.find() == process
    monkeypatch.setattr(state, "_boot", lambda: "another")
    assert of_now.find() is None


def test_the_name_of_a_process_may_hold_anything() -> None:
    """Brackets and spaces are told from the fields that follow."""
    before = "S 1 2 3 0 -1 4194304 100 0 0 0 0 0 0 0 20 0 1 0"
    assert state.start_ticks(f"42 (a) S 7 (b) {before} 4253207 3133440 382\n") == 4253207


def test_what_has_ended_has_no_identity(process: psutil.Process) -> None:
    """It may end between the list of processes and the look at one."""
    me = psutil.Process()
    process.kill()
    process.wait()
    with pytest.raises(psutil.NoSuchProcess):
        state.ProcessId.of(process)
    assert [one.pid for one in state.identities([process, me])] == [me.pid]


def test_a_run_that_an_older_version_recorded_is_none(
    process: psutil.Process, layout: Layout
) -> None:
    """It told processes apart by the clock."""
    run_of(process, layout).save(layout.state)
    content = json.loads(layout.state.read_text())
    content["launcher"] = {"pid": process.pid, "created_s": process.create_time()}
    layout.state.write_text(json.dumps(content))
    assert state.read(layout.state) is None
    with pytest.raises(UnreachableError, match="make run"):
        state.require_running(layout.state)
