"""One HTTP/1.1 connection that is kept open, with one request on it at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, NamedTuple, cast

_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"\r\ncontent-length:"
_RETRY_S: Final = 0.05


class Answer(NamedTuple):
    """A status and a body."""

    status: int
    body: bytes


Done = Callable[[int, Answer], None]


class Connection(asyncio.Protocol):
    """Connects again if the server closes; only bodies with a Content-Length are understood."""

    def __init__(
        self,
        free: Callable[[Connection], None],
        lost: Callable[[Connection, int | None], None],
    ) -> None:
        self._free = free
        self._lost = lost
        self._transport: asyncio.WriteTransport | None = None
        self._number: int | None = None
        self._done: Done | None = None
        self._received = b""
        self._is_closed = False

    async def connect(self, host: str, port: int) -> None:
        """Open the connection. Raises OSError if nobody listens."""
        self._address = (host, port)
        await asyncio.get_running_loop().create_connection(lambda: self, host, port)

    def send(self, request: bytes, number: int, done: Done) -> None:
        """Send a request; `done` gets its number and the answer."""
        self._number, self._done = number, done
        if self._transport is not None:
            self._transport.write(request)

    def close(self) -> None:
        """Close for good."""
        self._is_closed = True
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be there for requests."""
        self._transport = cast(asyncio.WriteTransport, transport)
        self._received = b""
        self._free(self)

    def data_received(self, data: bytes) -> None:
        """Collect an answer; when it is whole, hand it on and be free."""
        self._received = self._received + data if self._received else data
        answer = parse(self._received)
        if answer is None or self._number is None or self._done is None:
            return
        number, done = self._number, self._done
        self._received, self._number, self._done = b"", None, None
        done(number, answer)
        self._free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Say which request is lost, and connect again."""
        self._transport = None
        if self._is_closed:
            return
        number, self._number, self._done = self._number, None, None
        self._lost(self, number)
        self._reconnecting = asyncio.get_running_loop().create_task(self._connect_again())

    async def _connect_again(self) -> None:
        while not self._is_closed:
            with contextlib.suppress(OSError):
                await self.connect(*self._address)
                return
            await asyncio.sleep(_RETRY_S)


def parse(received: bytes) -> Answer | None:
    """Return the answer if all of it is there.

    Raises ValueError for an answer without Content-Length.
    """
    head, end, body = received.partition(_HEAD_END)
    if not end:
        return None
    lowered = head.lower()
    at = lowered.find(_LENGTH)
    if at < 0:
        raise ValueError(f"an answer without content-length: {head[:200]!r}")
    length = int(lowered[at + len(_LENGTH) :].split(b"\r\n", 1)[0])
    if len(body) < length:
        return None
    return Answer(int(head[9:12]), body[:length])
