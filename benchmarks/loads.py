"""The loads that one running server is put under, and what is read of each."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Final

import psutil

from benchmarks import formats, results, usage, wrk
from benchmarks.asks import Ask
from benchmarks.errors import ServerError
from benchmarks.model import Model
from benchmarks.open_loop import Task
from benchmarks.results import Measurement
from benchmarks.running import HOST, ROOT, Running
from benchmarks.servers import OURS
from benchmarks.wrk import Load
from launcher import console

SHARES: Final = ((25, "constant"), (50, "constant"), (75, "constant"), (50, "poisson"))
"""Open loop: per cent of capacity, arrivals."""
BATCH_ROWS: Final = 1_000
BATCH_CONNECTIONS: Final = 4
FEW_CONNECTIONS: Final = (100_000, 2)
"""From so many rows on, so many connections: four would wait beyond our bound of 200,000 rows."""
_OPEN_LOOP_EXTRA_S: Final = 60.0
_SETTLE_S: Final = 20.0
_UNBOUNDED: Final = 10**6


@dataclass(frozen=True)
class Lengths:
    """How long each load takes."""

    seconds: int
    short_seconds: int
    """Of the sweep over rows and formats."""
    warm_up_seconds: int
    rows: tuple[int, ...]
    """Rows per request of the sweep."""


@dataclass(frozen=True)
class Under:
    """What a load is a measurement of."""

    round: int
    setup: str
    model_name: str


@dataclass(frozen=True)
class _Outcome:
    """A load, and the rate that was asked for."""

    load: Load
    wanted_per_s: float = 0.0
    late_p99_ms: float = 0.0


class Loads:
    """Puts one server under load; each result goes to `add`, and what could not be to `fail`."""

    def __init__(
        self,
        running: Running,
        model: Model,
        under: Under,
        lengths: Lengths,
        add: Callable[[Measurement], None],
        fail: Callable[[str], None],
    ) -> None:
        self._running = running
        self._model = model
        self._under = under
        self._lengths = lengths
        self._add = add
        self._fail = fail

    def warm_up(self) -> None:
        """Send what will be measured, and measure nothing."""
        stream, batch = self._stream(), self._batch(BATCH_ROWS)
        for ask, connections in ((stream, 64), (batch, BATCH_CONNECTIONS)):
            self._running.client.check(ask)
            self._wrk(ask, connections, self._lengths.warm_up_seconds)

    def closed_loop(self) -> float:
        """Measure the three cases of every server; return requests/s at 64 connections."""
        seconds = self._lengths.seconds
        batch = self._batch(BATCH_ROWS)
        capacity = self._closed(results.STREAM_64, self._stream(), 64, seconds)
        self._closed(results.STREAM_1, self._stream(), 1, seconds)
        self._closed(results.BATCH_1000, batch, BATCH_CONNECTIONS, seconds)
        return capacity

    def open_capacity(self, offered_per_s: float) -> float:
        """Return requests/s that are answered when so many are offered in the open loop.

        The generator takes several times what wrk does of the processors that the server has too,
        so what wrk has seen is not what can be answered here.
        """

        def offered(ask: Ask) -> _Outcome:
            task = replace(self._task(ask, offered_per_s, "constant"), warm_up_s=0.0)
            return self._generated(replace(task, most_waiting=_UNBOUNDED))

        return self._measure(results.OPEN_CAPACITY, self._stream(), offered)

    def open_loop(self, capacity_per_s: float) -> None:
        """Measure latency at fixed rates, shares of a capacity."""
        for percent, arrivals in SHARES:
            rate = max(1.0, capacity_per_s * percent / 100)
            load = partial(self._generator, rate=rate, arrivals=arrivals)
            self._measure(results.open_loop(percent, arrivals), self._stream(), load)

    def sweep(self) -> None:
        """Measure many sizes of request, in every format that is taken."""
        if self._running.server.name == OURS:
            taken = formats.taken(self._running.client, self._model)
        else:
            taken = {formats.JSON_LIST: formats.as_list}
        for form, make in taken.items():
            for rows in self._lengths.rows:
                least, few = FEW_CONNECTIONS
                connections = few if rows >= least else BATCH_CONNECTIONS
                ask = make(self._model, rows)
                case = results.by_rows(form, rows)
                self._closed(case, ask, connections, self._lengths.short_seconds)

    def _stream(self) -> Ask:
        return self._running.server.stream(self._model)

    def _batch(self, rows: int) -> Ask:
        return self._running.server.batch(self._model, rows)

    def _closed(self, case: str, ask: Ask, connections: int, seconds: int) -> float:
        return self._measure(case, ask, lambda ask: _Outcome(self._wrk(ask, connections, seconds)))

    def _wrk(self, ask: Ask, connections: int, seconds: int) -> Load:
        return wrk.run(self._running.address, ask, connections, seconds, self._running.scratch)

    def _measure(self, case: str, ask: Ask, load: Callable[[Ask], _Outcome]) -> float:
        """Run a load and note it; return requests/s, 0 if it could not be measured."""
        try:
            one = self._measured(case, ask, load)
        except ServerError as error:
            self._fail(f"{case}: {error}")
            return 0.0
        self._add(one)
        _say(one)
        return one.per_s

    def _measured(self, case: str, ask: Ask, load: Callable[[Ask], _Outcome]) -> Measurement:
        """Run a load between two right answers."""
        client = self._running.client
        client.check(ask)
        before, began = usage.read(), time.monotonic()
        outcome = load(ask)
        used, took_s = usage.read().since(before), time.monotonic() - began
        # What wrk leaves unanswered when its time is over may still stand in the server's queue.
        client.wait_until_right(ask, _SETTLE_S, lambda: None)
        return Measurement(
            server=self._running.server.name,
            case=case,
            rows=ask.rows,
            cpu_s=used.server_s,
            memory_bytes=usage.memory_bytes(),
            elsewhere=used.elsewhere_s / (took_s * (psutil.cpu_count() or 1)),
            round=self._under.round,
            setup=self._under.setup,
            model=self._under.model_name,
            wanted_per_s=outcome.wanted_per_s,
            late_p99_ms=outcome.late_p99_ms,
            **asdict(outcome.load),
        )

    def _generator(self, ask: Ask, rate: float, arrivals: str) -> _Outcome:
        return self._generated(self._task(ask, rate, arrivals))

    def _task(self, ask: Ask, rate: float, arrivals: str) -> Task:
        return Task(
            host=HOST,
            port=self._running.port,
            path=ask.path,
            body=ask.body.decode(),
            expected=float(ask.expected[0]),
            per_s=rate,
            seconds=self._lengths.seconds,
            arrivals=arrivals,
            seed=self._under.round,
        )

    def _generated(self, task: Task) -> _Outcome:
        """Run the open-loop generator in a process of its own."""
        completed = subprocess.run(
            [sys.executable, "-m", "benchmarks.open_loop"],
            cwd=ROOT,
            input=json.dumps(asdict(task)),
            capture_output=True,
            text=True,
            check=False,
            timeout=task.seconds + _OPEN_LOOP_EXTRA_S,
        )
        if completed.returncode != 0:
            raise ServerError(f"the open loop at {task.per_s:.0f}/s: {completed.stderr.strip()}")
        found = json.loads(completed.stdout)
        for kind, count in found["errors"].items():
            console.complain(f"the open loop at {task.per_s:.0f}/s: {count} x {kind}")
        load = Load(
            per_s=found["achieved_per_s"],
            errors=sum(found["errors"].values()),
            **{name: found[name] for name in ("requests", "p50_ms", "p90_ms", "p99_ms", "max_ms")},
        )
        return _Outcome(load, found["wanted_per_s"], found["late_p99_ms"])


def _say(one: Measurement) -> None:
    errors = f"   {one.errors} ERRORS" if one.errors else ""
    busy = f"   {one.elsewhere:.0%} of the CPU elsewhere" if one.elsewhere > 0.05 else ""  # noqa: PLR2004
    console.say(
        f"   {one.case:<44}{one.per_s:>10,.0f}/s   p50 {one.p50_ms:>8.2f} ms   "
        f"p99 {one.p99_ms:>8.2f} ms{errors}{busy}"
    )
