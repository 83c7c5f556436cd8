"""JSON is read as the standard has it, without duplicate keys, without surprises in size."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import BodyTooLargeError, MalformedBodyError
from serve_app.records import strict_json

TEXTS = st.text(alphabet='a"\\/[{,:é\n', max_size=6)
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


def keys_twice(document: Any) -> str:
    """The document as text, with every key of its objects standing twice."""
    if isinstance(document, dict):
        pairs = [f"{json.dumps(key)}:{keys_twice(value)}" for key, value in document.items()] * 2
        return "{" + ",".join(pairs) + "}"
    if isinstance(document, list):
        return "[" + ",".join(map(keys_twice, document)) + "]"
    return json.dumps(document)


def has_keys(document: Any) -> bool:
    """Whether there is an object with a key in the document."""
    if isinstance(document, dict):
        return bool(document)
    return isinstance(document, list) and any(map(has_keys, document))


@given(DOCUMENTS, st.booleans(), st.sampled_from([None, 1]))
def test_documents_come_out_as_they_went_in(
    document: Any, is_ascii: bool, indent: int | None
) -> None:
    """However they are written."""
    text = json.dumps(document, ensure_ascii=is_ascii, indent=indent)
    assert strict_json.loads_unique(text.encode()) == document


@given(DOCUMENTS)
def test_a_key_that_stands_twice_is_found(document: Any) -> None:
    """At any depth, with whatever quotes and backslashes beside it."""
    text = keys_twice(document).encode()
    if has_keys(document):
        with pytest.raises(MalformedBodyError, match="twice"):
            strict_json.loads_unique(text)
    else:
        assert strict_json.loads_unique(text) == document


@pytest.mark.parametrize("text", [r"\u005c", r"\\\u0022", r"\u0022", r"\\", r"\"", r"\\\"", r"\/"])
def test_no_way_to_write_a_string_looks_like_a_key_twice(text: str) -> None:
    """Escaped quotes and backslashes, by themselves or by their numbers."""
    body = f'{{"a{text}":"{text}","b":"{text}a"}}'.encode()
    assert strict_json.loads_unique(body) == json.loads(body)


def test_the_key_that_stands_twice_is_named_in_part() -> None:
    """100 characters at most."""
    twice = json.dumps("k" * 500)
    with pytest.raises(MalformedBodyError, match=f"'{'k' * 100}' stands twice"):
        strict_json.loads_unique(f"{{{twice}:1,{twice}:1e5}}".encode())


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"{",
        b"[1,]",
        b"{'a': 1}",
        b"01",
        b"+1",
        b".5",
        b"1.",
        b"0x1",
        b"NaN",
        b"[Infinity]",
        b"[-Infinity]",
        b"[1e309, NaN]",
        b"[1e309",
        b"[1e309] 1",
        b'[1e309, "\\ud800"]',
        b'[1e309, "\xff"]',
        b"1 2",
        b"nul",
        b'"\x01"',
        b'"\\x41"',
        b'"\\ud800"',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b"\xef\xbb\xbf1",
        '"é"'.encode("latin-1"),
        "1".encode("utf-16"),
        b"\x00",
    ],
)
def test_what_is_not_json_in_utf_8_is_malformed(raw: bytes) -> None:
    """Also beside a number that is out of range."""
    with pytest.raises(MalformedBodyError):
        strict_json.loads(raw)


@pytest.mark.parametrize("depth", [strict_json.MAX_DEPTH + 2, 990, 1100, 100_000])
@pytest.mark.parametrize("inside", [b"", b"1e309"])
def test_nesting_past_the_limit_is_malformed(depth: int, inside: bytes) -> None:
    """Not a stack overflow, whichever reader meets it."""
    with pytest.raises(MalformedBodyError):
        strict_json.loads_unique(b"[" * depth + inside + b"]" * depth)


def test_nesting_that_a_later_value_of_the_key_replaces_is_malformed() -> None:
    """The document that is left is flat."""
    deep = b"[" * 1000 + b"]" * 1000
    with pytest.raises(MalformedBodyError):
        strict_json.loads_unique(b'{"a":' + deep + b',"a":1}')


def test_nesting_up_to_the_limit_is_read() -> None:
    """254 levels."""
    depth = strict_json.MAX_DEPTH
    assert strict_json.loads_unique(b"[" * depth + b"]" * depth)


def test_numbers_out_of_range_come_as_infinities_and_floats() -> None:
    """For whoever knows the record's index to refuse."""
    found = strict_json.loads(f"[1e309, -1e400, 1{'0' * 5000}, {2**64}, {2**64 - 1}, 5]".encode())
    assert found == [float("inf"), float("-inf"), float("inf"), 2.0**64, 2**64 - 1, 5]
    assert [type(one) for one in found[3:]] == [float, int, int]
    assert type(strict_json.loads(b"[18446744073709551616]")[0]) is float


@pytest.mark.parametrize("most", [1, 7])
def test_a_large_body_may_hold_a_number_of_values(most: int) -> None:
    """One more is too many; blanks, text and small bodies don't count."""
    blanks = b" " * 2**20
    fits = b"[" + b",".join([b'",[{"'] * most) + b"]"
    more = b"[" + b",".join([b"1"] * (most + 1)) + b"]"
    assert len(strict_json.loads(fits + blanks, most)) == most
    with pytest.raises(BodyTooLargeError, match=f"more than {most} values"):
        strict_json.loads(more + blanks, most)
    assert len(strict_json.loads(more, most)) == most + 1


@given(st.binary(max_size=40))
def test_no_bytes_make_another_error(raw: bytes) -> None:
    """A document, or MalformedBodyError."""
    try:
        strict_json.loads_unique(raw)
    except MalformedBodyError:
        return
    json.loads(raw)
