"""A request's body: read at once, bounded in size and in time."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from starlette.types import Receive

from serve_app.deadline import Alarm, Alarms, Deadline
from serve_app.errors import BodyTimeoutError, BodyTooLargeError

_MOST_DIGITS: Final = 18
"""Of a `content-length` that is looked at; longer ones are too large."""


@dataclass(frozen=True)
class Limits:
    """Bounds on the body of a request, and on that of its answer."""

    max_body_bytes: int
    body_timeout_s: float
    body_stall_s: float = 4.0
    """Longest pause in it."""
    answer_timeout_s: float = 60.0
    """Longest that a client may take to take its answer."""


class ClientGoneError(Exception):
    """The client hung up while its body was read: nobody waits for an answer."""


class Reader:
    """Reads bodies within limits. To be used on one event loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._stall = Alarms(limits.body_stall_s)

    async def read(
        self,
        headers: Mapping[bytes, bytes],
        receive: Receive,
        grow: Callable[[int], None] = lambda size: None,
    ) -> bytes:
        """Return the whole body, or stop reading as soon as it is over a limit.

        `grow` is told how much has come. Raises BodyTooLargeError, BodyTimeoutError,
        ClientGoneError, and what `grow` raises.
        """
        declared = headers.get(b"content-length", b"")
        if len(declared) > _MOST_DIGITS or (
            declared.isdigit() and int(declared) > self._limits.max_body_bytes
        ):
            raise _too_large(self._limits)
        return await self._received(receive, grow)

    async def _received(self, receive: Receive, grow: Callable[[int], None]) -> bytes:
        limits = self._limits
        loop = asyncio.get_running_loop()
        until = loop.time() + limits.body_timeout_s
        chunks: list[bytes] = []
        size = 0
        while True:
            left_s = until - loop.time()
            try:
                with Deadline(loop, self._stall if left_s > self._stall.delay_s else Alarm(left_s)):
                    message = await receive()
            except TimeoutError as error:
                raise _too_slow(limits, loop.time() >= until) from error
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limits.max_body_bytes:
                raise _too_large(limits)
            grow(len(chunk))
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_slow(limits: Limits, is_over: bool) -> BodyTimeoutError:
    return BodyTimeoutError(
        f"the body had not arrived within {limits.body_timeout_s:g} s: send it at once"
        if is_over
        else f"nothing of the body has come for {limits.body_stall_s:g} s: send it at once"
    )


def _too_large(limits: Limits) -> BodyTooLargeError:
    return BodyTooLargeError(
        f"the body is larger than {limits.max_body_bytes} bytes: send less at once",
        headers={"connection": "close"},  # the rest of it is not read
    )
