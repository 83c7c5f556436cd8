"""Behind a real uvicorn: answers that nobody takes are counted, and cut off in the end."""

import asyncio
from typing import Any

import numpy as np
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.http.answers import SMALL_BYTES, TAKES_ABORT
from serve_app.http.body import Limits
from serve_app.http.endpoint import Endpoint
from serve_app.http.gate import Gate
from serve_app.http.one_write import joined
from serve_app.metrics.counts import GONE, Requests
from serve_app.models.predictions import Predictions
from serve_app.protocols.question import Answer, Head, Question
from serve_app.records.rows import Rows
from tests.unit.serve_app.http.servers import serving

LARGE = 32 * 2**20
"""Bytes: more than the kernel keeps for a connection on its way."""

REQUEST = (
    b"POST / HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\ncontent-length: 1\r\n\r\n1"
)
SMALL = REQUEST[:-1] + b"0"
SOON_S = 20.0


async def predict(rows: Rows, wants: bool, within_s: float | None) -> Predictions:
    """Answer with the rows themselves."""
    return Predictions(rows[:, 0])


def read(head: Head, body: bytes) -> Question:
    """A question with a long answer, or with one that is just not."""
    size = LARGE if body == b"1" else SMALL_BYTES
    return Question(np.ones((1, 1)), lambda found: Answer(b"x" * size))


def answering(
    gate: Gate,
    timeout_s: float,
    answered: asyncio.Queue[bool] | None = None,
    counted: Requests | None = None,
) -> ASGIApp:
    """An endpoint that says after each answer whether its connection is full."""
    endpoint = Endpoint(
        read,
        predict,
        Limits(1000, 5.0, answer_timeout_s=timeout_s),
        gate,
        [],
        counted or Requests(),
    )

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await endpoint({**scope, TAKES_ABORT: True}, receive, joined(send))
        if answered is not None:
            cycle: Any = getattr(send, "__self__")  # noqa: B009
            answered.put_nowait(cycle.flow.write_paused)

    return app


async def settled(gate: Gate, size: int) -> None:
    """Return once so many bytes are under way."""
    while gate._bytes != size:
        await asyncio.sleep(0.01)


async def statuses(reader: asyncio.StreamReader) -> tuple[bytes, int]:
    """Return an answer's status line and how much of its body came before the end."""
    head = await reader.readuntil(b"\r\n\r\n")
    size = 0
    try:
        while chunk := await reader.read(2**16):
            size += len(chunk)
            if size == LARGE:
                break
    except ConnectionResetError:
        pass
    return head.split(b"\r\n", 1)[0], size


def test_an_answer_counts_until_it_is_taken() -> None:
    """What would be too much meanwhile is refused; then there's room again, on all connections."""

    async def scenario() -> None:
        gate = Gate(10, LARGE + 1000)
        async with asyncio.timeout(SOON_S), serving(answering(gate, SOON_S)) as port:
            slow, to_slow = await asyncio.open_connection("127.0.0.1", port, limit=2**16)
            to_slow.write(REQUEST)
            await settled(gate, LARGE)
            other, to_other = await asyncio.open_connection("127.0.0.1", port, limit=2**16)
            to_other.write(REQUEST)
            head = await other.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503")
            assert await statuses(slow) == (b"HTTP/1.1 200 OK", LARGE)
            await settled(gate, 0)
            to_slow.write(REQUEST)
            assert await statuses(slow) == (b"HTTP/1.1 200 OK", LARGE)
            for writer in (to_slow, to_other):
                writer.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("is_gone", [False, True])
def test_an_answer_that_nobody_takes_is_cut_off(is_gone: bool) -> None:
    """After its time, or when its client is gone; its bytes count no more."""

    async def scenario() -> None:
        gate, counted = Gate(10, 2 * LARGE), Requests()
        app = answering(gate, SOON_S if is_gone else 0.3, counted=counted)
        async with asyncio.timeout(SOON_S), serving(app) as port:
            slow, to_slow = await asyncio.open_connection("127.0.0.1", port, limit=2**16)
            to_slow.write(REQUEST)
            await settled(gate, LARGE)
            if is_gone:
                to_slow.transport.abort()
            await settled(gate, 0)
            if not is_gone:
                head, size = await statuses(slow)
                assert head == b"HTTP/1.1 200 OK"
                assert size < LARGE
                assert (counted.statuses[200], counted.statuses[GONE]) == (0, 1)
            to_slow.close()

    asyncio.run(scenario())


def test_an_answer_whose_head_cannot_go_out_is_cut_off_as_well() -> None:
    """Behind small ones that nobody takes."""

    async def scenario() -> None:
        gate = Gate(10, 2 * LARGE)
        answered: asyncio.Queue[bool] = asyncio.Queue()
        async with asyncio.timeout(SOON_S), serving(answering(gate, 0.3, answered)) as port:
            _, to_slow = await asyncio.open_connection("127.0.0.1", port, limit=2**16)
            is_full = False
            while not is_full:
                to_slow.write(SMALL)
                is_full = await answered.get()
            to_slow.write(REQUEST)
            await settled(gate, LARGE)
            await settled(gate, 0)
            to_slow.close()

    asyncio.run(scenario())
