"""Answers as ASGI messages: whole ones, and refusals of requests whose body is not read."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from serve_app.errors import ServeError

Headers = list[tuple[bytes, bytes]]

REQUEST_ID: Final = "endeavour.request_id"
"""Where in the ASGI scope `front.Front` leaves the request id, if it answers for Serve."""

CLOSE: Final = (b"connection", b"close")
"""The header of an answer to a request whose body is not read to its end."""

LINGER_S: Final = 1.0
"""Longest that such a body is read on, and discarded, after the answer."""

LINGER_BYTES: Final = 16 * 2**20
"""Most of such a body that is."""

SMALL_BYTES: Final = 64 * 1024
"""A body of at most this much is worth discarding, to keep the connection of a refused client; and
an answer of at most this much isn't waited for, nor counted."""

ABORT: Final = "endeavour.abort"
"""Type of the message that ends a connection at once, what is still to be written lost: ours."""

TAKES_ABORT: Final = "endeavour.takes_abort"
"""Is in the ASGI scope if `send` takes that message, and waits for the client as uvicorn's does."""

_DIGITS: Final = len(str(SMALL_BYTES))


async def send_whole(
    send: Send, scope: Scope, status: int, headers: Headers, body: bytes, is_whole: bool = True
) -> None:
    """Send an answer with its length and the request's id; more may follow if not `is_whole`."""
    headers.append((b"content-length", b"%d" % len(body)))
    if REQUEST_ID in scope:
        headers.append((b"x-request-id", scope[REQUEST_ID]))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": not is_whole})


async def deliver(
    send: Send, scope: Scope, headers: Headers, body: bytes, timeout_s: float
) -> bool:
    """Send an answer that was asked for; of a large one wait until its client has taken most.

    One that takes longer than `timeout_s` is cut off; returns whether it wasn't. On Serve's own way
    neither can be.
    """
    if len(body) <= SMALL_BYTES or TAKES_ABORT not in scope:
        await send_whole(send, scope, 200, headers, body)
        return True
    try:
        async with asyncio.timeout(timeout_s):
            await send_whole(send, scope, 200, headers, body, is_whole=False)
            await send({"type": "http.response.body", "body": b""})
    except TimeoutError:
        await send({"type": ABORT})
        await send({"type": "http.response.body", "body": b""})
        return False
    return True


async def refuse(
    problem: ServeError,
    scope: Scope,
    receive: Receive,
    send: Send,
    members: Mapping[str, Any] | None = None,
    headers: Headers | None = None,
    linger_bytes: int = LINGER_BYTES,
) -> None:
    """Answer with a problem; if it closes the connection, what still comes is discarded first."""
    raw = [*problem.raw_headers(), *(headers or ())]
    is_cut_off = CLOSE in raw
    await send_whole(send, scope, problem.status, raw, problem.body(members), not is_cut_off)
    if is_cut_off:
        await _linger(receive, linger_bytes)
        await send({"type": "http.response.body", "body": b""})


def leave_unread(problem: ServeError, headers: Headers) -> ServeError:
    """Have the connection closed after the problem if much of the request's body still comes."""
    if not _is_small(headers):
        problem.headers["connection"] = "close"
    return problem


def _is_small(headers: Headers) -> bool:
    """Whether the body that still comes is small, or there's none."""
    for name, value in headers:
        if name == b"transfer-encoding":
            return False
        if name == b"content-length":
            return len(value) <= _DIGITS and value.isdigit() and int(value) <= SMALL_BYTES
    return True


async def _linger(receive: Receive, left: int) -> None:
    """Discard some of what still comes: a connection closed at once would lose the answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while left > 0:
                message = await receive()
                if not message.get("more_body", False):
                    return
                left -= len(message.get("body", b""))
