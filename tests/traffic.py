"""Steady traffic with a ledger: an open loop in a process of its own, every answer checked.

A request is sent when it is due, whether or not earlier ones were answered, and never again. The
process takes a `Task` as JSON in its first line of input, sends until its input ends, waits for
what is under way, and prints a `Ledger` as JSON.
"""

from __future__ import annotations

import asyncio
import collections
import gc
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
import uvloop

from tests import running
from tests.keep_alive import Answer, Client

ANSWER_TIMEOUT_S = 30.0
MOST_REMEMBERED = 100
BATCH_ROWS = 5
GARBAGE = (50_000, 20, 1000)
"""When Python collects it: a collection of all objects is a pause of ours, not of the service."""
GOLDEN = 0.6180339887498949
"""Its multiples are spread evenly over the unit interval, modulo 1."""


@dataclass(frozen=True)
class Task:
    """What is sent: record x is to be answered by the version's slope times x."""

    url: str
    per_s: float
    slopes: Mapping[str, float]
    """By version; what other versions answer is kept, to be checked later."""
    clients: int = 500
    """Clients that take turns, each known by its `x-client-id`."""
    may_fail: tuple[str, ...] = ()
    """Versions whose own errors (422) are no loss."""
    closed: int = 0
    """If not 0, a closed loop instead: so many senders, each of which waits for its answer."""
    key: str = ""
    """API key, if the service asks for one."""
    connections: int = 64
    batch_every: int = 10
    """Every so many requests one is a batch; 0 for none."""
    sheds: bool = False
    """Whether a 503 with `retry-after` is no loss."""
    least: float = 0.1
    """Records are from here on, within one."""


@dataclass
class Ledger:
    """What became of the requests. Times are in seconds."""

    sent: int = 0
    right: dict[str, int] = field(default_factory=dict)
    """Right answers by `<version> <role>`."""
    refused: dict[str, int] = field(default_factory=dict)
    """Errors of models that may fail, likewise."""
    shed: int = 0
    """Requests that were refused with 503 and `retry-after`."""
    shed_s: list[float] = field(default_factory=list)
    """How long each of these took."""
    lost: list[str] = field(default_factory=list)
    """What became of the first requests that were lost or answered wrong."""
    lost_count: int = 0
    lost_due: list[float] = field(default_factory=list)
    """When each of these was to be sent, by `time.monotonic`, which all processes share."""
    in_time: int = 0
    """Answers, but for those that were shed, before the traffic was stopped."""
    last_at: dict[str, float] = field(default_factory=dict)
    """When each `<version> <role>` answered last, in seconds since the epoch."""
    moves: dict[str, list[str]] = field(default_factory=dict)
    """By client: the versions that answered it, in order, each repetition once."""
    latencies_s: list[float] = field(default_factory=list)
    unchecked: list[tuple[str, list[float], list[float]]] = field(default_factory=list)
    """Version, records and results, of versions that were not known."""

    @property
    def answered(self) -> int:
        """How many requests have an answer that may be."""
        return sum(self.right.values()) + sum(self.refused.values()) + self.shed

    @property
    def p99_s(self) -> float:
        """The 99th percentile of what those took that were not shed."""
        return float(np.percentile(self.latencies_s, 99))

    def touched(self, version: str) -> int:
        """How many requests a version has answered as challenger."""
        key = f"{version} challenger"
        return self.right.get(key, 0) + self.refused.get(key, 0)

    def check(self) -> Self:
        """Fail unless each request was answered once, and right."""
        assert self.lost == [], (self.lost_count, self.lost)
        assert self.answered == self.sent > 0
        return self


def report(what: str, ledger: Ledger) -> Ledger:
    """Print the figures that docs/reliability.md has, for `pytest -s`; return the ledger."""
    p50, p99, longest = 1000 * np.percentile(ledger.latencies_s, [50, 99, 100])
    print(
        f"\n{what}: {ledger.sent} sent, {ledger.lost_count} lost; "
        f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {longest / 1000:.1f} s"
    )
    return ledger


class Traffic:
    """Traffic under way."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._ledger: Ledger | None = None

    def stop(self) -> Ledger:
        """End it, and return what became of all requests."""
        if self._ledger is None:
            said, _ = self._process.communicate(timeout=2 * ANSWER_TIMEOUT_S)
            self._ledger = Ledger(**json.loads(said))
        return self._ledger


@contextmanager
def traffic(task: Task) -> Iterator[Traffic]:
    """Traffic that runs inside the `with` block, or until it is stopped."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.traffic"],
        cwd=running.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(asdict(task)) + "\n")
        process.stdin.flush()
        try:
            yield Traffic(process)
        finally:
            process.kill()


