"""An answer's head and body, written to the connection together.

uvicorn writes them one after the other: two system calls, two packets, and HAProxy is woken twice
for each answer. ASGI has no message for both, so this reaches for the transport behind uvicorn's
`send`; behind a server without one nothing changes.
"""

from typing import Any, Final

from starlette.types import Message, Send

from serve_app.http.answers import ABORT

MAX_JOINED_BYTES: Final = 65_536
"""Larger bodies are written by themselves: a copy would cost more than the call that it saves."""


def joined(send: Send) -> Send:
    """Return a `send` for one answer, which writes the head with the first of the body.

    It takes `answers.ABORT` as well.
    """
    cycle: Any = getattr(send, "__self__", None)
    if not hasattr(cycle, "transport"):
        return send
    held: _Held | None = None

    async def send_joined(message: Message) -> None:
        nonlocal held
        if message["type"] == "http.response.start":
            cycle.transport = held = _Held(cycle)
            await send(message)
        elif message["type"] == ABORT:
            cycle.transport.abort()
        else:
            await send(message)
            if held is not None:
                held.release()
                held = None

    return send_joined


class _Held:
    """A transport that keeps what is first written until the second is, or until `release`."""

    def __init__(self, cycle: Any) -> None:
        self._cycle = cycle
        self._transport = cycle.transport
        self._head = b""

    def write(self, data: bytes) -> None:
        """Keep the head, or write it with the data."""
        if not self._head:
            self._head = data
        elif len(data) > MAX_JOINED_BYTES:
            self.release()
            self._transport.write(data)
        else:
            self._head += data
            self.release()

    def release(self) -> None:
        """Write what is kept, and leave uvicorn its own transport again."""
        head, self._head = self._head, b""
        self._cycle.transport = self._transport
        if head:
            self._transport.write(head)

    def close(self) -> None:
        """Write what is kept, and close."""
        self.release()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
