"""At three times what the service can do, what is let in is answered in time, the rest at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from serve_app.settings import Limits
from tests import running, traffic
from tests.faults.conftest import SLOPE, VERSION, System, start
from tests.odd_models import COST_S, COSTLY, Moody
from tests.traffic import Task, report

INGRESSES = 2
SPARE = 2
"""Of the places of each ingress: one may have a few more senders than the other."""
LONG_S, SHORT_S = 300.0, 6.0
MEASURED_S = 10.0
"""For how long what is compared is measured, at most."""
SETTLED_S = 5.0
"""After an overload."""
REFUSED_S = 0.1
"""Within which those are refused that are too many; twice that for the slowest hundredth."""
SAMPLES = 10
"""Of memory, while it lasts."""
ENDLESS = 2000
"""Connections: more than are ever let in."""

BESIDE_BATCHES_S = 0.7
"""What single records take at most beside batches, at the 99th percentile."""

AT_ONCE = 20
"""The chosen concurrency: requests that each of the two ingresses has under way."""


@pytest.fixture(scope="module")
def narrow(
    tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]
) -> Iterator[System]:
    """A system that lets in few requests at once, and doesn't grow."""

    def change(config: dict[str, Any]) -> None:
        config["applications"][0]["args"]["limits"] = {"max_requests": AT_ONCE}
        for deployment in config["applications"][0]["deployments"]:
            if bounds := deployment.get("autoscaling_config"):
                bounds["max_replicas"] = bounds["min_replicas"]

    root = tmp_path_factory.mktemp("overload")
    with start(root, free_port, Moody(SLOPE), change) as service:
        yield System(service)


def p99(latencies_s: list[float]) -> float:
    """The 99th percentile."""
    return float(np.percentile(latencies_s, 99))


def unloaded(system: System, at_once: int, seconds: float) -> tuple[float, float]:
    """Return requests a second and p99 with nearly as many senders as are let in at once."""
    task = Task(
        system.service.url,
        0.0,
        {VERSION: SLOPE},
        closed=INGRESSES * (at_once - SPARE),
        key=system.service.key,
        connections=ENDLESS,
        batch_every=0,
        sheds=True,
        least=COSTLY,
    )
    with traffic.traffic(task) as under_way:
        time.sleep(seconds)
        ledger = under_way.stop().check()
    return ledger.in_time / seconds, ledger.p99_s


def flooded(system: System, per_s: float) -> Any:
    """Traffic of costly records, of which any may be refused."""
    return system.traffic(per_s, sheds=True, connections=ENDLESS, batch_every=0, least=COSTLY)


def capacity(system: System, seconds: float) -> float:
    """Return how many requests are answered a second when far more are sent."""
    with flooded(system, 4 / COST_S) as under_way:
        time.sleep(seconds)
        ledger = under_way.stop().check()
    return float(ledger.in_time) / seconds


def overload(system: System, at_once: int, seconds: float) -> None:
    """Send three times too much, and check what becomes of it, meanwhile and after."""
    measured_s = min(MEASURED_S, seconds / 2)
    unloaded_per_s, unloaded_p99_s = unloaded(system, at_once, measured_s)
    per_s = capacity(system, measured_s)
    held = [system.memory()]
    with flooded(system, 3 * per_s) as under_way:
        began = time.monotonic()
        for _ in range(SAMPLES):
            time.sleep(seconds / SAMPLES)
            held.append(system.memory())
        lasted_s = time.monotonic() - began
        ledger = under_way.stop().check()
    assert ledger.shed_s, "nothing was refused: the senders can't send as much as is answered"
    time.sleep(min(SETTLED_S, seconds / 2))
    after_per_s, after_p99_s = unloaded(system, at_once, measured_s)
    goodput = ledger.in_time / lasted_s
    figures: dict[str, Any] = {
        "capacity a second": per_s,
        "a second and p99 unloaded, s": (unloaded_per_s, unloaded_p99_s),
        "sent": ledger.sent,
        "shed": ledger.shed,
        "p99 of the accepted, s": ledger.p99_s,
        "p99 and longest of the refused, s": (p99(ledger.shed_s), max(ledger.shed_s)),
        "refused in time": sum(one < REFUSED_S for one in ledger.shed_s),
        "goodput a second": goodput,
        "memory, MB": [round(one / 1e6) for one in held],
        "a second and p99 after, s": (after_per_s, after_p99_s),
    }
    print("\noverload: " + ", ".join(f"{name}: {value}" for name, value in figures.items()))
    is_long = seconds >= LONG_S
    # Of three times too much two thirds are refused. In a few seconds on a busy machine the senders
    # can't send all of it, and what can be answered is measured too low.
    assert ledger.shed > ledger.sent / (3 if is_long else 5), figures
    assert max(held) < 1.1 * held[0], figures
    assert held[-1] < 1.03 * held[SAMPLES // 2], figures
    assert ledger.p99_s < 2 * unloaded_p99_s, figures
    # No refusal waits for what was let in before it.
    assert p99(ledger.shed_s) < unloaded_p99_s / 4, figures
    assert goodput > 0.9 * per_s, figures
    if is_long:  # otherwise the first answers come when half of the time is over
        assert p99(ledger.shed_s) < 2 * REFUSED_S, figures
        assert figures["refused in time"] > 0.999 * ledger.shed, figures
        assert after_per_s > 0.8 * unloaded_per_s, figures
    assert after_p99_s < 1.5 * unloaded_p99_s, figures


@pytest.mark.system
@pytest.mark.timeout(900)
def test_three_times_too_much_for_five_minutes(narrow: System) -> None:
    """The long one."""
    overload(narrow, AT_ONCE, LONG_S)


def test_three_times_too_much(system: System) -> None:
    """The short one, with as many at once as a service lets in by default."""
    overload(system, Limits().max_requests, SHORT_S)


def send_batches(system: System, clients: int, seconds: float) -> set[int]:
    """Let clients send batches that would take half a second each, one after the other; return the
    statuses that they saw."""
    stop = False

    def send(_: int) -> set[int]:
        seen: set[int] = set()
        while not stop:
            answer = system.service.post("/batch", {"X": [COSTLY] * 100}, timeout=60)
            seen.add(answer.status_code)
            time.sleep(0.05 if answer.status_code == 503 else 0.0)
        return seen

    with ThreadPoolExecutor(clients) as pool:
        senders = [pool.submit(send, number) for number in range(clients)]
        try:
            time.sleep(2.0)
            with system.traffic(20.0, batch_every=0, least=COSTLY) as under_way:
                time.sleep(seconds)
                ledger = report("single records beside batches", under_way.stop()).check()
        finally:
            stop = True
        statuses = set().union(*(sender.result(60) for sender in senders))
    assert ledger.p99_s < BESIDE_BATCHES_S
    running.wait_for(system.service.is_ready, 30)
    return statuses


@pytest.mark.system
def test_batches_do_not_keep_single_records_out(narrow: System) -> None:
    """With all the places of `/batch` taken, and more clients that are refused."""
    statuses = send_batches(narrow, 2 * INGRESSES * AT_ONCE, MEASURED_S)
    assert {200, 503} <= statuses <= {200, 503, 504}


def test_batches_do_not_keep_single_records_waiting(system: System) -> None:
    """The same, with a place for each of them."""
    assert send_batches(system, AT_ONCE, SHORT_S) == {200}
