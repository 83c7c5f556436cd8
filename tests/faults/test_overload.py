"""At three times what the service can do, what is let in is answered in time, the rest at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tests import running, traffic
from tests.faults.conftest import SLOPE, VERSION, System, start
from tests.odd_models import Costly
from tests.traffic import Ledger, Task, report

RECORD_S = 0.005
"""What a record costs, so that two workers do 400 a second."""
AT_ONCE = 20
"""The chosen concurrency: requests that each of the two ingresses has under way."""
SENDERS = 2 * AT_ONCE
LONG_S = 300.0
RECOVERED_S = 10.0
SAMPLES = 10
"""Of memory, while it lasts."""

BESIDE_BATCHES_S = 1.0
"""What single records take at most beside batches, at the 99th percentile."""


@pytest.fixture(scope="module")
def costly(
    tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[System]:
    """A system whose capacity is that of its model, and that doesn't grow."""

    def change(config: dict[str, Any]) -> None:
        config["applications"][0]["args"]["limits"] = {"max_requests": AT_ONCE}
        for deployment in config["applications"][0]["deployments"]:
            if bounds := deployment.get("autoscaling_config"):
                bounds["max_replicas"] = bounds["min_replicas"]

    root = tmp_path_factory.mktemp("overload")
    with start(root, free_port, Costly(SLOPE, RECORD_S), change) as service:
        yield System(service)


def p99(latencies_s: list[float]) -> float:
    """The 99th percentile."""
    return float(np.percentile(latencies_s, 99))


def unloaded(system: System, seconds: float = 10.0) -> tuple[float, float]:
    """Return requests a second and p99 with as many senders as are let in at once."""
    service = system.service
    task = Task(service.url, 0.0, {VERSION: SLOPE}, closed=SENDERS - 4, key=service.key, sheds=True)
    with traffic.traffic(task) as under_way:
        time.sleep(seconds)
        ledger = under_way.stop().check()
    return (ledger.answered - ledger.shed) / seconds, p99(ledger.latencies_s)


def capacity(system: System, seconds: float = 10.0) -> float:
    """Return how many requests a second are answered when far more are sent."""
    with system.traffic(4 / RECORD_S, sheds=True, connections=2000, batch_every=0) as under_way:
        time.sleep(seconds)
        ledger = under_way.stop().check()
    return (ledger.answered - ledger.shed) / seconds


def overload(system: System, seconds: float) -> None:
    """Send three times too much, and check what becomes of it, meanwhile and after."""
    unloaded_per_s, unloaded_p99_s = unloaded(system)
    per_s = capacity(system)
    held = [system.memory()]
    with system.traffic(3 * per_s, sheds=True, connections=2000, batch_every=0) as under_way:
        for _ in range(SAMPLES):
            time.sleep(seconds / SAMPLES)
            held.append(system.memory())
        ledger: Ledger = under_way.stop().check()
    time.sleep(RECOVERED_S / 2)
    after_per_s, after_p99_s = unloaded(system, RECOVERED_S / 2)
    goodput = (ledger.answered - ledger.shed) / seconds
    figures = {
        "capacity a second": per_s,
        "a second and p99 unloaded, s": (unloaded_per_s, unloaded_p99_s),
        "sent": ledger.sent,
        "shed": ledger.shed,
        "p99 of the accepted, s": p99(ledger.latencies_s),
        "p99 and longest of the refused, s": (p99(ledger.shed_s), max(ledger.shed_s)),
        "goodput a second": goodput,
        "memory, MB": [round(one / 1e6) for one in held],
        "a second and p99 after, s": (after_per_s, after_p99_s),
    }
    print("\noverload: " + ", ".join(f"{name}: {value}" for name, value in figures.items()))
    assert ledger.shed > ledger.sent / 2, figures
    assert max(held) < 1.1 * held[0] + 50e6, figures
    assert p99(ledger.latencies_s) < 2 * unloaded_p99_s, figures
    assert p99(ledger.shed_s) < 0.1, figures
    assert goodput > 0.9 * per_s, figures
    assert after_per_s > 0.9 * unloaded_per_s, figures
    assert after_p99_s < 1.5 * unloaded_p99_s, figures


@pytest.mark.system
@pytest.mark.timeout(900)
def test_three_times_too_much_for_five_minutes(costly: System) -> None:
    """The long one."""
    overload(costly, LONG_S)


@pytest.mark.system
def test_batches_do_not_keep_single_records_out(costly: System) -> None:
    """Twenty clients send batches that would take a second each, one after the other."""
    stop = False

    def send_batches(_: int) -> set[int]:
        seen: set[int] = set()
        while not stop:
            answer = costly.service.post("/batch", {"X": [1.0] * 100}, timeout=60)
            seen.add(answer.status_code)
            time.sleep(0.05 if answer.status_code == 503 else 0.0)
        return seen

    with ThreadPoolExecutor(AT_ONCE) as pool:
        senders = [pool.submit(send_batches, number) for number in range(AT_ONCE)]
        time.sleep(2.0)
        with costly.traffic(per_s=20.0) as under_way:
            time.sleep(10.0)
            ledger = under_way.stop()
        stop = True
        statuses = set().union(*(sender.result(60) for sender in senders))
    report("single records beside batches", ledger).check()
    assert 200 in statuses <= {200, 503, 504}
    assert p99(ledger.latencies_s) < BESIDE_BATCHES_S
    running.wait_for(costly.service.is_ready, 30)
