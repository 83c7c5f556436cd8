"""Disk, file descriptors, connections: when they run out, and when they are there again."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor

from tests import running
from tests.faults import injections
from tests.faults.conftest import System
from tests.faults.injections import connected, said_until_closed
from tests.traffic import report

NEW_CLIENTS = 10
"""Clients that connect anew for each request, while there are no descriptors."""
CLOSED_S = 10.0
"""Within which a connection on which nothing comes is closed."""


def closed_after_s(connection: socket.socket) -> tuple[float, bytes]:
    """Return how long it takes the other side to end a connection, and what it said before."""
    began = time.monotonic()
    said = said_until_closed(connection)
    return time.monotonic() - began, said


def test_silent_stalled_and_dripping_connections_are_closed_and_leave_others_untouched(
    system: System,
) -> None:
    """The first by HAProxy, the second with our own answer, and 200 that send a byte a second."""
    with (
        system.traffic() as under_way,
        connected(system) as silent,
        connected(system) as stalled,
        ThreadPoolExecutor(2) as pool,
    ):
        stalled.sendall(
            b"POST /stream HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"x-api-key: " + system.service.key.encode() + b"\r\ncontent-length: 100\r\n\r\n{"
        )
        closed = pool.map(closed_after_s, (silent, stalled))
        dripped = injections.drip_headers(system)
        (silent_s, heard), (stalled_s, said) = closed
        ledger = report("200 clients drip headers", under_way.stop()).check()
    print(f"\nsilent: closed after {silent_s:.1f} s; stalled: after {stalled_s:.1f} s")
    assert max(silent_s, stalled_s) < CLOSED_S
    assert heard.startswith(b"HTTP/1.1 408 ")
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b'"request_timeout"' in said
    assert all(b" 408 " in one for one in dripped)
    assert max(ledger.latencies_s) < 1.0


def test_an_ingress_without_file_descriptors_recovers(system: System) -> None:
    """It takes no new connections meanwhile; what it has goes on, and the other one takes more."""
    with system.traffic() as under_way, ThreadPoolExecutor(NEW_CLIENTS) as pool:
        time.sleep(1.0)
        starving = pool.submit(injections.take_file_descriptors, system, "Ingress")
        time.sleep(0.5)
        answers = list(pool.map(lambda _: injections.ask(system, 1.0), range(10 * NEW_CLIENTS)))
        pid = starving.result(30)
        time.sleep(2.0)
        report("an ingress without descriptors", under_way.stop()).check()
    assert {answer.status_code for answer in answers} == {200}
    assert pid in system.pids("Ingress")
    running.wait_for(system.service.is_ready, 30)


def test_a_worker_without_file_descriptors_recovers(system: System) -> None:
    """Lines that are open go on."""
    with system.traffic() as under_way:
        injections.take_file_descriptors(system, "ModelWorker")
        report("a worker without descriptors", under_way.stop()).check()
    running.wait_for(system.service.is_ready, 30)
