"""JSON as RFC 8259 has it, and stricter: no duplicate keys, bounded nesting and size."""

import json
from typing import Any, Final, NoReturn

import orjson

from serve_app.errors import ECHOED, BodyTooLargeError, MalformedBodyError

MAX_DEPTH: Final = 254
"""Deepest nesting of a document whose keys are checked: the deepest that orjson writes."""

_HARMLESS_BYTES: Final = 2**20
"""A body up to this size is read whatever it holds."""

_OUT_OF_RANGE: Final = "infinity"
"""In orjson's words for a number too large for a float64."""

_KINDS: Final[dict[type, str]] = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}

_MOST_DIGITS: Final = 20
"""A longer whole number doesn't fit into 64 bits, and Python takes long to read far longer ones."""


def loads(body: bytes, most_values: int | None = None) -> Any:
    """Return the document in `body`, quickly, with the last of duplicate keys.

    Numbers too large for a float64 come back as infinities, whole numbers beyond 64 bits as floats.
    Whether there are duplicate keys is told by `quotes`, or by `check_keys`. Raises
    MalformedBodyError, and BodyTooLargeError for a large body that holds more than `most_values`
    (lists and objects count, too), before it makes them.
    """
    if not body:
        raise MalformedBodyError("the body is empty: send a JSON document")
    if most_values is not None and len(body) > _HARMLESS_BYTES and _separators(body) > most_values:
        _check_values(body, most_values)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        refusal = MalformedBodyError(f"the body is not JSON: {error}")
        if _OUT_OF_RANGE not in str(error):
            raise refusal from error
        return _with_infinities(body, refusal)


def loads_unique(body: bytes, most_values: int | None = None) -> Any:
    """Return the document in `body` as `loads` does, and refuse duplicate keys."""
    document = loads(body, most_values)
    check_keys(body, document)
    return document


def quotes(body: bytes) -> int:
    """Return how many quotation marks begin or end a string or key: two for each.

    A document that holds fewer keys and strings than that has lost some to duplicate keys.
    """
    return _unescaped(body).count(b'"')


def check_keys(body: bytes, document: Any) -> None:
    """Raise MalformedBodyError if `body`, read as `document`, has a key twice in an object.

    So it does for nesting deeper than MAX_DEPTH.
    """
    try:
        again = orjson.dumps(document)
    except orjson.JSONEncodeError as error:
        raise _too_deep() from error
    if quotes(body) != quotes(again):
        try:
            json.loads(body, object_pairs_hook=_unique, parse_int=len, parse_float=len)
        except RecursionError as error:  # in what a later value of the key has replaced
            raise _too_deep() from error
        raise MalformedBodyError("an object in the body has one key twice")


def kind(value: Any) -> str:
    """Return what JSON calls a value of this type."""
    return _KINDS.get(type(value), type(value).__name__)


def _unescaped(body: bytes) -> bytes:
    """Return `body` without escaped quotation marks, so that each that is left bounds a string."""
    if b"\\" not in body:
        return body
    return body.replace(b"\\\\", b"").replace(b'\\"', b"")


def _separators(text: bytes) -> int:
    """Return at least as many as there are values, less one: each follows a comma or an opening."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _check_values(body: bytes, most_values: int) -> None:
    outside_strings = b"".join(_unescaped(body).split(b'"')[::2])
    if _separators(outside_strings) > most_values:
        raise BodyTooLargeError(
            f"the body holds more than {most_values} values: send fewer records at once"
        )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for key, value in pairs:
        if key in document:
            raise MalformedBodyError(f"the key {key[:ECHOED]!r} stands twice in one object")
        document[key] = value
    return document


def _with_infinities(body: bytes, refusal: MalformedBodyError) -> Any:
    """Read a document in which orjson found a number out of range, else raise `refusal`."""
    try:
        text = body.decode("utf-8")
        document = json.loads(text, parse_int=_whole, parse_constant=_refuse_constant)
        orjson.dumps(document)  # which refuses half a surrogate pair
    except RecursionError as error:
        raise _too_deep() from error
    except (ValueError, TypeError) as error:
        raise refusal from error
    return document


def _whole(text: str) -> int | float:
    value = int(text) if len(text) <= _MOST_DIGITS else float(text)
    return value if -(2**63) <= value < 2**64 else float(value)


def _refuse_constant(text: str) -> NoReturn:
    raise MalformedBodyError(f"the body is not JSON: {text} is no JSON number")


def _too_deep() -> MalformedBodyError:
    return MalformedBodyError(f"the body is nested deeper than {MAX_DEPTH} levels")
