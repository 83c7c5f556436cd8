"""A connection between an ingress and a worker, for calls that carry arrays.

Serve's own call costs about a millisecond, most of it in choosing a replica, in metadata and in
gRPC; a prediction of a linear model costs a hundredth of that. So rows go over a plain TCP
connection, and Serve does what it is best at: it starts workers, watches them, and says which run.
The ingress's end is in `lines.py`, the worker's in `server.py`.
"""

import asyncio
from typing import Any

from serve_app.calls import wire
from serve_app.calls.wire import Array, Head

Address = tuple[str, int, str]
"""Host, port and secret of a worker's `Server`."""


class Connection(asyncio.Protocol):
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
