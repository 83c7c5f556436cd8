"""Faults that tests and `make soak` inject into a running system."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psutil
import requests

from tests import odd_models, running
from tests.faults.conftest import BACK_S, System

DRIPPING = 200
DRIPS = 8
STARVED_S = 5.0


@contextmanager
def limited(pid: int, kind: int, most: int) -> Iterator[None]:
    """Bound what a running process may have, inside the `with` block."""
    before = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (most, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, kind, before)


def take_file_descriptors(system: System, deployment: str) -> int:
    """Leave one of a deployment's replicas no file to open, for a while; return its process."""
    pid = system.pids(deployment)[0]
    with limited(pid, resource.RLIMIT_NOFILE, 0):  # those that are open stay
        time.sleep(STARVED_S)
    return pid


def stop_a_worker(system: System, seconds: float) -> None:
    """Let a worker stand still for a while; by then it may have been replaced."""
    process = psutil.Process(system.pids("ModelWorker")[0])
    process.suspend()
    time.sleep(seconds)
    with contextlib.suppress(psutil.NoSuchProcess):
        process.resume()


def hang_a_worker(system: System) -> None:
    """Send a record that never ends, and return when its worker was given up."""
    before = set(system.pids("ModelWorker"))
    answer = ask(system, odd_models.HANGS)
    if answer.status_code not in (422, 504):
        raise AssertionError(f"{answer.status_code} {answer.text}")
    running.wait_for(lambda: not before <= set(system.pids("ModelWorker")), BACK_S)


def connected(system: System) -> socket.socket:
    """A connection to the service."""
    return socket.create_connection(("127.0.0.1", int(system.service.environ["PORT"])), timeout=30)


def said_until_closed(connection: socket.socket) -> bytes:
    """Return what the other side says before it ends a connection."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(65536):
            said += data
    return said


def drip_headers(system: System) -> list[bytes]:
    """Let many clients send a byte a second each; return what each was told at its end."""
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connected(system)) for _ in range(DRIPPING)]
        for sent in (b"POST /stream HTTP/1.1\r\nx-slow: ", *[b"a"] * DRIPS):
            for one in slow:
                with contextlib.suppress(ConnectionError):
                    one.sendall(sent)
            time.sleep(1.0)
        for one in slow:  # they were ended meanwhile, however they dripped
            one.settimeout(1.0)
        return [said_until_closed(one) for one in slow]


def hang_up(system: System, times: int) -> int:
    """Let clients go away before they have an answer; return how many have none."""

    def hangs_up(_: int) -> bool:
        try:
            system.service.post("/stream", {"X": 1.0}, timeout=0.001)
        except requests.Timeout:
            return True
        return False

    with ThreadPoolExecutor(16) as pool:
        return sum(pool.map(hangs_up, range(times)))


def ask(system: System, record: float) -> requests.Response:
    """Send one record, and wait for longer than the service may take."""
    return system.service.post("/stream", {"X": record}, timeout=60)
