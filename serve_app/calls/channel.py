"""A connection from an ingress to a worker, for calls that carry arrays.

Serve's own call costs about a millisecond, most of it in choosing a replica, in metadata and in
gRPC; a prediction of a linear model costs a hundredth of that. So rows go over a plain TCP
connection, and Serve does what it is best at: it starts workers, watches them, and says which run.
"""

import asyncio
import contextvars
import hmac
import itertools
import secrets
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import Any, Final

from serve_app.calls import wire
from serve_app.calls.ask import Ask
from serve_app.calls.wire import Array, Head
from serve_app.models.predictions import Predictions
from serve_app.records.rows import Rows

HELLO_TIMEOUT_S: Final = 5.0

MOST_UNANSWERED: Final = 8
"""Pings, one a second; a worker that says nothing for longer has stopped, or hangs. Counted, as
an ingress that was itself stopped for a while knows nothing of its workers."""

MAX_HELLO_BYTES: Final = 1024

STUCK_S: Final = 3.0

Answer = Callable[[Rows, tuple[int, ...], Ask], Predictions | Awaitable[Predictions]]
"""(rows, row counts of the requests in them, what is asked) -> one outcome a row, now or later."""


class LineLostError(Exception):
    """The connection ended before the answer came; the call may have been answered or not."""


class CallFailedError(Exception):
    """The worker answered that it could not answer."""


class _Frames(asyncio.Protocol):
    """A connection that carries frames both ways."""

    def __init__(self) -> None:
        self._frames = wire.Frames()
        self._transport: Any = None
        self._loop: asyncio.AbstractEventLoop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection; called by asyncio."""
        self._transport = transport
        self._loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        """Pass frames on as they are complete; called by asyncio."""
        try:
            for head, payload in self._frames.feed(data):
                self._received(head, payload)
        except wire.MalformedFrameError:
            self.close()

    def _received(self, head: Head, payload: bytearray) -> None:
        raise NotImplementedError

    def _send(self, head: Head, array: Array | None = None) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(wire.frame(head, array))

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()


class Server:
    """A worker's end: takes connections from those who know its secret, and answers their calls.

    `busy_s` says for how many seconds the model has been busy with what it has now.
    """

    def __init__(self, answer: Answer, busy_s: Callable[[], float] = lambda: 0.0) -> None:
        self._answer = answer
        self.busy_s = busy_s
        self.secret = secrets.token_hex(16)
        self._server: asyncio.Server | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self.connections: set[_Frames] = set()

    @property
    def is_busy(self) -> bool:
        """Whether calls are under way."""
        return bool(self._calls)

    async def start(self, host: str) -> int:
        """Listen on a free port of `host`, and return it."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Served(self), host, 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self, timeout_s: float) -> None:
        """Take no more connections, answer the calls under way, and end what is connected."""
        if self._server is not None:
            self._server.close()
        if self._calls:
            await asyncio.wait(self._calls, timeout=timeout_s)
        for connection in list(self.connections):
            connection.close()

    def run(self, rows: Rows, head: Head, reply: Callable[..., None]) -> asyncio.Task[None] | None:
        """Answer one call by `reply(head, array)`: now, or by the task that is returned."""
        try:
            found = self._answer(rows, tuple(head["sizes"]), Ask(*head["ask"]))
        except Exception as error:  # noqa: BLE001  # whatever it is, the caller gets an answer
            reply(*_failed(head, error))
            return None
        if isinstance(found, Predictions):
            reply(*_answered(head, found))
            return None
        task = asyncio.get_running_loop().create_task(self._wait(found, head, reply))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return task

    async def _wait(
        self, found: Awaitable[Predictions], head: Head, reply: Callable[..., None]
    ) -> None:
        try:
            reply(*_answered(head, await found))
        except Exception as error:  # noqa: BLE001  # as above
            reply(*_failed(head, error))


def _answered(call: Head, found: Predictions) -> tuple[Head, Array]:
    errors = {str(at): why for at, why in found.errors.items()}
    took = {"model_s": found.model_s, "model_rows": found.model_rows}
    return {"id": call["id"], "errors": errors, **took}, found.values


def _failed(call: Head, error: Exception) -> tuple[Head]:
    return ({"id": call["id"], "failed": f"{type(error).__name__}: {error}"},)


