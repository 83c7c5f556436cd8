"""Media types are compared as RFC 9110 says."""

import pytest

from serve_app.errors import NotAcceptableError, UnsupportedMediaTypeError
from serve_app.protocols import media

BOTH = (media.JSON, media.ARROW)


@pytest.mark.parametrize(
    "header",
    [
        b"application/json",
        b"Application/JSON",
        b" application/json ",
        b"application/json;",
        b"application/json; charset=utf-8",
        b'application/json;a=b; Charset="UTF-8"',
        b"application/json; charset=utf8; a=b",
    ],
)
def test_json_is_taken_however_it_is_written(header: bytes) -> None:
    """Case, blanks and other parameters count for nothing."""
    assert media.content_type(header, (media.JSON,)) == media.JSON


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"", "got 'none'"),
        (b"text/plain", "got 'text/plain'"),
        (b"application/jsonx", "got 'application/jsonx'"),
        (b"application/json, application/json", "application/json"),
        (b"application/json; charset=latin-1", "got 'latin-1'"),
        (b"application/json; charset=utf-8; charset=utf-16", "got 'utf-16'"),
        (b"application/json; charset=", "got ''"),
        (b"\xff", "application/json"),
    ],
)
def test_other_types_and_charsets_are_refused(header: bytes, says: str) -> None:
    """With what was sent, and what to send."""
    with pytest.raises(UnsupportedMediaTypeError, match=says):
        media.content_type(header, (media.JSON,))


@pytest.mark.parametrize(
    ("header", "choice"),
    [
        (b"", media.JSON),
        (b"*/*", media.JSON),
        (b"application/*", media.JSON),
        (b"text/html, */*;q=0.1", media.JSON),
        (b"APPLICATION/JSON", media.JSON),
        (b"application/json;charset=utf-8", media.JSON),
        (media.ARROW.encode(), media.ARROW),
        (b"application/json;q=0.5, " + media.ARROW.encode(), media.ARROW),
        (b"application/json;q=0.5, */*;q=0.8", media.ARROW),
        (b"application/json;q=0, */*", media.ARROW),
        (b"application/json;q=0.001", media.JSON),
        (b",, application/json ,", media.JSON),
    ],
)
def test_the_client_gets_what_it_likes_best(header: bytes, choice: str) -> None:
    """The first of equals; the most specific range decides."""
    assert media.accepted(header, BOTH) == choice


@pytest.mark.parametrize(
    "header",
    [b"text/html", b"*/*;q=0", b"application/json;q=0", b"application/json;q=x", b"\xff", b"a;b"],
)
def test_a_client_that_takes_none_of_them_is_told_what_there_is(header: bytes) -> None:
    """406."""
    with pytest.raises(NotAcceptableError, match=media.JSON):
        media.accepted(header, (media.JSON,))


@pytest.mark.parametrize("header", [b"", b"identity", b" Identity "])
def test_no_encoding_may_be_named(header: bytes) -> None:
    """It changes nothing."""
    media.check_encoding(header)


@pytest.mark.parametrize("header", [b"gzip", b"br", b"identity, gzip", b"x" * 500])
def test_encoded_bodies_are_refused(header: bytes) -> None:
    """Nothing is unpacked here."""
    with pytest.raises(UnsupportedMediaTypeError, match="not be encoded") as caught:
        media.check_encoding(header)
    assert len(caught.value.detail) < 200
