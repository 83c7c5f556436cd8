"""Routes beside the predictions: the rollout to look at and to act on, and true values."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from math import isfinite
from typing import Any, Final, Literal, TypeVar

import orjson
from pydantic import Field, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from contract.strict import Strict, explain
from serve_app.control.labels import Label, LabelState
from serve_app.description import rollout_of
from serve_app.errors import ECHOED, InvalidBodyError
from serve_app.http import body
from serve_app.protocols import media
from serve_app.records import strict_json
from serve_app.routing import Published

MOST_BYTES: Final = 256 * 1024
MOST_VALUES: Final = 1_000
"""True values in one body: for larger requests none are kept."""


PRINTABLE: Final = r"^[^\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]+$"
"""What goes on record and onto terminals."""


class Command(Strict):
    """What a person wants done with the rollout."""

    action: Literal["pause", "resume", "promote", "abort"]
    reason: str = Field(min_length=1, max_length=500, pattern=PRINTABLE)


class TrueValue(Strict):
    """What was true of the records of one request."""

    request_id: str = Field(pattern=r"^[ -~]{1,200}$")
    value: Any
    """One value, or a list of one for each record, None where it isn't known."""


T = TypeVar("T", bound=Strict)


class RolloutPages:
    """`/admin/rollout` and `/feedback`. `labels` is what the model predicts; None for numbers."""

    def __init__(
        self,
        published: Callable[[], Published],
        command: Callable[[str, str], Awaitable[None]],
        label: Callable[[Label], Awaitable[LabelState]],
        labels: tuple[Any, ...] | None,
        limits: body.Limits,
    ) -> None:
        self._published = published
        self._command = command
        self._label = label
        self._labels = None if labels is None else frozenset(labels)
        types = {int} if labels is None else {type(one) for one in labels}
        self._types = types | {int, float} if types & {int, float} else types
        most = min(MOST_BYTES, limits.max_body_bytes)
        self._bodies = body.Reader(replace(limits, max_body_bytes=most))

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/admin/rollout", self.rollout, methods=["GET", "POST"]),
            Route("/feedback", self.feedback, methods=["POST"]),
        ]

    async def rollout(self, request: Request) -> Response:
        """Say how the rollout stands; or pause, resume, promote or abort it."""
        if request.method != "POST":
            return _json(rollout_of(self._published()))
        wanted = await self._read(request, Command)
        await self._command(wanted.action, wanted.reason)
        return _json({"action": wanted.action}, 202)

    async def feedback(self, request: Request) -> Response:
        """Take a true value."""
        given = await self._read(request, TrueValue)
        values = tuple(given.value) if isinstance(given.value, list) else (given.value,)
        if all(value is None for value in values) or not 1 <= len(values) <= MOST_VALUES:
            raise InvalidBodyError(
                f"value: must be a true value, or a list of 1 to {MOST_VALUES} with at least one"
            )
        for at, value in enumerate(values):
            self._check(value, at)
        state = await self._label(Label(given.request_id, values))
        return _json({"state": state}, 202)

    def _check(self, value: Any, at: int) -> None:
        if isinstance(value, float) and not isfinite(value):
            raise InvalidBodyError(f"value {at}: must fit into a 64-bit float")
        if value is not None and type(value) not in self._types:
            names = " or ".join(sorted({_NAMES[one] for one in self._types}))
            raise InvalidBodyError(
                f"value {at}: must be {names}, as the model predicts; got {str(value)[:ECHOED]!r}"
            )
        if self._labels is not None and value is not None and value not in self._labels:
            raise InvalidBodyError(
                f"value {at}: must be a label that the model knows, got {str(value)[:ECHOED]!r}"
            )

    async def _read(self, request: Request, form: type[T]) -> T:
        headers = dict(request.scope["headers"])
        media.content_type(headers.get(b"content-type", b""), (media.JSON,))
        if b"content-encoding" in headers:
            media.check_encoding(headers[b"content-encoding"])
        try:
            content = await self._bodies.read(headers, request.receive)
        except body.ClientGoneError:
            raise ClientDisconnect from None
        document = strict_json.loads_unique(content)
        if not isinstance(document, dict):
            raise InvalidBodyError("the body must be an object")
        try:
            return form.model_validate(document)
        except ValidationError as error:
            raise InvalidBodyError(explain(error)[: 10 * ECHOED]) from error


_NAMES: Final = {int: "a number", float: "a number", bool: "a boolean", str: "a string"}


def _json(content: dict[str, Any], status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type=media.JSON)