class _Served(_Frames):
    """One connection to a worker; its first frame must hold the secret."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server
        self._is_trusted = False
        self._frames.max_bytes = MAX_HELLO_BYTES
        self._calls: dict[int, asyncio.Task[None]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.connections.add(self)
        self._loop.call_later(HELLO_TIMEOUT_S, self._expect_hello)

    def connection_lost(self, error: Exception | None) -> None:
        """Drop what nobody waits for any more; called by asyncio."""
        self._server.connections.discard(self)
        for call in self._calls.values():
            call.cancel()

    def _expect_hello(self) -> None:
        if not self._is_trusted:
            self.close()

    def _received(self, head: Head, payload: bytearray) -> None:
        if not self._is_trusted:
            self._trust(head)
        elif "ping" in head:
            self._send({"busy_s": self._server.busy_s()})
        elif "cancel" in head:
            if call := self._calls.pop(head["cancel"], None):
                call.cancel()
        else:
            number = head["id"]
            call = self._server.run(wire.array_of(head, payload), head, self._send)
            if call is not None:
                self._calls[number] = call
                call.add_done_callback(lambda _: self._calls.pop(number, None))

    def _trust(self, head: Head) -> None:
        sent = str(head.get("secret", "")).encode()
        if not hmac.compare_digest(sent, self._server.secret.encode()):
            self.close()
            return
        self._is_trusted = True
        self._frames.max_bytes = wire.MAX_FRAME_BYTES
        self._send({"welcome": True})


class Line(_Frames):
    """An ingress's end: calls to one worker, many at once."""

    def __init__(self, secret: str) -> None:
        super().__init__()
        self._secret = secret
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[Predictions]] = {}
        self._is_welcome = asyncio.Event()
        self._unanswered = 0
        self.pending_rows = 0
        self.is_stuck = False
        """Whether the model has been busy with one batch for so long that others come first."""
        self.is_open = False
        self._is_retired = False

    @classmethod
    async def open(cls, host: str, port: int, secret: str) -> "Line":
        """Connect, and wait for the worker's word: a system takes connections to a process that
        has stopped, too. Raises OSError, and LineLostError if the worker hangs up."""
        loop = asyncio.get_running_loop()
        _, line = await loop.create_connection(lambda: cls(secret), host, port)
        try:
            await line._is_welcome.wait()
        except BaseException:
            line.close()
            raise
        if not line.is_open:
            raise LineLostError("the worker has hung up")
        return line

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._send({"secret": self._secret})

    def data_received(self, data: bytes) -> None:
        self._unanswered = 0
        super().data_received(data)

    def connection_lost(self, error: Exception | None) -> None:
        """Tell everyone who waits; called by asyncio."""
        self.is_open = False
        self._is_welcome.set()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(LineLostError("the connection to the worker was lost"))

    def look_after(self) -> None:
        """Ask whether the worker is still there; give up one that has been silent for too long."""
        if self._unanswered >= MOST_UNANSWERED:
            self._transport.abort()
        else:
            self._unanswered += 1
            self._send({"ping": True})

    async def call(self, rows: Rows, sizes: tuple[int, ...], ask: Ask) -> Predictions:
        """Return one outcome for each of `rows`; a cancelled call is cancelled at the worker.

        Raises LineLostError, CallFailedError.
        """
        if not self.is_open:
            raise LineLostError("the connection to the worker was lost")
        number = next(self._numbers)
        answer: asyncio.Future[Predictions] = self._loop.create_future()
        self._answers[number] = answer
        self.pending_rows += len(rows)
        try:
            self._send({"id": number, "sizes": sizes, "ask": [*ask]}, rows)
            return await answer
        except asyncio.CancelledError:
            self._send({"cancel": number})
            raise
        finally:
            del self._answers[number]
            self.pending_rows -= len(rows)
            self._close_if_retired()

    @property
    def is_closed(self) -> bool:
        """Whether the connection has ended, or does so."""
        return bool(self._transport.is_closing())

    def retire(self) -> None:
        """Take no more calls, and close once those under way are answered."""
        self.is_open = False
        self._is_retired = True
        self._close_if_retired()

    def _close_if_retired(self) -> None:
        if self._is_retired and not self._answers:
            self.close()

    def _received(self, head: Head, payload: bytearray) -> None:
        if "welcome" in head:
            self.is_open = not self._is_retired
            self._is_welcome.set()
            return
        if "busy_s" in head:
            self.is_stuck = head["busy_s"] > STUCK_S
            return
        answer = self._answers.get(head.get("id", -1))
        if answer is None or answer.done():
            return
        if "failed" in head:
            answer.set_exception(CallFailedError(head["failed"]))
            return
        errors = {int(at): why for at, why in head["errors"].items()}
        values = wire.array_of(head, payload)
        answer.set_result(Predictions(values, errors, head["model_s"], head["model_rows"]))


Address = tuple[str, int, str]
"""Host, port and secret of a worker's `Server`."""


class Lines:
    """One open line to each worker that is known."""

    def __init__(self) -> None:
        self._lines: dict[Address, Line] = {}
        self._retired: set[Line] = set()
        self._opening: dict[Address, asyncio.Task[None]] = {}
        self._wanted: frozenset[Address] = frozenset()

    @property
    def count(self) -> int:
        """How many lines there are."""
        return len(self._lines)

    def pick(self) -> Line | None:
        """Return the open line with the fewest rows under way; None if there's none.

        One whose model is stuck comes last.
        """
        lines = [line for line in self._lines.values() if line.is_open]
        return min(lines, key=_load, default=None)

    async def follow(self, addresses: Collection[Address], timeout_s: float) -> None:
        """Open lines to workers that are new or lost, and close those to workers that are gone."""
        self._wanted = frozenset(addresses)
        for address in self._lines.keys() - self._wanted:
            line = self._lines.pop(address)
            line.retire()
            self._retired.add(line)  # a worker that has stopped would never answer
        self.look_after(timeout_s)
        if self._opening:
            await asyncio.wait(self._opening.values())

    def look_after(self, timeout_s: float) -> None:
        """See that the workers are there, and open what was lost; to be called every second."""
        for address, line in list(self._lines.items()):
            if line.is_open:
                line.look_after()
            else:
                del self._lines[address]
        self._retired = {line for line in self._retired if not line.is_closed}
        for line in self._retired:
            line.look_after()
        loop = asyncio.get_running_loop()
        for address in self._wanted - self._lines.keys() - self._opening.keys():
            # An empty context: it outlives the request that may be the first.
            self._opening[address] = loop.create_task(
                self._open(address, timeout_s), context=contextvars.Context()
            )

    async def _open(self, address: Address, timeout_s: float) -> None:
        try:
            with suppress(OSError, TimeoutError, LineLostError):
                line = await asyncio.wait_for(Line.open(*address), timeout_s)
                if address in self._wanted:
                    self._lines[address] = line
                else:
                    line.close()
        finally:
            del self._opening[address]


def _load(line: Line) -> tuple[bool, int]:
    return line.is_stuck, line.pending_rows
