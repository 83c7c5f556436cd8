"""Whatever a model does, only the records at fault fail, and every caller has an answer."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests import odd_models, running
from tests.faults.conftest import BACK_S, PER_S, SLOPE, System, report

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
        answer = system.service.post("/stream", {"X": float(odd_models.CRASHES)}, timeout=60)
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

    def ask(record: float) -> requests.Response:
        return system.service.post("/stream", {"X": record}, timeout=60)

    with system.traffic() as under_way, ThreadPoolExecutor(CROWD) as pool:
        time.sleep(0.5)
        began = time.monotonic()
        records = [float(odd_models.HANGS) if at == CROWD // 2 else 1.0 for at in range(CROWD)]
        answers = list(pool.map(ask, records))
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

    def hangs_up(number: int) -> bool:
        try:
            system.service.post("/stream", {"X": 1.0}, timeout=0.001)
        except requests.Timeout:
            return True
        return False

    with system.traffic() as under_way, ThreadPoolExecutor(16) as pool:
        time.sleep(1.0)
        assert sum(pool.map(hangs_up, range(1000))) > 500
        time.sleep(1.0)
        ledger = report("a thousand clients hang up", under_way.stop()).check()
    assert ledger.sent > PER_S


def test_a_client_may_wait_for_less(system: System) -> None:
    """It is told in time; what it sends otherwise by headers does nothing."""
    headers = {"x-api-key": system.service.key}
    answer = system.service.post(
        "/stream", {"X": 1.0}, headers={**headers, "x-request-timeout-ms": "1"}
    )
    assert answer.status_code in (200, 504)
    for name, value in (
        ("x-request-timeout-seconds", "0"),
        ("x-request-timeout-seconds", "nan"),
        ("x-request-timeout-seconds", "\xff"),
        ("x-request-disconnect-disabled", "?1"),
    ):
        answer = system.service.post(
            "/stream", {"X": 1.0}, headers={**headers, name: value.encode("latin-1")}
        )
        assert answer.json() == {"result": SLOPE}
