"""Calls over a real connection: answered right, lost with an error, and for those who may."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from serve_app.calls import server as server_module
from serve_app.calls import wire
from serve_app.calls.ask import Ask, BusyError
from serve_app.calls.connection import Address
from serve_app.calls.lines import (
    MOST_UNANSWERED,
    STUCK_S,
    CallFailedError,
    Line,
    LineLostError,
    Lines,
)
from serve_app.calls.server import Answer, Server
from serve_app.errors import BodyTooLargeError
from serve_app.models.predictions import Predictions
from serve_app.records.rows import Rows

HOST = "127.0.0.1"
ROWS = np.array([[1.0], [2.0]])
ASK = Ask("7")


async def double(rows: Rows, sizes: tuple[int, ...], ask: Ask) -> Predictions:
    """Twice each row; errors for negative ones; raises for zero."""
    if (rows == 0).any():
        raise ValueError("zero")
    return Predictions(
        rows[:, 0] * 2, dict.fromkeys(np.flatnonzero(rows[:, 0] < 0).tolist(), "negative")
    )


class Gate:
    """An answer that waits until it may go."""

    def __init__(self) -> None:
        self.started, self.may_go = asyncio.Event(), asyncio.Event()
        self.was_cancelled = asyncio.Event()

    async def answer(self, rows: Rows, sizes: tuple[int, ...], ask: Ask) -> Predictions:
        """Wait, and answer the rows."""
        self.started.set()
        try:
            await self.may_go.wait()
        except asyncio.CancelledError:
            self.was_cancelled.set()
            raise
        return Predictions(rows[:, 0])


@asynccontextmanager
async def listening(answer: Answer) -> AsyncIterator[tuple[Server, Address]]:
    """A server, and where it is."""
    server = Server(answer)
    try:
        yield server, (HOST, await server.start(HOST), server.secret)
    finally:
        await server.close(1.0)
        await asyncio.sleep(0.01)  # asyncio closes sockets in its next turn


@asynccontextmanager
async def connected(answer: Answer) -> AsyncIterator[tuple[Server, Line]]:
    """A server and a line to it."""
    async with listening(answer) as (server, address):
        line = await Line.open(*address)
        try:
            yield server, line
        finally:
            line.close()


def test_calls_are_answered_each_with_its_own() -> None:
    """Many at once, with errors by row."""

    async def scenario() -> None:
        async with connected(double) as (_, line):
            blocks = [np.full((size, 1), float(size)) for size in range(1, 50)]
            found = await asyncio.gather(*(line.call(rows, (len(rows),), ASK) for rows in blocks))
            for rows, predictions in zip(blocks, found, strict=True):
                np.testing.assert_array_equal(predictions.values, rows[:, 0] * 2)
            failed = await line.call(np.array([[1.0], [-1.0]]), (2,), ASK)
            assert failed.errors == {1: "negative"}
            assert line.pending_rows == 0

    asyncio.run(scenario())


def test_a_call_that_raises_fails_alone() -> None:
    """The line goes on."""

    async def scenario() -> None:
        async with connected(double) as (_, line):
            with pytest.raises(CallFailedError, match="ValueError: zero"):
                await line.call(np.zeros((1, 1)), (1,), ASK)
            assert (await line.call(ROWS, (2,), ASK)).values.tolist() == [2.0, 4.0]

    asyncio.run(scenario())


def test_a_worker_with_no_time_for_a_shadow_says_so() -> None:
    """Which is no failure of the version."""

    async def busy(rows: Rows, sizes: tuple[int, ...], ask: Ask) -> Predictions:
        if ask.is_shadow:
            raise BusyError("another version has a batch")
        return Predictions(rows[:, 0])

    async def scenario() -> None:
        async with connected(busy) as (_, line):
            with pytest.raises(BusyError):
                await line.call(ROWS, (2,), ASK._replace(is_shadow=True))
            assert (await line.call(ROWS, (2,), ASK)).values.tolist() == [1.0, 2.0]

    asyncio.run(scenario())


def test_what_is_known_at_once_is_answered_at_once() -> None:
    """Values, records that failed, and errors; nothing is left under way."""

    def known(rows: Rows, sizes: tuple[int, ...], ask: Ask) -> Predictions:
        if (rows == 0).any():
            raise ValueError("zero")
        return Predictions(rows[:, 0] * 3, {1: "odd"}, 0.5, 2)

    async def scenario() -> None:
        async with connected(known) as (server, line):
            found = await line.call(ROWS, (2,), ASK)
            assert found.values.tolist() == [3.0, 6.0]
            assert found[1:] == ({1: "odd"}, 0.5, 2)
            with pytest.raises(CallFailedError, match="ValueError: zero"):
                await line.call(np.zeros((1, 1)), (1,), ASK)
            assert not server.is_busy

    asyncio.run(scenario())


def test_an_answer_that_does_not_fit_a_frame_fails_its_call_alone() -> None:
    """The line goes on, whether it was there at once or not."""

    def too_large(rows: Rows, sizes: tuple[int, ...], ask: Ask) -> Predictions:
        if (rows < 0).any():
            return Predictions(np.array([2**70, 1], dtype=object))
        return Predictions(rows[:, 0])

    async def too_late(rows: Rows, sizes: tuple[int, ...], ask: Ask) -> Predictions:
        await asyncio.sleep(0)
        return too_large(rows, sizes, ask)

    async def scenario() -> None:
        for answer in (too_large, too_late):
            async with connected(answer) as (server, line):
                with pytest.raises(CallFailedError, match="TypeError"):
                    await line.call(-ROWS, (2,), ASK)
                assert (await line.call(ROWS, (2,), ASK)).values.tolist() == [1.0, 2.0]
                assert not server.is_busy

    asyncio.run(scenario())


def test_rows_that_no_frame_holds_fail_their_call_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of them is sent, and the calls under way are answered."""
    monkeypatch.setattr(wire, "MAX_FRAME_BYTES", 1000)

    async def scenario() -> None:
        gate = Gate()
        async with connected(gate.answer) as (_, line):
            other = asyncio.create_task(line.call(ROWS, (2,), ASK))
            await gate.started.wait()
            with pytest.raises(BodyTooLargeError, match="send fewer at once"):
                await line.call(np.zeros((200, 1)), (200,), ASK)
            assert line.pending_rows == len(ROWS)
            gate.may_go.set()
            assert (await other).values.tolist() == [1.0, 2.0]
            assert (await line.call(ROWS, (2,), ASK)).values.tolist() == [1.0, 2.0]

    asyncio.run(scenario())


