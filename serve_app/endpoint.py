"""A route that predicts, as an ASGI application: a bounded body in, one protocol, an answer out."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from serve_app import media
from serve_app.deadline import Deadline
from serve_app.errors import (
    MAX_REPORTED_ERRORS,
    BodyTimeoutError,
    BodyTooLargeError,
    ServeError,
    UnpredictableRecordsError,
)
from serve_app.predictions import NO_ROWS, Predictions
from serve_app.question import Answer, Head, Question, Read
from serve_app.rows import Rows

logger = logging.getLogger(__name__)

REQUEST_ID: Final = "endeavour.request_id"
"""Where in the ASGI scope `front.Front` leaves the request id, if it answers for Serve."""

CLOSE: Final = (b"connection", b"close")
"""The header of an answer to a request whose body is not read to its end."""

LINGER_S: Final = 1.0
"""Longest that such a body is read on, and discarded, after the answer."""

_MOST_DIGITS: Final = 18
"""Of a `content-length` that is looked at; longer ones are too large."""

Predict = Callable[[Rows, bool], Awaitable[Predictions]]
"""(rows, wants probabilities) -> one outcome a row."""

Headers = list[tuple[bytes, bytes]]

Members = Callable[[ServeError], Mapping[str, Any] | None]
"""What a protocol's clients look for in the body of an error, beside the problem document's own."""


@dataclass(frozen=True)
class Limits:
    """Bounds on a request's body."""

    max_body_bytes: int
    body_timeout_s: float


class Endpoint:
    """Answers POST requests of one protocol; `read` turns them into questions."""

    def __init__(
        self,
        read: Read,
        predict: Predict,
        limits: Limits,
        headers: Headers,
        takes: tuple[str, ...] = (media.JSON,),
        offers: tuple[str, ...] = (media.JSON,),
        members: Members = lambda error: None,
    ) -> None:
        self._read = read
        self._predict = predict
        self._limits = limits
        self._headers = headers
        self._takes = takes
        self._offers = offers
        self._members = members

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every failure is a problem document."""
        try:
            answer = await self._answer(scope, receive)
        except ClientGoneError:
            return
        except Exception as error:  # noqa: BLE001  # whatever it is, the client gets an answer
            problem = _problem(error, scope)
            headers, body = problem.raw_headers(), problem.body(self._members(problem))
            is_cut_off = CLOSE in headers
            await _send(send, scope, problem.status, headers, body, is_whole=not is_cut_off)
            if is_cut_off:
                await self._linger(receive)
                await send({"type": "http.response.body", "body": b""})
        else:
            headers = [
                (b"content-type", answer.media_type.encode()),
                *answer.headers,
                *self._headers,
            ]
            await _send(send, scope, 200, headers, answer.body)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        headers = _by_name(scope["headers"])
        head = Head(
            media_type=media.content_type(headers.get(b"content-type", b""), self._takes),
            accepted=media.accepted(headers.get(b"accept", b""), self._offers),
            headers=headers,
            query=scope["query_string"],
            path=scope.get("path_params", {}),
        )
        if b"content-encoding" in headers:
            media.check_encoding(headers[b"content-encoding"])
        question = self._read(head, await self._body(headers, receive))
        return question.write(await self._predictions(question))

    async def _predictions(self, question: Question) -> Sequence[Predictions]:
        rows = question.rows
        if not len(rows):
            return [NO_ROWS for _ in question.asks]
        found = [await self._predict(rows, question.asks[0])]
        for ask in question.asks[1:]:
            found.append(await self._predict(rows, ask))
        if not question.takes_errors:
            for predictions in found:
                _refuse_errors(predictions)
        return found

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """Return the whole body, or stop reading as soon as it is over a limit."""
        declared = headers.get(b"content-length", b"")
        if len(declared) > _MOST_DIGITS or (
            declared.isdigit() and int(declared) > self._limits.max_body_bytes
        ):
            raise self._too_large()
        try:
            with Deadline(asyncio.get_running_loop(), self._limits.body_timeout_s):
                return await self._received(receive)
        except TimeoutError as error:
            raise BodyTimeoutError(
                f"the body had not arrived within {self._limits.body_timeout_s:g} s: "
                "send it at once"
            ) from error

    async def _received(self, receive: Receive) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._limits.max_body_bytes:
                raise self._too_large()
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _linger(self, receive: Receive) -> None:
        """Discard some of what still comes: a connection closed at once would lose the answer."""
        left = self._limits.max_body_bytes
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while left > 0:
                    message = await receive()
                    if not message.get("more_body", False):
                        return
                    left -= len(message.get("body", b""))

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(
            f"the body is larger than {self._limits.max_body_bytes} bytes: send fewer records",
            headers={"connection": "close"},  # the rest of it is not read
        )


def _by_name(headers: Headers) -> dict[bytes, bytes]:
    """Return headers by name; those that stand more than once are joined, as RFC 9110 has it."""
    named = dict(headers)
    if len(named) != len(headers):
        for name in named:
            named[name] = b", ".join(value for one, value in headers if one == name)
    return named


def _problem(error: Exception, scope: Scope) -> ServeError:
    if isinstance(error, ServeError):
        return error
    logger.error("%s failed", scope["path"], exc_info=error)
    return ServeError("an unexpected error; the log has the details")


class ClientGoneError(Exception):
    """The client hung up while its body was read: nobody waits for an answer."""


def _refuse_errors(predictions: Predictions) -> None:
    if not predictions.errors:
        return
    faults = [{"index": at, "reason": why} for at, why in sorted(predictions.errors.items())]
    detail = f"record {faults[0]['index']}: {faults[0]['reason']}"
    if len(faults) > 1:
        detail += f" (and {len(faults) - 1} more of {len(predictions.values)} records)"
    raise UnpredictableRecordsError(detail, errors=faults[:MAX_REPORTED_ERRORS])


async def _send(
    send: Send, scope: Scope, status: int, headers: Headers, body: bytes, is_whole: bool = True
) -> None:
    headers.append((b"content-length", b"%d" % len(body)))
    if REQUEST_ID in scope:
        headers.append((b"x-request-id", scope[REQUEST_ID]))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": not is_whole})
