"""Open loop: requests at times fixed in advance, whether or not the server keeps up.

Latency counts from the time when a request was meant to be sent, so what waits because the server
stalls is measured with its wait (no coordinated omission). A process of its own: a `Task` as JSON
on standard input, an `Outcome` as JSON on standard output.
"""

from __future__ import annotations

import asyncio
import collections
import gc
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import uvloop

from benchmarks.http_client import Answer, Connection
from benchmarks.timer import Timer

START_DELAY_S: Final = 0.05
LAST_ANSWER_S: Final = 10.0
"""How long the last answers may take after the last request was due."""


class NoAnswerError(Exception):
    """Not one request was answered right."""


@dataclass(frozen=True)
class Task:
    """What is to be sent, how often, and the answer that is right."""

    host: str
    port: int
    path: str
    body: str
    expected: float
    per_s: float
    seconds: float
    warm_up_s: float = 1.0
    """What is due in this time before `seconds` begin is sent, and not counted unless it fails."""
    arrivals: str = "constant"
    """constant: evenly spaced; poisson: independent of each other."""
    seed: int = 0
    connections: int = 64
    most_waiting: int = 10_000
    """Requests that may wait for a connection; more are not sent, and are errors."""


@dataclass(frozen=True)
class Outcome:
    """Latencies in ms; `errors` by kind, over the warm-up too."""

    wanted_per_s: float
    achieved_per_s: float
    requests: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    late_p99_ms: float
    """How late the generator itself woke up, at the 99th percentile: its own share of latency."""
    errors: dict[str, int]


def schedule(
    per_s: float, seconds: float, arrivals: str = "constant", seed: int = 0
) -> npt.NDArray[np.float64]:
    """Return when requests are due, in seconds from 0 to `seconds`, in order."""
    if arrivals == "constant":
        return np.arange(int(per_s * seconds)) / per_s
    if arrivals != "poisson":
        raise ValueError(f"arrivals must be constant or poisson, got {arrivals!r}")
    count = np.random.default_rng(seed).poisson(per_s * seconds)
    # Given their number, the arrivals of a Poisson process are uniform and independent.
    return np.sort(np.random.default_rng(seed + 1).uniform(0.0, seconds, count))


def request(task: Task) -> bytes:
    """Return the request, head and body."""
    body = task.body.encode()
    return (
        f"POST {task.path} HTTP/1.1\r\nHost: {task.host}:{task.port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


class Generator:
    """Sends one schedule over a fixed pool of connections that are kept open."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._request = request(task)
        self._due = schedule(task.per_s, task.warm_up_s + task.seconds, task.arrivals, task.seed)
        self._latency_s = np.full(len(self._due), np.nan)
        self._late_s: list[float] = []
        self._idle: collections.deque[Connection] = collections.deque()
        self._waiting: collections.deque[int] = collections.deque()
        self._errors: collections.Counter[str] = collections.Counter()
        self._next = 0
        self._open = len(self._due)
        self._last_answer_s = 0.0
        self._right: set[bytes] = set()

    async def run(self) -> Outcome:
        """Send everything, wait for the answers, and return the figures."""
        loop = asyncio.get_running_loop()
        self._finished = loop.create_future()
        connections = [Connection(self._free, self._lost) for _ in range(self._task.connections)]
        for one in connections:
            await one.connect(self._task.host, self._task.port)
        self._timer = Timer()
        self._start_s = time.monotonic() + START_DELAY_S
        loop.add_reader(self._timer.fileno(), self._wake)
        self._timer.set(self._start_s + float(self._due[0]))
        try:
            async with asyncio.timeout(START_DELAY_S + float(self._due[-1]) + LAST_ANSWER_S):
                await self._finished
        except TimeoutError:
            self._errors["unanswered"] += self._open
        finally:
            loop.remove_reader(self._timer.fileno())
            self._timer.close()
            for one in connections:
                one.close()
        return self._outcome()

    def _wake(self) -> None:
        """Send what is due by now, and sleep until the next is."""
        self._timer.clear()
        now = time.monotonic() - self._start_s
        due = self._due
        while self._next < len(due) and due[self._next] <= now:
            self._late_s.append(now - due[self._next])
            self._send(self._next)
            self._next += 1
        if self._next < len(due):
            self._timer.set(self._start_s + float(due[self._next]))

    def _send(self, number: int) -> None:
        if self._idle:
            # In turn: a server may close a connection on which nothing has ever been asked.
            self._idle.popleft().send(self._request, number, self._answered)
        elif len(self._waiting) < self._task.most_waiting:
            self._waiting.append(number)
        else:
            self._fail("not sent")

    def _free(self, connection: Connection) -> None:
        if self._waiting:
            connection.send(self._request, self._waiting.popleft(), self._answered)
        else:
            self._idle.append(connection)

    def _lost(self, connection: Connection, number: int | None) -> None:
        """Note that the server has closed a connection, maybe with a request on it."""
        if connection in self._idle:
            self._idle.remove(connection)
        if number is not None:
            self._fail("connection lost")

    def _answered(self, number: int, answer: Answer) -> None:
        self._last_answer_s = time.monotonic() - self._start_s
        if answer.status != 200:  # noqa: PLR2004
            self._fail(f"status {answer.status}")
        elif not self._is_right(answer.body):
            self._fail("wrong answer")
        else:
            self._latency_s[number] = self._last_answer_s - self._due[number]
            self._settle()

    def _is_right(self, body: bytes) -> bool:
        """Whether the result is right; the same bytes are looked at once."""
        if body in self._right:
            return True
        try:
            result = float(json.loads(body)["result"])
        except (ValueError, KeyError, TypeError):
            return False
        is_right = bool(np.isclose(result, self._task.expected, rtol=1e-9, atol=0))
        if is_right:
            self._right.add(body)
        return is_right

    def _fail(self, kind: str) -> None:
        self._errors[kind] += 1
        self._settle()

    def _settle(self) -> None:
        self._open -= 1
        if self._open == 0 and not self._finished.done():
            self._finished.set_result(None)

    def _outcome(self) -> Outcome:
        counted = self._due >= self._task.warm_up_s
        latency_ms = self._latency_s[counted] * 1e3
        latency_ms = latency_ms[~np.isnan(latency_ms)]
        if not len(latency_ms):
            raise NoAnswerError(f"no right answer: {dict(self._errors)}")
        p50, p90, p99 = np.percentile(latency_ms, [50, 90, 99])
        took_s = max(self._last_answer_s - self._task.warm_up_s, 1e-9)
        return Outcome(
            wanted_per_s=self._task.per_s,
            achieved_per_s=len(latency_ms) / took_s,
            requests=int(counted.sum()),
            p50_ms=float(p50),
            p90_ms=float(p90),
            p99_ms=float(p99),
            max_ms=float(latency_ms.max()),
            late_p99_ms=float(np.percentile(self._late_s, 99) * 1e3) if self._late_s else 0.0,
            errors=dict(self._errors),
        )


def main() -> None:
    """Read a task, run it, print the outcome."""
    task = Task(**json.load(sys.stdin))
    generator = Generator(task)
    gc.collect()
    gc.disable()  # a collection would be a pause of the generator, not of the server
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            outcome = runner.run(generator.run())
        except (NoAnswerError, OSError) as error:
            sys.exit(str(error))
    print(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main()
