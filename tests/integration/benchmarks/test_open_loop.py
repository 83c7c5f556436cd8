"""The open-loop generator against a server of our own making, over real sockets."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks.open_loop import Task

ROOT = Path(__file__).parents[3]
RATE = 400.0
SECONDS = 1.0
TRIES = 5

Answer = Callable[[int], tuple[int, bytes, float]]
"""The number of a request -> status, body, and seconds to stall everybody first."""


@contextmanager
def server(answer: Answer, asked: collections.Counter[int] | None = None) -> Iterator[int]:
    """A server on one thread; yields its port. Counts in `asked` by the port of the client."""
    numbers = itertools.count()
    started: concurrent.futures.Future[int] = concurrent.futures.Future()
    ending: list[Callable[[], object]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, client_port = writer.get_extra_info("peername")
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().split(b"content-length:")[1].split()[0]))
                if asked is not None:
                    asked[client_port] += 1
                status, body, stall_s = answer(next(numbers))
                threading.Event().wait(stall_s)  # nobody else is answered meanwhile
                writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n" % (status, len(body)))
                writer.write(body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def serve() -> None:
        end = asyncio.Event()
        loop = asyncio.get_running_loop()
        ending.append(lambda: loop.call_soon_threadsafe(end.set))
        async with await asyncio.start_server(handle, "127.0.0.1", 0) as listening:
            started.set_result(listening.sockets[0].getsockname()[1])
            await end.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        yield started.result(10)
    finally:
        ending[0]()
        thread.join(10)


def run(port: int, **changes: Any) -> subprocess.CompletedProcess[str]:
    """Run the generator as the measurement does."""
    task = Task(
        host="127.0.0.1",
        port=port,
        path="/stream",
        body='{"X": 0.2}',
        expected=1.5,
        per_s=RATE,
        seconds=SECONDS,
        warm_up_s=0.2,
    )
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.open_loop"],
        cwd=ROOT,
        input=json.dumps({**asdict(task), **changes}),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def outcome(port: int, **changes: Any) -> dict[str, Any]:
    """What it found."""
    completed = run(port, **changes)
    assert completed.returncode == 0, completed.stderr
    found: dict[str, Any] = json.loads(completed.stdout)
    return found


def right(number: int) -> tuple[int, bytes, float]:
    """The right answer, at once."""
    return 200, b'{"result": 1.5}', 0.0


@pytest.mark.parametrize("arrivals", ["constant", "poisson"])
def test_every_request_of_the_schedule_is_sent_and_answered(arrivals: str) -> None:
    with server(right) as port:
        found = outcome(port, arrivals=arrivals)
    assert found["errors"] == {}
    assert found["requests"] == pytest.approx(RATE * SECONDS, rel=0.2)
    assert found["achieved_per_s"] == pytest.approx(RATE, rel=0.25)
    assert 0 < found["p50_ms"] <= found["p90_ms"] <= found["p99_ms"] <= found["max_ms"]


def test_connections_are_used_in_turn() -> None:
    """One that is never used would be closed by a server that waits for its first request."""
    asked: collections.Counter[int] = collections.Counter()
    with server(right, asked) as port:
        outcome(port, connections=8)
    assert len(asked) == 8
    assert min(asked.values()) > 0.5 * max(asked.values())


def test_what_waits_while_the_server_stalls_is_measured_with_its_wait() -> None:
    """One stall of a quarter of a second is met by the hundred requests that were due in it.

    A generator that waits for answers before it sends on would see one slow request in four
    hundred, and call its 90th percentile quick.
    """

    def stalls_once(number: int) -> tuple[int, bytes, float]:
        return 200, b'{"result": 1.5}', 0.25 if number == 200 else 0.0

    medians_ms: list[float] = []
    while len(medians_ms) < TRIES and min(medians_ms, default=100) >= 100:
        with server(stalls_once) as port:
            found = outcome(port)
        assert found["errors"] == {}
        assert found["max_ms"] > 240
        assert found["p90_ms"] > 100
        medians_ms.append(found["p50_ms"])
    # The rest is quick, unless the machine stalls as well, which it does not each time.
    assert min(medians_ms) < 100


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (503, b"{}", "status 503"),
        (200, b'{"result": 1.50001}', "wrong answer"),
        (200, b"no", "wrong answer"),
    ],
)
def test_an_answer_that_is_not_right_is_an_error_of_its_kind(
    status: int, body: bytes, kind: str
) -> None:
    def every_tenth(number: int) -> tuple[int, bytes, float]:
        return (status, body, 0.0) if number % 10 == 0 else right(number)

    with server(every_tenth) as port:
        found = outcome(port)
    total = RATE * (SECONDS + 0.2)
    assert found["errors"] == {kind: pytest.approx(total / 10, abs=2)}


def test_what_finds_no_room_to_wait_is_not_sent_and_is_an_error() -> None:
    """The queue has a bound."""

    def slow(number: int) -> tuple[int, bytes, float]:
        return 200, b'{"result": 1.5}', 0.02

    with server(slow) as port:
        found = outcome(port, connections=2, most_waiting=5)
    assert found["errors"]["not sent"] > 100
    assert found["achieved_per_s"] < 60


def test_a_server_that_never_answers_right_is_an_error_in_one_line() -> None:
    with server(lambda number: (500, b"", 0.0)) as port:
        completed = run(port)
    assert completed.returncode != 0
    assert "status 500" in completed.stderr
    assert "Traceback" not in completed.stderr
