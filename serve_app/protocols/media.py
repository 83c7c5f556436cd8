"""Media types: what a body is said to be, and which answer a client takes (RFC 9110)."""

from functools import lru_cache
from typing import Final

from serve_app.errors import ECHOED, NotAcceptableError, UnsupportedMediaTypeError

JSON: Final = "application/json"
ARROW: Final = "application/vnd.apache.arrow.stream"
OCTETS: Final = "application/octet-stream"
CSV: Final = "text/csv"
UNNAMED: Final = ""
"""Taken by protocols whose clients send no `content-type`."""


@lru_cache(maxsize=256)
def content_type(header: bytes, taken: tuple[str, ...]) -> str:
    """Return the media type that a `content-type` header names.

    Raises UnsupportedMediaTypeError if it isn't among `taken`, or has a charset other than UTF-8.
    """
    media_type, _, parameters = header.decode("latin-1").partition(";")
    media_type = media_type.strip().lower()
    if media_type not in taken:
        raise UnsupportedMediaTypeError(
            f"send the header 'content-type: {' or '.join(filter(None, taken))}', "
            f"got {media_type[:ECHOED] or 'none'!r}"
        )
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        charset = value.strip().strip('"').lower()
        if name.strip().lower() == "charset" and charset not in ("utf-8", "utf8"):
            raise UnsupportedMediaTypeError(f"the charset must be utf-8, got {charset[:ECHOED]!r}")
    return media_type


@lru_cache(maxsize=256)
def accepted(header: bytes, offered: tuple[str, ...]) -> str:
    """Return the media type of `offered` that an `accept` header likes best, the first of equals.

    Raises NotAcceptableError if it takes none of them.
    """
    ranges = [_range(part) for part in header.decode("latin-1").lower().split(",") if part.strip()]
    if not ranges:
        return offered[0]
    quality, choice = max(
        ((_quality(ranges, one), one) for one in offered), key=lambda pair: pair[0]
    )
    if quality <= 0:
        raise NotAcceptableError(f"the answer can be {' or '.join(offered)}: name it in 'accept'")
    return choice


def check_encoding(header: bytes) -> None:
    """Raise UnsupportedMediaTypeError unless a `content-encoding` header says that there's none."""
    encoding = header.decode("latin-1").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedMediaTypeError(f"the body must not be encoded, got {encoding[:ECHOED]!r}")


def _range(part: str) -> tuple[str, float]:
    media_range, *parameters = (word.strip() for word in part.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return media_range, float(value)
            except ValueError:
                return media_range, 0.0
    return media_range, 1.0


def _quality(ranges: list[tuple[str, float]], media_type: str) -> float:
    """Return the quality of the most specific range that matches; 0 if none does."""
    for wanted in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
        found = [quality for media_range, quality in ranges if media_range == wanted]
        if found:
            return max(found)
    return 0.0
