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


def test_an_ingress_and_a_worker_without_file_descriptors_recover(system: System) -> None:
    """What they have goes on; who connects anew is answered by the others, or waits."""
    with system.traffic() as under_way, ThreadPoolExecutor(2 + NEW_CLIENTS) as pool:
        time.sleep(1.0)
        starving = [
            pool.submit(injections.take_file_descriptors, system, deployment)
            for deployment in ("Ingress", "ModelWorker")
        ]
        time.sleep(0.5)
        answers = list(pool.map(lambda _: injections.ask(system, 1.0), range(10 * NEW_CLIENTS)))
        ingress, worker = (one.result(30) for one in starving)
        time.sleep(2.0)
        report("an ingress and a worker without descriptors", under_way.stop()).check()
    assert {answer.status_code for answer in answers} == {200}
    assert ingress in system.pids("Ingress")
    assert worker in system.pids("ModelWorker")
    running.wait_for(system.service.is_ready, 30)