def test_an_answer_that_no_frame_holds_fails_its_call_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The line goes on."""
    monkeypatch.setattr(wire, "MAX_FRAME_BYTES", 1000)

    def wide(rows: Rows, sizes: tuple[int, ...], ask: Ask) -> Predictions:
        return Predictions(np.zeros((len(rows), 1 + 200 * (rows[0, 0] < 0))))

    async def scenario() -> None:
        async with connected(wide) as (_, line):
            with pytest.raises(CallFailedError, match="FrameTooLargeError"):
                await line.call(-ROWS, (2,), ASK)
            assert (await line.call(ROWS, (2,), ASK)).values.tolist() == [[0.0], [0.0]]

    asyncio.run(scenario())


def test_a_call_that_is_cancelled_before_it_has_begun_leaves_nothing(
    recwarn: pytest.WarningsRecorder,
) -> None:
    """No coroutine that was never awaited."""

    async def scenario() -> None:
        async with connected(double) as (server, line):
            call = asyncio.create_task(line.call(ROWS, (2,), ASK))
            await asyncio.sleep(0)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            assert (await line.call(ROWS, (2,), ASK)).values.tolist() == [2.0, 4.0]
            assert not server.is_busy

    asyncio.run(scenario())
    assert not [one for one in recwarn if "never awaited" in str(one.message)]


def test_a_lost_connection_fails_what_waits_and_what_comes() -> None:
    """At once, not at a deadline."""

    async def scenario() -> None:
        gate = Gate()
        async with connected(gate.answer) as (_, line):
            call = asyncio.create_task(line.call(ROWS, (2,), ASK))
            await gate.started.wait()
            line.close()
            with pytest.raises(LineLostError):
                await call
            with pytest.raises(LineLostError):
                await line.call(ROWS, (2,), ASK)
            await asyncio.wait_for(gate.was_cancelled.wait(), 5)

    asyncio.run(scenario())


def test_a_cancelled_call_is_cancelled_at_the_worker() -> None:
    """And its neighbours are not."""

    async def scenario() -> None:
        gate = Gate()
        async with connected(gate.answer) as (_, line):
            dropped = asyncio.create_task(line.call(ROWS, (2,), ASK))
            kept = asyncio.create_task(line.call(ROWS, (2,), ASK))
            await gate.started.wait()
            dropped.cancel()
            await asyncio.wait_for(gate.was_cancelled.wait(), 5)
            gate.may_go.set()
            assert (await kept).values.tolist() == [1.0, 2.0]

    asyncio.run(scenario())


def test_a_server_that_closes_answers_what_is_under_way() -> None:
    """A worker that is stopped loses nothing."""

    async def scenario() -> None:
        gate = Gate()
        async with connected(gate.answer) as (server, line):
            call = asyncio.create_task(line.call(ROWS, (2,), ASK))
            await gate.started.wait()
            assert server.is_busy
            closing = asyncio.create_task(server.close(5.0))
            gate.may_go.set()
            await closing
            assert (await call).values.tolist() == [1.0, 2.0]
            assert not server.is_busy

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "first",
    [
        b"".join(map(bytes, wire.frame({"secret": "guessed"}))),
        b"".join(map(bytes, wire.frame({"id": 1, "sizes": [1], "ask": [*ASK]}, ROWS))),
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"\0" * 100,
    ],
)
def test_whoever_does_not_know_the_secret_is_shown_out(first: bytes) -> None:
    """Without an answer, and without the model seeing anything."""

    async def scenario() -> None:
        gate = Gate()
        async with listening(gate.answer) as (_, address):
            reader, writer = await asyncio.open_connection(HOST, address[1])
            writer.write(first)
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
            assert not gate.started.is_set()

    asyncio.run(scenario())


def test_whoever_says_nothing_is_shown_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while."""
    monkeypatch.setattr(server_module, "HELLO_TIMEOUT_S", 0.05)

    async def scenario() -> None:
        async with listening(double) as (_, address):
            reader, writer = await asyncio.open_connection(HOST, address[1])
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()

    asyncio.run(scenario())


