"""Disk, file descriptors, connections: when they run out, and when they are there again."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psutil

from tests import running
from tests.faults.conftest import System
from tests.traffic import report

CLOSED_S = 10.0
"""Within which a connection on which nothing comes is closed."""
DRIPPING = 200
DRIPS = 8


@contextmanager
def limited(pid: int, kind: int, most: int) -> Iterator[None]:
    """Bound what a running process may have, inside the `with` block."""
    before = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (most, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, kind, before)


def connected(system: System) -> socket.socket:
    """A connection to the service."""
    return socket.create_connection(("127.0.0.1", int(system.service.environ["PORT"])), timeout=30)


def closed_after_s(connection: socket.socket) -> tuple[float, bytes]:
    """Return how long it takes the other side to end a connection, and what it said before."""
    began = time.monotonic()
    said = b""
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(65536):
            said += data
    return time.monotonic() - began, said


def test_silent_sockets_and_stalled_bodies_are_closed(system: System) -> None:
    """The first by HAProxy, the second with our own answer."""
    with connected(system) as silent, connected(system) as stalled, ThreadPoolExecutor(2) as pool:
        stalled.sendall(
            b"POST /stream HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"x-api-key: " + system.service.key.encode() + b"\r\ncontent-length: 100\r\n\r\n{"
        )
        (silent_s, heard), (stalled_s, said) = pool.map(closed_after_s, (silent, stalled))
    print(f"\nsilent: closed after {silent_s:.1f} s; stalled: after {stalled_s:.1f} s")
    assert heard.startswith(b"HTTP/1.1 408 ")
    assert max(silent_s, stalled_s) < CLOSED_S
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b'"request_timeout"' in said


def test_dripping_headers_leave_others_untouched(system: System) -> None:
    """Two hundred clients that send a byte every second."""
    head = b"POST /stream HTTP/1.1\r\nx-slow: "
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connected(system)) for _ in range(DRIPPING)]
        with system.traffic() as under_way:
            for sent in (head, *[b"a"] * DRIPS):
                for one in slow:
                    with contextlib.suppress(ConnectionError):
                        one.sendall(sent)
                time.sleep(1.0)
            ledger = report("200 clients drip headers", under_way.stop()).check()
        for one in slow:  # they were ended meanwhile, however they dripped
            one.settimeout(1.0)
            assert b" 408 " in closed_after_s(one)[1]
    assert max(ledger.latencies_s) < 1.0


def test_an_ingress_without_file_descriptors_recovers(system: System) -> None:
    """It takes no new connections meanwhile; what it has goes on, and the other one takes more."""
    pid = system.pids("Ingress")[0]
    with system.traffic() as under_way:
        time.sleep(1.0)
        with limited(pid, resource.RLIMIT_NOFILE, psutil.Process(pid).num_fds()):
            time.sleep(5.0)
        time.sleep(2.0)
        report("an ingress without descriptors", under_way.stop()).check()
    assert pid in system.pids("Ingress")
    running.wait_for(system.service.is_ready, 30)


def test_a_worker_without_file_descriptors_recovers(system: System) -> None:
    """Lines that are open go on."""
    pid = system.pids("ModelWorker")[0]
    with system.traffic() as under_way:
        with limited(pid, resource.RLIMIT_NOFILE, psutil.Process(pid).num_fds()):
            time.sleep(5.0)
        report("a worker without descriptors", under_way.stop()).check()
    running.wait_for(system.service.is_ready, 30)
