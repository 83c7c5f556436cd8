"""A request's body: read at once, bounded in size and in time."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from starlette.types import Receive

from serve_app.deadline import Deadline
from serve_app.errors import BodyTimeoutError, BodyTooLargeError

_MOST_DIGITS: Final = 18
"""Of a `content-length` that is looked at; longer ones are too large."""


@dataclass(frozen=True)
class Limits:
    """Bounds on a request's body."""

    max_body_bytes: int
    body_timeout_s: float
    body_stall_s: float = 4.0
    """Longest pause in it."""


class ClientGoneError(Exception):
    """The client hung up while its body was read: nobody waits for an answer."""


async def read(headers: Mapping[bytes, bytes], receive: Receive, limits: Limits) -> bytes:
    """Return the whole body, or stop reading as soon as it is over a limit.

    Raises BodyTooLargeError, BodyTimeoutError, ClientGoneError.
    """
    if declared_bytes(headers, limits) > limits.max_body_bytes:
        raise _too_large(limits)
    return await _received(receive, limits)


def declared_bytes(headers: Mapping[bytes, bytes], limits: Limits) -> int:
    """Return how large the body is said to be; the largest that is taken, of one sent in chunks."""
    if b"transfer-encoding" in headers:
        return limits.max_body_bytes
    declared = headers.get(b"content-length", b"0")
    if len(declared) > _MOST_DIGITS:
        return limits.max_body_bytes + 1
    return int(declared) if declared.isdigit() else limits.max_body_bytes


async def _received(receive: Receive, limits: Limits) -> bytes:
    loop = asyncio.get_running_loop()
    until = loop.time() + limits.body_timeout_s
    chunks: list[bytes] = []
    size = 0
    while True:
        try:
            with Deadline(loop, min(limits.body_stall_s, until - loop.time())):
                message = await receive()
        except TimeoutError as error:
            raise _too_slow(limits, loop.time() >= until) from error
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limits.max_body_bytes:
            raise _too_large(limits)
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
