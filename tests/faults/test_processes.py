"""Whatever process ends or stands still, requests are answered."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psutil
import pytest
import yaml

from tests import odd_models, running
from tests.faults.conftest import BACK_S, DEADLINE_S, SLOPE, System
from tests.traffic import report

KILLS = 20
HELD_S = 0.3
"""How long the workers stand still before one is killed, and once more that one alone, so that
it has something: that takes longer than 1.5 times this, and what another had does not."""
OUT_S = 15.0
"""Within which a worker that stands still is asked no more."""

LONG_S = 22.0
"""Less than DEADLINE_S, and longer than Serve lets a replica take for its end by default."""
ROWS_PER_CALL = 4096
"""`dispatch.max_rows_per_call` as shipped."""

GONE_S = 8.0
"""Until whoever had asked a replica that has gone has found out."""

UNDER_WAY_S = 0.1
"""What an ingress has under way was sent within this time, and so the machine's own delays."""
HAPROXY_BACK_S = 15.0


def kill_workers(system: System, times: int) -> None:
    """End workers that have something under way; each request is answered."""
    with system.traffic() as under_way:
        for _ in range(times):
            time.sleep(1.0)
            system.kill("ModelWorker", HELD_S)
        ledger = report(f"{times} workers killed", under_way.stop()).check()
    held = sum(took_s > 1.5 * HELD_S for took_s in ledger.latencies_s)
    print(f"requests that a killed worker had: {held}")
    assert held >= times


def test_a_killed_worker_loses_no_request(system: System) -> None:
    """What it had is asked of another."""
    kill_workers(system, 1)


@pytest.mark.system
@pytest.mark.timeout(1200)
def test_twenty_killed_workers_lose_no_request(system: System) -> None:
    """The same, again and again."""
    kill_workers(system, KILLS)


def test_a_worker_that_stands_still_is_soon_asked_no_more(system: System) -> None:
    """What it had is asked of another, and nothing is lost when it comes back."""
    stopped = psutil.Process(system.pids("ModelWorker")[0])
    with system.traffic() as under_way:
        time.sleep(1.0)
        stopped.suspend()
        try:
            time.sleep(OUT_S)
            with system.traffic(per_s=20.0) as later:
                time.sleep(3.0)
                seen = later.stop().check()
        finally:
            if stopped.is_running():
                stopped.resume()
        time.sleep(2.0)  # what it answers now, nobody waits for any more
        all_seen = report("a worker stopped", under_way.stop()).check()
    assert max(seen.latencies_s) < 2.0
    assert max(all_seen.latencies_s) < OUT_S


@pytest.mark.parametrize("deployment", ["Ingress", "ModelWorker"])
def test_a_replica_that_stops_has_as_long_as_its_longest_request(
    system: System, deployment: str
) -> None:
    """What Serve kills before that loses what it has."""
    assert system.service.options(deployment)["graceful_shutdown_timeout_s"] > DEADLINE_S


@contextmanager
def one_less(system: System, name: str) -> Iterator[None]:
    """Have one replica of a deployment instead of two inside the `with` block."""
    shipped = yaml.safe_load((system.service.root / "var" / "serve_config.yaml").read_text())
    changed = copy.deepcopy(shipped)
    for deployment in changed["applications"][0]["deployments"]:
        if deployment["name"] == name:
            deployment["autoscaling_config"].update(min_replicas=1, max_replicas=1)
    system.service.apply(changed)
    try:
        yield
    finally:
        system.service.apply(shipped)


@pytest.mark.system
@pytest.mark.timeout(300)
@pytest.mark.parametrize("deployment", ["Ingress", "ModelWorker"])
def test_a_replica_that_is_not_needed_any_more_ends_what_it_has(
    system: System, deployment: str
) -> None:
    """Each worker has half of a batch that takes long, and a replica has to go.

    When an ingress goes, Serve replaces HAProxy, which has what the other ingress has, too.
    """
    weighs = round(LONG_S / odd_models.WEIGH_S)
    half = [float(odd_models.WEIGHS)] * weighs + [1.0] * (ROWS_PER_CALL - weighs)
    with system.traffic():
        time.sleep(4.0)  # until no ingress remembers that a row may take so long
    with ThreadPoolExecutor(1) as pool:
        sent = time.monotonic()
        asked = pool.submit(system.service.post, "/batch", {"X": [*half, *half]}, timeout=60)
        time.sleep(0.5)  # until they have it
        with one_less(system, deployment):
            answer, took_s = asked.result(), time.monotonic() - sent
            running.wait_for(lambda: len(system.pids(deployment)) == 1, BACK_S)
    print(f"a batch, and one {deployment} less: {answer.status_code} after {took_s:.1f} s")
    assert answer.status_code == 200
    assert answer.json()["result"] == [SLOPE * x for x in (*half, *half)]
    assert LONG_S < took_s < LONG_S + 5.0  # side by side, and neither half was asked twice


@pytest.mark.system
@pytest.mark.parametrize("deployment", ["Ingress", "ModelWorker"])
def test_replicas_go_and_come_and_lose_no_request(system: System, deployment: str) -> None:
    """As autoscaling lets them, under steady traffic."""
    with system.traffic() as under_way:
        time.sleep(1.0)
        with one_less(system, deployment):
            running.wait_for(lambda: len(system.pids(deployment)) == 1, BACK_S)
            time.sleep(GONE_S)
        running.wait_for(lambda: len(system.pids(deployment)) == 2, BACK_S)
        time.sleep(GONE_S)
        report(f"one {deployment} less, and one more", under_way.stop()).check()


def test_a_killed_ingress_loses_what_it_had(system: System) -> None:
    """And no more: HAProxy asks the other one."""
    with system.traffic() as under_way:
        time.sleep(1.0)
        killed_at = system.kill("Ingress")
        time.sleep(1.0)
        ledger = report("an ingress killed", under_way.stop())
    under_way_s = max(UNDER_WAY_S, ledger.p99_s)
    assert all(-under_way_s < due - killed_at < UNDER_WAY_S for due in ledger.lost_due)
    assert ledger.answered + ledger.lost_count == ledger.sent


@pytest.mark.parametrize(
    "name",
    [
        "ray::ServeController",
        pytest.param("RolloutController", marks=pytest.mark.system),
        pytest.param("ray::ProxyActor", marks=pytest.mark.system),
    ],
)
def test_who_is_not_on_the_way_of_requests_may_end(system: System, name: str) -> None:
    """Serving goes on, and it is started again."""
    with system.traffic() as under_way:
        time.sleep(1.0)
        if name == "RolloutController":
            system.kill(name)
        else:
            system.kill_process(name)
        time.sleep(3.0)
        report(f"{name} killed", under_way.stop()).check()


@pytest.mark.parametrize(
    "name", ["haproxy", pytest.param("ray::HAProxyManager", marks=pytest.mark.system)]
)
def test_haproxy_is_started_again(system: System, name: str) -> None:
    """Nothing is answered without it, nor without what manages it."""
    with system.traffic() as under_way:
        time.sleep(1.0)
        killed_at = time.monotonic()
        system.kill_process(name)
        running.wait_for(system.service.is_ready, BACK_S)
        time.sleep(2.0)
        ledger = report(f"{name} killed", under_way.stop())
    back_s = max(ledger.lost_due, default=killed_at) - killed_at
    print(f"the last request that was lost came {back_s:.1f} s after")
    assert all(due > killed_at - UNDER_WAY_S for due in ledger.lost_due)
    assert back_s < HAPROXY_BACK_S
    assert ledger.answered + ledger.lost_count == ledger.sent
