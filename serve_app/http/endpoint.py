"""A route that predicts, as an ASGI application: a bounded body in, one protocol, an answer out."""

import asyncio
import contextvars
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Protocol

from starlette.types import Receive, Scope, Send

from serve_app.deadline import Alarms
from serve_app.errors import (
    MAX_REPORTED_ERRORS,
    DeadlineExceededError,
    MalformedHeaderError,
    OverloadedError,
    ServeError,
    UnpredictableRecordsError,
)
from serve_app.http import answers, body
from serve_app.http.answers import REQUEST_ID, Headers
from serve_app.http.gate import Gate
from serve_app.http.watch import AFTER_S, Watch
from serve_app.metrics.counts import GONE, Requests
from serve_app.models.predictions import NO_ROWS, UNANSWERED, Predictions
from serve_app.protocols import media
from serve_app.protocols.question import Answer, Head, Question, Read
from serve_app.records.rows import Rows

logger = logging.getLogger(__name__)

TIMEOUT: Final = b"x-request-timeout-ms"
"""Header: how many milliseconds the client waits, from its request on; ours is the longest."""

_TIMEOUT_DIGITS: Final = 9
_UNCOUNTED: Final = nullcontext()


class Predict(Protocol):
    """What asks the workers."""

    def __call__(
        self, rows: Rows, wants_probabilities: bool, within_s: float | None, /
    ) -> Awaitable[Predictions]:
        """Return one outcome a row, within the service's own deadline and `within_s`."""


Remember = Callable[[bytes, Question, int], None]
"""(request id, what it asked, bytes of its body) of a request that was answered."""

Members = Callable[[ServeError], Mapping[str, Any] | None]
"""What a protocol's clients look for in the body of an error, beside the problem document's own."""


