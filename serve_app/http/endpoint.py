"""A route that predicts, as an ASGI application: a bounded body in, one protocol, an answer out."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from serve_app.errors import (
    MAX_REPORTED_ERRORS,
    ServeError,
    UnpredictableRecordsError,
)
from serve_app.http import body
from serve_app.models.predictions import NO_ROWS, Predictions
from serve_app.protocols import media
from serve_app.protocols.question import Answer, Head, Question, Read
from serve_app.records.rows import Rows

logger = logging.getLogger(__name__)

REQUEST_ID: Final = "endeavour.request_id"
"""Where in the ASGI scope `front.Front` leaves the request id, if it answers for Serve."""

CLOSE: Final = (b"connection", b"close")
"""The header of an answer to a request whose body is not read to its end."""

LINGER_S: Final = 1.0
"""Longest that such a body is read on, and discarded, after the answer."""

Predict = Callable[[Rows, bool], Awaitable[Predictions]]
"""(rows, wants probabilities) -> one outcome a row."""

Remember = Callable[[bytes, Rows, int], None]
"""(request id, rows, bytes of its body) of a request that was answered."""

Headers = list[tuple[bytes, bytes]]

Members = Callable[[ServeError], Mapping[str, Any] | None]
"""What a protocol's clients look for in the body of an error, beside the problem document's own."""


class Endpoint:
    """Answers POST requests of one protocol; `read` turns them into questions."""

    def __init__(
        self,
        read: Read,
        predict: Predict,
        limits: body.Limits,
        headers: Headers,
        takes: tuple[str, ...] = (media.JSON,),
        offers: tuple[str, ...] = (media.JSON,),
        members: Members = lambda error: None,
        remember: Remember | None = None,
    ) -> None:
        self._read = read
        self._predict = predict
        self._limits = limits
        self._headers = headers
        self._takes = takes
        self._offers = offers
        self._members = members
        self._remember = remember

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every failure is a problem document."""
        try:
            answer = await self._answer(scope, receive)
        except body.ClientGoneError:
            return
        except Exception as error:  # noqa: BLE001  # whatever it is, the client gets an answer
            problem = _problem(error, scope)
            headers, content = problem.raw_headers(), problem.body(self._members(problem))
            headers += self._headers
            is_cut_off = CLOSE in headers
            await _send(send, scope, problem.status, headers, content, is_whole=not is_cut_off)
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
        content = await body.read(headers, receive, self._limits)
        question = self._read(head, content)
        answer = question.write(await self._predictions(question))
        if self._remember is not None and REQUEST_ID in scope:
            self._remember(scope[REQUEST_ID], question.rows, len(content))
        return answer

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
