"""Random faults for an hour under steady traffic, with memory measured: `make soak`.

Prints a line for each fault and for the memory every minute, and at the end what became of all
requests. Exits with 1 if more were lost than that fault may cost, or if memory has grown.
"""

from __future__ import annotations

import argparse
import bisect
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import psutil

from tests import odd_models, running
from tests.conftest import find_free_port
from tests.faults import injections
from tests.faults.conftest import BACK_S, SLOPE, System, start
from tests.odd_models import Moody

PER_S: Final = 100.0
PAUSE_S: Final = 5.0
"""Between the end of one fault and the next."""
STOPPED_S: Final = 12.0
HELD_S: Final = 0.3
"""How long a worker stands still before it is killed, so that it has several requests."""
MEMORY_EVERY_S: Final = 60.0
WARM_UP_S: Final = 120.0
"""After which memory is to stay where it is."""
GROWTH: Final = 1.15
DUE_S: Final = 0.1
"""How long before a fault a request may have been sent that is lost with it."""

AT_FAULT: Final = (
    odd_models.RAISES,
    odd_models.CANCELS,
    odd_models.EXITS,
    odd_models.FALLS_SHORT,
    odd_models.HAS_NONE,
)
CLIENTS: Final = 500

LOST_WITH: Final = {
    "an ingress killed": 15,
    "HAProxy killed": int(15 * PER_S),
    "a record that ends its worker": 2,
}
"""Requests that a fault may cost each time; no other may cost any."""


class Fault(NamedTuple):
    """A fault that was injected; what is lost until the next one is its cost."""

    name: str
    began: float
    """By `time.monotonic`, as the ledger has it."""


def send_records_at_fault(system: System) -> None:
    """Send one record of each kind, which is to fail alone."""
    for record in AT_FAULT:
        answer = injections.ask(system, record)
        if answer.status_code != 422:
            raise AssertionError(f"{record}: {answer.status_code} {answer.text}")


FAULTS: Final[dict[str, Callable[[System], object]]] = {
    "a worker killed": lambda system: system.kill("ModelWorker", HELD_S),
    "a worker stopped": lambda system: injections.stop_a_worker(system, STOPPED_S),
    "a worker without descriptors": lambda system: injections.take_file_descriptors(
        system, "ModelWorker"
    ),
    "an ingress killed": lambda system: system.kill("Ingress"),
    "an ingress without descriptors": lambda system: injections.take_file_descriptors(
        system, "Ingress"
    ),
    "the rollout controller killed": lambda system: system.kill("RolloutController"),
    "Serve's controller killed": lambda system: system.kill_process("ray::ServeController"),
    "the proxy actor killed": lambda system: system.kill_process("ray::ProxyActor"),
    "HAProxy killed": lambda system: system.kill_process("haproxy"),
    "records at fault": send_records_at_fault,
    "a record that ends its worker": lambda system: injections.ask(system, odd_models.CRASHES),
    "a record that never ends": injections.hang_a_worker,
    "clients that hang up": lambda system: injections.hang_up(system, CLIENTS),
    "clients that drip headers": injections.drip_headers,
}


def memory(system: System) -> dict[str, float]:
    """MiB by deployment, the mean of its replicas, as those that were killed begin anew; and of
    all processes together, shared pages counted once."""
    found = {
        name: float(
            np.mean([psutil.Process(pid).memory_info().rss for pid in system.pids(name)]) / 2**20
        )
        for name in ("Ingress", "ModelWorker", "RolloutController")
    }
    return {**found, "all": system.memory() / 2**20}


def is_whole(system: System) -> bool:
    """Whether all runs and answers."""
    counts = [len(system.pids(name)) for name in ("Ingress", "ModelWorker", "RolloutController")]
    return counts[0] >= 2 and counts[1] >= 2 and counts[2] == 1 and system.service.is_ready()


def order(rng: random.Random) -> Iterator[str]:
    """Yield names of faults for ever: each once, then whichever comes."""
    yield from rng.sample(list(FAULTS), len(FAULTS))
    while True:
        yield rng.choice(list(FAULTS))


def costs(faults: Sequence[Fault], lost_due: Sequence[float]) -> list[int]:
    """Return how many requests were lost with each fault."""
    began = [fault.began for fault in faults]
    counts = Counter(bisect.bisect(began, due + DUE_S) - 1 for due in lost_due)
    return [counts[at] for at in range(len(faults))]


def show_memory(system: System, now: float) -> dict[str, float]:
    """Measure and print it."""
    measured = memory(system)
    text = ", ".join(f"{name} {mib:.0f} MiB" for name, mib in measured.items())
    print(f"{now:6.0f} s  {text}", flush=True)
    return measured


def soak(system: System, minutes: float, seed: int) -> int:
    """Inject faults for so long; return the exit code."""
    faults: list[Fault] = []
    measured: list[tuple[float, dict[str, float]]] = []
    began = time.monotonic()
    warm_up_s = min(WARM_UP_S, 60 * minutes / 4)
    names = order(random.Random(seed))
    with system.traffic(PER_S) as under_way:
        while (now := time.monotonic() - began) < 60 * minutes:
            if not measured or now - measured[-1][0] > min(MEMORY_EVERY_S, warm_up_s):
                measured.append((now, show_memory(system, now)))
            name = next(names)
            print(f"{now:6.0f} s  {name}", flush=True)
            faults.append(Fault(name, time.monotonic()))
            FAULTS[name](system)
            running.wait_for(lambda: is_whole(system), 2 * BACK_S)
            time.sleep(PAUSE_S)
        ledger = under_way.stop()
    ended = time.monotonic() - began
    measured.append((ended, show_memory(system, ended)))
    warm = next(one for at, one in measured if at > warm_up_s)
    growth = {name: mib / warm[name] for name, mib in measured[-1][1].items()}
    lost = list(zip(faults, costs(faults, ledger.lost_due), strict=True))
    too_many = [
        f"{fault.name}, at {fault.began - began:.0f} s: {count} lost"
        for fault, count in lost
        if count > LOST_WITH.get(fault.name, 0)
    ]
    latencies_ms = 1000 * np.percentile(ledger.latencies_s, [50, 99, 99.9])
    print(f"requests: {ledger.sent} sent, {ledger.lost_count} lost, all others answered right")
    for name in FAULTS:
        each = [count for fault, count in lost if fault.name == name]
        print(f"  {name}: {len(each)} times, {sum(each)} lost, {max(each, default=0)} at most")
    print("latency: p50 {:.1f} ms, p99 {:.1f} ms, p99.9 {:.1f} ms".format(*latencies_ms))
    print("memory, by what it was: " + ", ".join(f"{n} {g:.2f}x" for n, g in growth.items()))
    for text in (*too_many, *ledger.lost[:5]):
        print(f"  {text}")
    is_counted = ledger.answered + ledger.lost_count == ledger.sent
    is_fine = not too_many and is_counted and max(growth.values()) <= GROWTH
    print("passed" if is_fine else "FAILED")
    return 0 if is_fine else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the order of faults (%(default)s)")
    options = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory() as folder,
        start(Path(folder), find_free_port, Moody(SLOPE, 0.002)) as service,
    ):
        return soak(System(service), options.minutes, options.seed)


if __name__ == "__main__":
    sys.exit(main())
