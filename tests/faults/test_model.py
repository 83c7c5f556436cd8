"""Whatever a model does, only the records at fault fail, and every caller has an answer."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import requests

from serve_app.loaded import PATIENCE
from tests import odd_models, running
from tests.faults import injections
from tests.faults.conftest import BACK_S, DEADLINE_S, PER_S, SLOPE, System, start
from tests.odd_models import Moody
from tests.traffic import report

AT_FAULT = {
    "raises": odd_models.RAISES,
    "is cancelled": odd_models.CANCELS,
    "exits": odd_models.EXITS,
    "is interrupted": odd_models.INTERRUPTS,
    "answers too few": odd_models.FALLS_SHORT,
    "answers NaN": odd_models.HAS_NONE,
}

CROWD = 40
"""Requests at once, so that some of them share a batch."""

CALLS = 8
"""Twice as many as the ingresses have under way with the workers."""

OUT_S = 15.0
"""Within which a worker that hangs is asked no more."""

FILLING = 600
"""More than `limits.max_requests` of two ingresses."""


def timed(system: System, record: float, **headers: str) -> tuple[requests.Response, float]:
    """Ask for one record; return the answer and how long it took."""
    sent = {"x-api-key": system.service.key, **headers}
    began = time.monotonic()
    answer = system.service.post("/stream", {"X": record}, headers=sent, timeout=60)
    return answer, time.monotonic() - began


@contextmanager
def keeping_busy(system: System) -> Iterator[None]:
    """Keep both workers busy for a while, so that what is asked inside the `with` block waits, and
    goes to them together."""
    with ThreadPoolExecutor(CALLS) as pool:
        for _ in range(CALLS):
            pool.submit(injections.ask, system, odd_models.LINGERS)
            time.sleep(0.05)
        yield


@pytest.mark.parametrize("record", AT_FAULT.values(), ids=AT_FAULT.keys())
def test_a_record_fails_alone(system: System, record: int) -> None:
    """Its neighbours in the batch and beside it are answered, by the same workers as before."""
    workers = system.pids("ModelWorker")
    with system.traffic() as under_way, ThreadPoolExecutor(8) as pool:
        bad = list(
            pool.map(lambda _: system.service.post("/stream", {"X": float(record)}), range(50))
        )
        batch = system.service.post("/batch?partial=true", {"X": [1.0, float(record), 3.0]})
        under_way.stop().check()
    assert {answer.status_code for answer in bad} == {422}
    assert {answer.json()["code"] for answer in bad} == {"unpredictable_records"}
    assert batch.json()["result"] == [SLOPE, None, 3 * SLOPE]
    assert system.pids("ModelWorker") == workers


def test_a_record_that_ends_its_worker_fails_alone(system: System) -> None:
    """Its neighbours are asked again, each by itself; who loses the second worker, too, is told."""
    with system.traffic() as under_way:
        time.sleep(0.5)
        answer = injections.ask(system, odd_models.CRASHES)
        running.wait_for(lambda: len(system.pids("ModelWorker")) >= 2, BACK_S)
        time.sleep(1.0)
        ledger = report("a record that ends its worker", under_way.stop())
    assert answer.status_code in (422, 503)
    assert "worker" in str(answer.json())
    assert ledger.lost_count <= 2
    assert all("two model workers were lost" in lost for lost in ledger.lost)
    assert ledger.answered + ledger.lost_count == ledger.sent


@pytest.mark.system
@pytest.mark.timeout(600)
def test_a_record_that_never_ends_fails_alone(system: System) -> None:
    """Whoever shares its batch is tried again in time; its worker is replaced."""
    workers = set(system.pids("ModelWorker"))
    records = [float(odd_models.HANGS) if at == CROWD // 2 else 1.0 for at in range(CROWD)]
    with system.traffic() as under_way, keeping_busy(system), ThreadPoolExecutor(CROWD) as pool:
        asked = [pool.submit(timed, system, record) for record in records]
        time.sleep(2 * odd_models.LINGER_S + OUT_S)
        with system.traffic(per_s=20.0) as later:
            time.sleep(3.0)
            seen = later.stop().check()
        answers = [one.result(DEADLINE_S) for one in asked]
        running.wait_for(lambda: bool(set(system.pids("ModelWorker")) - workers), 90)
        time.sleep(2.0)
        ledger = report("a record that never ends", under_way.stop()).check()
    at_fault, own_s = answers.pop(CROWD // 2)
    shared = [took_s for _, took_s in answers if took_s > DEADLINE_S * PATIENCE - 1]
    print(
        f"its own answer: {at_fault.status_code} after {own_s:.1f} s; in its batch: {len(shared)}"
    )
    assert at_fault.status_code in (422, 504)
    assert at_fault.json()["code"] in ("unpredictable_records", "deadline_exceeded")
    assert own_s < DEADLINE_S + 2
    assert {answer.status_code for answer, _ in answers} == {200}
    assert shared
    assert max(seen.latencies_s) < 2.0
    assert max(ledger.latencies_s) < DEADLINE_S


def test_a_client_that_hangs_up_costs_its_neighbours_nothing(system: System) -> None:
    """Hundreds of them; their places are free again."""
    with system.traffic() as under_way:
        time.sleep(1.0)
        assert injections.hang_up(system, 1000) > 500
        time.sleep(1.0)
        ledger = report("a thousand clients hang up", under_way.stop()).check()
    assert ledger.sent > PER_S


def test_clients_that_hang_up_while_the_model_is_busy_free_their_places(system: System) -> None:
    """More of them than are let in at once; whoever comes next is let in."""
    body = json.dumps({"X": odd_models.LINGERS}).encode()
    request = (
        b"POST /stream HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nx-api-key: "
        + system.service.key.encode()
        + b"\r\ncontent-length: %d\r\n\r\n" % len(body)
        + body
    )
    address = ("127.0.0.1", int(system.service.environ["PORT"]))
    with contextlib.ExitStack() as stack:
        for _ in range(FILLING):
            client = stack.enter_context(socket.create_connection(address, timeout=30))
            client.sendall(request)
        time.sleep(0.2)
        full = system.service.post("/stream", {"X": 1.0})
    assert (full.status_code, full.json()["code"]) == (503, "overloaded")
    time.sleep(1.0)
    began = time.monotonic()
    answers = [system.service.post("/stream", {"X": 1.0}) for _ in range(20)]
    took_s = time.monotonic() - began
    print(f"\n{FILLING} clients hung up; twenty requests after that took {took_s:.1f} s")
    assert {answer.status_code for answer in answers} == {200}


def test_what_nobody_waits_for_any_more_is_not_run(system: System) -> None:
    """A client that waits for less is told in time, and the model has no work of it."""
    with keeping_busy(system), ThreadPoolExecutor(CROWD) as pool:
        began = time.monotonic()
        ask = partial(timed, system, odd_models.WEIGHS, **{"x-request-timeout-ms": "300"})
        asked = list(pool.map(lambda _: ask(), range(CROWD)))
        answer, _ = timed(system, 1.0)
        took_s = time.monotonic() - began
    assert {answer.status_code for answer, _ in asked} == {504}
    assert {answer.json()["code"] for answer, _ in asked} == {"deadline_exceeded"}
    assert all(0.29 < took_s < 2.0 for _, took_s in asked)
    print(f"\n{CROWD} records of {odd_models.WEIGH_S} s that nobody waited for: {took_s:.1f} s")
    assert answer.json() == {"result": SLOPE}
    assert took_s < CROWD * odd_models.WEIGH_S / 2  # what two workers would take for them alone


@pytest.mark.system
@pytest.mark.timeout(600)
def test_a_quick_model_that_hangs_costs_its_neighbours_nothing(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """Though it runs on its worker's event loop; the workers are replaced one after the other."""
    with start(tmp_path, free_port, Moody(SLOPE, 0.0)) as service:
        system = System(service)
        workers = set(system.pids("ModelWorker"))
        with system.traffic() as under_way:
            time.sleep(1.0)
            began = time.monotonic()
            answer = service.post("/stream", {"X": odd_models.HANGS}, timeout=60)
            took_s = time.monotonic() - began
            running.wait_for(lambda: not workers & set(system.pids("ModelWorker")), 150)
            time.sleep(5.0)
            ledger = report("a record that hangs a quick model", under_way.stop())
    print(f"its own answer: {answer.status_code} after {took_s:.1f} s")
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
    assert took_s < DEADLINE_S + 2
    ledger.check()
    assert max(ledger.latencies_s) < DEADLINE_S