def test_what_is_asked_and_how_long_it_took_come_through() -> None:
    """Calls are spread over the workers by the latter, and versions compared."""

    async def slow(rows: Rows, sizes: tuple[int, ...], ask: Ask) -> Predictions:
        assert ask == Ask("7", wants_probabilities=True)
        return Predictions(rows[:, 0], model_s=1.5, model_rows=5)

    async def scenario() -> None:
        async with connected(slow) as (_, line):
            found = await line.call(ROWS, (2,), Ask("7", wants_probabilities=True))
            assert (found.model_s, found.model_rows) == (1.5, 5)

    asyncio.run(scenario())


def test_lines_follow_the_workers() -> None:
    """New ones are used, gone ones finish what they have, dead ones are passed over."""

    async def scenario() -> None:
        gate = Gate()
        async with listening(gate.answer) as (_, first), listening(double) as (_, second):
            nobody = (HOST, 1, "x")
            lines = Lines()
            assert lines.pick() is None
            await lines.follow([first, nobody], 5.0)
            line = lines.pick()
            assert line is not None
            call = asyncio.create_task(line.call(ROWS, (2,), ASK))
            await gate.started.wait()
            await lines.follow([first, second], 5.0)
            other = lines.pick()
            assert other is not None
            assert other is not line  # it has fewer rows under way
            await lines.follow([second], 5.0)
            assert not line.is_open
            gate.may_go.set()
            assert (await call).values.tolist() == [1.0, 2.0]
            other.close()
            await asyncio.sleep(0)
            await lines.follow([second], 5.0)
            again = lines.pick()
            assert again is not None
            assert (await again.call(ROWS, (2,), ASK)).values.tolist() == [2.0, 4.0]
            again.close()

    asyncio.run(scenario())


def test_a_worker_that_says_nothing_is_given_up() -> None:
    """What it had is lost, and it is opened anew only once it speaks."""

    async def scenario() -> None:
        gate = Gate()
        async with listening(gate.answer) as (server, address):
            lines = Lines()
            await lines.follow([address], 5.0)
            line = lines.pick()
            assert line is not None
            call = asyncio.create_task(line.call(ROWS, (2,), ASK))
            await gate.started.wait()
            for _ in range(2 * MOST_UNANSWERED):  # it answers
                lines.look_after(5.0)
                await asyncio.sleep(0.005)
            assert line.is_open
            for connection in server.connections:
                connection._transport.pause_reading()
            for _ in range(MOST_UNANSWERED + 1):
                lines.look_after(5.0)
            with pytest.raises(LineLostError):
                await call
            assert lines.pick() is None
            lines.look_after(5.0)
            while lines.pick() is None:
                await asyncio.sleep(0.005)
            again = lines.pick()
            assert again is not None
            again.close()

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_a_connection_that_nobody_answers_is_no_line() -> None:
    """A process that was stopped takes connections, too."""

    async def scenario() -> None:
        silent = await asyncio.get_running_loop().create_server(asyncio.Protocol, HOST, 0)
        async with silent:
            port = silent.sockets[0].getsockname()[1]
            lines = Lines()
            await lines.follow([(HOST, port, "x")], 0.1)
            assert lines.pick() is None
            await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_a_worker_whose_model_is_stuck_comes_last() -> None:
    """However little it has under way."""

    async def scenario() -> None:
        async with listening(double) as (stuck, first), listening(double) as (_, second):
            stuck.busy_s = lambda: STUCK_S + 1
            lines = Lines()
            await lines.follow([first, second], 5.0)
            lines.look_after(5.0)
            await asyncio.sleep(0.05)
            line = lines.pick()
            assert line is not None
            assert not line.is_stuck
            line.pending_rows = 1000
            assert lines.pick() is line
            for one in (first, second):
                lines._lines[one].close()

    asyncio.run(scenario())


def test_a_worker_that_is_gone_from_the_table_is_given_up_too() -> None:
    """If it has stopped, what it has would never be answered."""

    async def scenario() -> None:
        gate = Gate()
        async with listening(gate.answer) as (server, address):
            lines = Lines()
            await lines.follow([address], 5.0)
            line = lines.pick()
            assert line is not None
            call = asyncio.create_task(line.call(ROWS, (2,), ASK))
            await gate.started.wait()
            for connection in server.connections:
                connection._transport.pause_reading()
            await lines.follow([], 5.0)
            for _ in range(MOST_UNANSWERED + 1):
                lines.look_after(5.0)
            with pytest.raises(LineLostError):
                await call

    asyncio.run(asyncio.wait_for(scenario(), 10))
