"""The parts of an OpenAPI operation: parameters, bodies, and every answer with its headers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import orjson

from serve_app.errors import (
    PROBLEM,
    BodyTimeoutError,
    BodyTooLargeError,
    DeadlineExceededError,
    InvalidRecordsError,
    MalformedBodyError,
    MalformedHeaderError,
    NotAcceptableError,
    NotReadyError,
    OverloadedError,
    RateLimitedError,
    ServeError,
    UnknownParameterError,
    UnpredictableRecordsError,
    UnsupportedMediaTypeError,
)
from serve_app.openapi.schemas import Schema, named

Errors = tuple[type[ServeError], ...]
Described = dict[str, Any]

ALWAYS: Final[Errors] = (MalformedHeaderError, ServeError)
"""What any route may answer."""
WORKERS: Final[Errors] = (OverloadedError, NotReadyError, DeadlineExceededError)
"""What a route that asks a worker may answer, too."""
BODIES: Final[Errors] = (
    MalformedBodyError,
    BodyTimeoutError,
    BodyTooLargeError,
    UnsupportedMediaTypeError,
    NotAcceptableError,
)
"""What a route that reads a body may answer, too."""
PREDICTIONS: Final[Errors] = (
    *BODIES,
    UnknownParameterError,
    InvalidRecordsError,
    UnpredictableRecordsError,
    *WORKERS,
)
"""What a route that predicts may answer, too."""

OF_A_VERSION: Final = ("x-model-version", "x-model-role")

HEADERS: Final[dict[str, Described]] = {
    "x-request-id": {
        "description": "The request's own id, or the one that it was given.",
        "required": True,
        "schema": {"type": "string", "minLength": 1},
    },
    "x-model-version": {
        "description": "The version that answered.",
        "required": True,
        "schema": {"type": "string"},
    },
    "x-model-role": {
        "description": "Why this version answered.",
        "required": True,
        "schema": {"enum": ["champion", "challenger"]},
    },
    "retry-after": {
        "description": "Seconds after which to ask again.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    },
}

REQUEST_ID: Final[Described] = {
    "name": "x-request-id",
    "in": "header",
    "description": "Your own name for the request; 1 to 200 printable ASCII characters.",
    "schema": {"type": "string", "pattern": "^[!-~]([ -~]{0,198}[!-~])?$"},
}

_COME_BACK: Final = frozenset({OverloadedError, NotReadyError, RateLimitedError})

_DETAIL: Final = "what is wrong, where, and the way out"


def operation(
    name: str,
    tag: str,
    summary: str,
    answer: Described,
    *,
    errors: Errors = (),
    description: str = "",
    parameters: Sequence[Described] = (),
    body: Described | None = None,
    status: int = 200,
) -> Described:
    """Return an operation that answers `status` with `answer`, or one of `errors`."""
    described: Described = {"operationId": name, "tags": [tag], "summary": summary}
    if description:
        described["description"] = description
    described["parameters"] = [*parameters, {"$ref": "#/components/parameters/x-request-id"}]
    if body is not None:
        described["requestBody"] = {"required": True, "content": body}
    described["responses"] = {str(status): answer, **problems((*ALWAYS, *errors))}
    return described


def answer(
    description: str, content: Described | None = None, headers: Iterable[str] = ()
) -> Described:
    """Return an answer with these headers beside the request's id."""
    described: Described = {
        "description": description,
        "headers": {name: _header(name) for name in ("x-request-id", *headers)},
    }
    if content is not None:
        described["content"] = content
    return described


def content(
    media_type: str, schema: Schema, examples: Mapping[str, Any] | None = None
) -> Described:
    """Return the content of a body; `examples` are values by what they show."""
    described: Described = {"schema": schema}
    if examples:
        described["examples"] = {
            title: {"summary": title, "value": value} for title, value in examples.items()
        }
    return {media_type: described}


def flag(name: str, description: str) -> Described:
    """Return a query parameter that is true or false."""
    return {
        "name": name,
        "in": "query",
        "description": description,
        "schema": {"type": "boolean", "default": False},
    }


def problems(errors: Errors) -> Described:
    """Return the problem documents of these errors, by status."""
    by_status: dict[int, list[type[ServeError]]] = {}
    for error in sorted(set(errors), key=lambda error: (error.status, error.code)):
        by_status.setdefault(error.status, []).append(error)
    return {str(status): _problem(status, found) for status, found in by_status.items()}


def _problem(status: int, errors: list[type[ServeError]]) -> Described:
    codes = {"status": {"const": status}, "code": {"enum": [error.code for error in errors]}}
    schema = {"allOf": [named("Problem"), {"properties": codes}]}
    text = "; ".join(f"`{error.code}`: {error.title}" for error in errors)
    examples = {error.code: orjson.loads(error(_DETAIL).body()) for error in errors}
    headers = ("retry-after",) if set(errors) & _COME_BACK else ()
    return answer(text, content(PROBLEM, schema, examples), headers)


def _header(name: str) -> Described:
    return {"$ref": f"#/components/headers/{name}"}
