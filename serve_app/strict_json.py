"""JSON as RFC 8259 has it, and stricter: duplicate keys are refused."""

import json
import math
from typing import Any, Final, NoReturn

import orjson

from serve_app.errors import MalformedBodyError

MAX_DEPTH: Final = 1024
"""Deepest nesting that is read; orjson's own limit."""

_MOST_DIGITS: Final = 400
"""A whole number with more digits is larger than any float; Python refuses to read far longer."""


def loads(body: bytes) -> Any:
    """Return the document in `body`, quickly, with the last of duplicate keys.

    Numbers too large for a float64 come back as infinities, whole numbers beyond 64 bits as floats.
    Whether there are duplicate keys is told apart by `quotes`, or by `check_keys`. Raises
    MalformedBodyError.
    """
    if not body:
        raise MalformedBodyError("the body is empty: send a JSON document")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        return _with_infinities(body, error)


def loads_unique(body: bytes) -> Any:
    """Return the document in `body` as `loads` does, and refuse duplicate keys."""
    document = loads(body)
    check_keys(body)
    return document


def quotes(body: bytes) -> int:
    """Return how many quotation marks `body` holds: two for each key and each plain string.

    A document that holds fewer keys and strings than that has duplicates, or escaped quotes.
    """
    return body.count(b'"')


def check_keys(body: bytes) -> None:
    """Raise MalformedBodyError if an object in a valid document has one key twice."""
    try:
        json.loads(body, object_pairs_hook=_unique, parse_int=len, parse_float=len)
    except RecursionError as error:
        raise _too_deep() from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise MalformedBodyError(f"the key {twice[:100]!r} stands twice in one object")
    return document


def _with_infinities(body: bytes, error: orjson.JSONDecodeError) -> Any:
    """Read what orjson refuses; only numbers out of range are a reason to go on."""
    is_out_of_range = False

    def number(text: str) -> float:
        nonlocal is_out_of_range
        value = float(text)
        is_out_of_range = is_out_of_range or math.isinf(value)
        return value

    def whole(text: str) -> int | float:
        return int(text) if len(text) < _MOST_DIGITS else number(text)

    refusal = MalformedBodyError(f"the body is not JSON: {error}")
    try:
        text = body.decode("utf-8")
        document = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_float=number,
            parse_int=whole,
            parse_constant=_refuse_constant,
        )
    except RecursionError:
        raise _too_deep() from error
    except ValueError:
        raise refusal from error
    if not is_out_of_range or "\\ud" in text.lower():  # half a surrogate pair can't be answered
        raise refusal from error
    return document


def _refuse_constant(text: str) -> NoReturn:
    raise MalformedBodyError(f"the body is not JSON: {text} is no JSON number")


def _too_deep() -> MalformedBodyError:
    return MalformedBodyError(f"the body is nested deeper than {MAX_DEPTH} levels")
