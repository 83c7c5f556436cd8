"""Every error that a client can meet; each class owns its HTTP status and its stable code.

Bodies are `application/problem+json` (RFC 9457).
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import orjson
from starlette.responses import Response

PROBLEM: Final = "application/problem+json"
MAX_REPORTED_ERRORS: Final = 20
ECHOED: Final = 100
"""Most characters of a client's own text that an error repeats."""


CHALLENGE: Final = 'Bearer realm="endeavour", Basic realm="endeavour", charset="UTF-8"'
"""How a client may say who it is (RFC 9110): Basic is what browsers ask people for."""


class ServeError(Exception):
    """An answer other than 200. `detail` says what is wrong, where, and the way out."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "The service failed"

    def __init__(
        self,
        detail: str,
        *,
        errors: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})

    def body(self, members: Mapping[str, Any] | None = None) -> bytes:
        """Return the problem document, with `members` that a protocol's clients look for."""
        problem: dict[str, Any] = {
            "type": f"urn:endeavour:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
        }
        if self.errors:
            problem["errors"] = list(self.errors)
        return orjson.dumps({**problem, **members} if members else problem)

    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        """Return the answer's headers as ASGI has them, but for its length."""
        own = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        return [(b"content-type", PROBLEM.encode()), *own]

    def response(self, members: Mapping[str, Any] | None = None) -> Response:
        """Return the whole HTTP answer, with `members` as in `body`."""
        return Response(self.body(members), self.status, self.headers, PROBLEM)


class MalformedBodyError(ServeError):
    """The body isn't JSON in UTF-8."""

    status, code, title = 400, "malformed_json", "The body is not valid JSON"


class MalformedCsvError(ServeError):
    """The body isn't CSV in UTF-8 with a header row."""

    status, code, title = 400, "malformed_csv", "The body is not valid CSV"


class MalformedArrowError(ServeError):
    """The body isn't an Arrow stream, or has a feature of it that is not read here."""

    status, code, title = 400, "malformed_arrow", "The body is not an Arrow stream that can be read"


class MalformedTensorsError(ServeError):
    """The body is JSON, but no inference request, or its tensors aren't what it says of them."""

    status, code, title = 400, "malformed_tensors", "The body is not a valid inference request"


class MalformedHeaderError(ServeError):
    """A header has a value that can't be used."""

    status, code, title = 400, "malformed_header", "A request header can't be used"


class UnknownParameterError(ServeError):
    """A query parameter has a value that can't be used."""

    status, code, title = 400, "invalid_parameter", "A query parameter can't be used"


class UnauthenticatedError(ServeError):
    """The request holds no API key, or none that is known."""

    status, code, title = 401, "unauthenticated", "An API key is needed"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"www-authenticate": CHALLENGE})


class ForbiddenError(ServeError):
    """The API key is known, but isn't for this."""

    status, code, title = 403, "forbidden", "The API key is not for this"


class NoSuchRouteError(ServeError):
    """No route has this path."""

    status, code, title = 404, "not_found", "There is nothing at this path"


class MethodNotAllowedError(ServeError):
    """The route exists and takes other methods."""

    status, code, title = 405, "method_not_allowed", "This route takes another method"


class NotAcceptableError(ServeError):
    """The client takes no media type that the answer can have."""

    status, code, title = 406, "not_acceptable", "The answer has no media type that you accept"


class RolloutConflictError(ServeError):
    """The action makes no sense in the rollout's state."""

    status, code, title = 409, "rollout_conflict", "The rollout can't do this now"


class BodyTimeoutError(ServeError):
    """The body was not there in time; the connection is closed, as the rest may still come."""

    status, code, title = 408, "request_timeout", "The request took too long to arrive"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"connection": "close"})


class BodyTooLargeError(ServeError):
    """The body or its number of records is over the limit."""

    status, code, title = 413, "too_large", "The request is too large"


class UnsupportedMediaTypeError(ServeError):
    """The body's type, charset or encoding isn't one that is read here."""

    status, code, title = 415, "unsupported_media_type", "The body's type is not supported"


class InvalidRecordsError(ServeError):
    """The body is JSON, but not the records that the model's signature asks for."""

    status, code, title = 422, "invalid_records", "The records don't fit the model's signature"


class InvalidBodyError(ServeError):
    """The body is JSON, but not what a route that doesn't predict takes."""

    status, code, title = 422, "invalid_body", "The body is not what this route takes"


class UnknownOutputError(ServeError):
    """An inference request asks for an output that the model doesn't have."""

    status, code, title = 422, "unknown_output", "The model has no such output"


class UnpredictableRecordsError(ServeError):
    """The model raised, or gave no finite number, for records that fit its signature."""

    status, code, title = 422, "unpredictable_records", "The model has no answer for these records"


class RateLimitedError(ServeError):
    """The API key is used more often than it may be."""

    status, code, title = 429, "rate_limited", "The API key is used too often"


class OverloadedError(ServeError):
    """The queue is full; nothing was run."""

    status, code, title = 503, "overloaded", "The service is overloaded"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"retry-after": "1"})


class NotReadyError(ServeError):
    """No worker answers."""

    status, code, title = 503, "not_ready", "No model worker answers"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"retry-after": "1"})


class DeadlineExceededError(ServeError):
    """The answer was not there in time."""

    status, code, title = 504, "deadline_exceeded", "The answer took too long"