class Sender:
    """Sends and keeps the ledger."""

    def __init__(self, task: Task, client: Client) -> None:
        self._task = task
        self._client = client
        self._end = asyncio.Event()
        self.ledger = Ledger()
        self._right: collections.Counter[str] = collections.Counter()
        self._refused: collections.Counter[str] = collections.Counter()

    async def run(self, end: asyncio.Event) -> Ledger:
        """Send until `end`, wait for the answers, and return the ledger."""
        self._end = end
        await (self._send_closed(end) if self._task.closed else self._send_open(end))
        self.ledger.right, self.ledger.refused = dict(self._right), dict(self._refused)
        return self.ledger

    async def _send_closed(self, end: asyncio.Event) -> None:
        async def go_on() -> None:
            while not end.is_set():
                self.ledger.sent += 1
                await self._send(self.ledger.sent, time.monotonic())

        await asyncio.gather(*(go_on() for _ in range(self._task.closed)))

    async def _send_open(self, end: asyncio.Event) -> None:
        under_way: set[asyncio.Task[None]] = set()
        began = time.monotonic()
        while not end.is_set():
            due = began + self.ledger.sent / self._task.per_s
            if (early_s := due - time.monotonic()) > 0:
                await asyncio.sleep(early_s)
            task = asyncio.create_task(self._send(self.ledger.sent, due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            self.ledger.sent += 1
        await asyncio.gather(*under_way)

    async def _send(self, number: int, due: float) -> None:
        client = f"client-{number % self._task.clients}"
        x = self._task.least + (number * GOLDEN) % 1.0
        is_batch = self._task.batch_every > 0 and number % self._task.batch_every == 0
        xs = [x + step for step in range(BATCH_ROWS)] if is_batch else [x]
        try:
            answer = await self._client.post(
                "/batch" if is_batch else "/stream",
                {"X": xs if is_batch else x},
                {"x-client-id": client, "x-api-key": self._task.key},
            )
            content = answer.json()
        except (OSError, ValueError, TimeoutError) as error:
            self._lose(due, f"request {number}: {type(error).__name__}: {error}")
            return
        took_s = time.monotonic() - due
        if self._task.sheds and answer.status == 503 and "retry-after" in answer.headers:
            self.ledger.shed += 1
            self.ledger.shed_s.append(took_s)
            return
        self.ledger.latencies_s.append(took_s)
        self.ledger.in_time += not self._end.is_set()
        if what := self._judge(client, xs, answer, content):
            self._lose(due, f"request {number}: {what}")

    def _judge(self, client: str, xs: list[float], answer: Answer, found: Any) -> str | None:
        """Count an answer; return what is wrong with it, if anything is."""
        version = answer.headers.get("x-model-version", "")
        key = f"{version} {answer.headers.get('x-model-role')}"
        moves = self.ledger.moves.setdefault(client, [])
        if moves[-1:] != [version]:
            moves.append(version)
        self.ledger.last_at[key] = time.time()
        if answer.status == 422 and version in self._task.may_fail:
            self._refused[key] += 1
        elif answer.status != 200:
            return f"{answer.status} of {key}: {found}"
        elif not self._is_right(version, xs, found["result"]):
            return f"{key} answered {found} for {xs}"
        else:
            self._right[key] += 1
        return None

    def _is_right(self, version: str, xs: list[float], result: Any) -> bool:
        slope = self._task.slopes.get(version)
        results = result if isinstance(result, list) else [result]
        if slope is None:
            self.ledger.unchecked.append((version, xs, results))
            return bool(version)
        return len(results) == len(xs) and all(
            abs(y - slope * x) < 1e-9 for x, y in zip(xs, results, strict=True)
        )

    def _lose(self, due: float, what: str) -> None:
        self.ledger.lost_count += 1
        self.ledger.lost_due.append(due)
        if len(self.ledger.lost) < MOST_REMEMBERED:
            self.ledger.lost.append(what)


async def main() -> None:
    """Do what the first line of input says."""
    task = Task(**json.loads(sys.stdin.readline()))
    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin, end.set)
    gc.freeze()
    gc.set_threshold(*GARBAGE)
    async with Client(task.url, task.connections, ANSWER_TIMEOUT_S) as client:
        ledger = await Sender(task, client).run(end)
    print(json.dumps(asdict(ledger)))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
