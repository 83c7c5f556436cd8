"""A worker's end of its connections: calls are answered for those who know its secret."""

import asyncio
import hmac
import secrets
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from serve_app.calls import wire
from serve_app.calls.ask import Ask, BusyError
from serve_app.calls.connection import Connection
from serve_app.calls.wire import Head
from serve_app.models.predictions import Predictions
from serve_app.records.rows import Rows

HELLO_TIMEOUT_S: Final = 5.0

MAX_HELLO_BYTES: Final = 1024

Answer = Callable[[Rows, tuple[int, ...], Ask], Predictions | Coroutine[Any, Any, Predictions]]
"""(rows, row counts of the requests in them, what is asked) -> one outcome a row, now or later."""


class Server:
    """A worker's end: takes connections from those who know its secret, and answers their calls.

    `busy_s` says for how many seconds the model has been busy with what it has now.
    """

    def __init__(self, answer: Answer, busy_s: Callable[[], float] = lambda: 0.0) -> None:
        self._answer = answer
        self.busy_s = busy_s
        self.secret = secrets.token_hex(16)
        self._server: asyncio.Server | None = None
        self._calls: set[asyncio.Task[Predictions]] = set()
        self.connections: set[Connection] = set()

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

    def run(
        self, rows: Rows, head: Head, reply: Callable[..., None]
    ) -> asyncio.Task[Predictions] | None:
        """Answer one call by `reply(head, array)`: now, or after the task that is returned."""
        try:
            found = self._answer(rows, tuple(head["sizes"]), Ask(*head["ask"]))
            if isinstance(found, Predictions):
                _reply(reply, head["id"], found)
                return None
        except Exception as error:  # noqa: BLE001  # whatever it is, the caller gets an answer
            _fail(reply, head["id"], error)
            return None
        task = asyncio.get_running_loop().create_task(found)
        self._calls.add(task)
        task.add_done_callback(partial(self._ended, reply, head["id"]))
        return task

    def _ended(
        self, reply: Callable[..., None], number: int, task: asyncio.Task[Predictions]
    ) -> None:
        self._calls.discard(task)
        if task.cancelled():  # nobody waits for it
            return
        try:
            _reply(reply, number, task.result())
        except Exception as error:  # noqa: BLE001  # as above
            _fail(reply, number, error)


def _reply(reply: Callable[..., None], number: int, found: Predictions) -> None:
    errors = {str(at): why for at, why in found.errors.items()}
    took = {"model_s": found.model_s, "model_rows": found.model_rows}
    reply({"id": number, "errors": errors, **took}, found.values)


def _fail(reply: Callable[..., None], number: int, error: Exception) -> None:
    text = f"{type(error).__name__}: {error}".encode(errors="replace").decode()
    reply({"id": number, "failed": text, "is_busy": isinstance(error, BusyError)})


class _Served(Connection):
    """One connection to a worker; its first frame must hold the secret."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server
        self._is_trusted = False
        self._frames.max_bytes = MAX_HELLO_BYTES
        self._calls: dict[int, asyncio.Task[Predictions]] = {}

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