class Endpoint:
    """Answers POST requests of one protocol; `read` turns them into questions."""

    def __init__(
        self,
        read: Read,
        predict: Predict,
        limits: body.Limits,
        gate: Gate,
        headers: Headers,
        counted: Requests,
        takes: tuple[str, ...] = (media.JSON,),
        offers: tuple[str, ...] = (media.JSON,),
        members: Members = lambda error: None,
        remember: Remember | None = None,
    ) -> None:
        self._read = read
        self._predict = predict
        self._bodies = body.Reader(limits)
        self._hang_ups = Alarms(AFTER_S)
        self._max_body_bytes = limits.max_body_bytes
        self._answer_timeout_s = limits.answer_timeout_s
        self._gate = gate
        self._headers = headers
        self._counted = counted
        self._takes = takes
        self._offers = offers
        self._members = members
        self._remember = remember

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every failure is a problem document."""
        held: AbstractContextManager[object] = _UNCOUNTED
        try:
            answer, records, began = await self._answer(scope, receive)
            if len(answer.body) > answers.SMALL_BYTES:
                held = self._gate.answer(len(answer.body))
        except body.ClientGoneError:
            self._counted.refused(GONE)
            return
        except asyncio.CancelledError:  # on Serve's own way, which ends whoever has hung up
            self._counted.refused(GONE)
            raise
        except Exception as error:  # noqa: BLE001  # whatever it is, the client gets an answer
            await self._refuse(_problem(error, scope), scope, receive, send)
        else:
            headers = [
                (b"content-type", answer.media_type.encode()),
                *answer.headers,
                *self._headers,
            ]
            with held:
                is_whole = await answers.deliver(
                    send, scope, headers, answer.body, self._answer_timeout_s
                )
            if is_whole:
                self._counted.answered(records, time.perf_counter() - began)
            else:
                self._counted.refused(GONE)

    async def _refuse(
        self, problem: ServeError, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._counted.refused(problem.status)
        # In a variable of `__call__`, which the problem's traceback holds, it would be a cycle.
        await answers.refuse(
            problem,
            scope,
            receive,
            send,
            self._members(problem),
            self._headers,
            self._max_body_bytes,
        )

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[Answer, int, float]:
        """Return the answer, of how many records it is, and when all of its body was there."""
        headers = _by_name(scope["headers"])
        until = _deadline(headers.get(TIMEOUT))
        head = Head(
            media_type=media.content_type(headers.get(b"content-type", b""), self._takes),
            accepted=media.accepted(headers.get(b"accept", b""), self._offers),
            headers=headers,
            query=scope["query_string"],
            path=scope.get("path_params", {}),
        )
        if b"content-encoding" in headers:
            media.check_encoding(headers[b"content-encoding"])
        try:
            self._gate.check()
        except OverloadedError as error:
            raise answers.leave_unread(error, scope["headers"]) from None
        with self._gate.body() as counted:
            content = await self._bodies.read(headers, receive, counted.grow)
            began = time.perf_counter()
            self._gate.enter()
            try:
                with Watch(asyncio.get_running_loop(), self._hang_ups, receive):
                    answer, records = await self._let_in(head, content, until, scope)
                    return answer, records, began
            finally:
                self._gate.leave()

    async def _let_in(
        self, head: Head, content: bytes, until: float | None, scope: Scope
    ) -> tuple[Answer, int]:
        question = self._read(head, content)
        answer = question.write(await self._predictions(question, until))
        if self._remember is not None and REQUEST_ID in scope:
            self._remember(scope[REQUEST_ID], question, len(content))
        return answer, len(question.rows)

    async def _predictions(self, question: Question, until: float | None) -> Sequence[Predictions]:
        rows = question.rows
        if not len(rows):
            return [NO_ROWS for _ in question.asks]
        within_s = _left_s(until)
        if len(question.asks) == 1:
            found = [await self._predict(rows, question.asks[0], within_s)]
        else:
            found = await self._together(rows, question.asks, within_s)
        if not question.takes_errors:
            for predictions in found:
                _refuse_errors(predictions)
        return found

    async def _together(
        self, rows: Rows, asks: Sequence[bool], within_s: float | None
    ) -> list[Predictions]:
        """Ask for all at the same time; the first error, or a cancellation, ends the others."""

        async def asked(ask: bool) -> Predictions:
            return await self._predict(rows, ask, within_s)

        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(asked(ask), context=contextvars.Context()) for ask in asks]
        try:
            return await asyncio.gather(*tasks)
        except BaseException:
            await _end(tasks)
            raise


async def _end(tasks: list[asyncio.Task[Predictions]]) -> None:
    """End all, and empty the list: an error's traceback holds it, and a task in it the error."""
    try:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    finally:
        tasks.clear()


def _deadline(sent: bytes | None) -> float | None:
    """Return until when the client waits, on the event loop's clock; None if it didn't say."""
    if sent is None:
        return None
    if not sent.isdigit() or len(sent) > _TIMEOUT_DIGITS or int(sent) == 0:
        raise MalformedHeaderError(
            f"{TIMEOUT.decode()} must be a whole number of milliseconds, at least 1"
        )
    return asyncio.get_running_loop().time() + int(sent) / 1000


def _left_s(until: float | None) -> float | None:
    """Return how long the client still waits. Raises DeadlineExceededError if it doesn't."""
    if until is None:
        return None
    left_s = until - asyncio.get_running_loop().time()
    if left_s <= 0:
        raise DeadlineExceededError(
            f"{TIMEOUT.decode()} has passed before the model was asked: nothing was run"
        )
    return left_s


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
    if all(reason == UNANSWERED for reason in predictions.errors.values()):
        raise DeadlineExceededError(UNANSWERED)
    faults = [{"index": at, "reason": why} for at, why in sorted(predictions.errors.items())]
    detail = f"record {faults[0]['index']}: {faults[0]['reason']}"
    if len(faults) > 1:
        detail += f" (and {len(faults) - 1} more of {len(predictions.values)} records)"
    raise UnpredictableRecordsError(detail, errors=faults[:MAX_REPORTED_ERRORS])
