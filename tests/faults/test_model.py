"""Whatever a model does, only the records at fault fail, and every caller has an answer."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import requests

from tests import odd_models, running
from tests.faults import injections
from tests.faults.conftest import BACK_S, PER_S, SLOPE, System, start
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

FILLING = 600
"""More than `limits.max_requests` of two ingresses."""

DEADLINE_S = 30.0
"""`limits.deadline_s` as shipped."""


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
    assert ledger.lost_count <= 5
    assert all("two model workers were lost" in lost for lost in ledger.lost)
    assert ledger.answered + ledger.lost_count == ledger.sent


@pytest.mark.system
@pytest.mark.timeout(600)
def test_a_record_that_never_ends_fails_alone(system: System) -> None:
    """Whoever shares its batch is tried again in time; its worker is replaced."""
    workers = system.pids("ModelWorker")

    with system.traffic() as under_way, ThreadPoolExecutor(CROWD) as pool:
        time.sleep(0.5)
        began = time.monotonic()
        records = [float(odd_models.HANGS) if at == CROWD // 2 else 1.0 for at in range(CROWD)]
        answers = list(pool.map(partial(injections.ask, system), records))
        took_s = time.monotonic() - began
        running.wait_for(lambda: len(set(system.pids("ModelWorker")) - set(workers)) > 0, 90)
        time.sleep(2.0)
        ledger = report("a record that never ends", under_way.stop()).check()
    print(f"its own answer: {answers[CROWD // 2].status_code}, all after {took_s:.1f} s")
    at_fault = answers.pop(CROWD // 2)
    assert at_fault.status_code in (422, 504)
    assert at_fault.json()["code"] in ("unpredictable_records", "deadline_exceeded")
    assert {answer.status_code for answer in answers} == {200}
    assert took_s < DEADLINE_S + 2
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


def test_a_client_may_wait_for_less(system: System) -> None:
    """It is told in time, and the model is soon there for others."""

    def ask(_: int) -> tuple[requests.Response, float]:
        headers = {"x-api-key": system.service.key, "x-request-timeout-ms": "300"}
        began = time.monotonic()
        answer = system.service.post("/stream", {"X": odd_models.LINGERS}, headers=headers)
        return answer, time.monotonic() - began

    with ThreadPoolExecutor(CROWD) as pool:
        asked = list(pool.map(ask, range(CROWD)))
    assert {answer.status_code for answer, _ in asked} == {504}
    assert {answer.json()["code"] for answer, _ in asked} == {"deadline_exceeded"}
    assert all(0.29 < took_s < 1.0 for _, took_s in asked)
    began = time.monotonic()
    assert system.service.post("/stream", {"X": 1.0}).json() == {"result": SLOPE}
    assert time.monotonic() - began < 3 * odd_models.LINGER_S


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
