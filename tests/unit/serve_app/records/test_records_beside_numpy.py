"""Records as anybody would read them, with `json.loads` and numpy, beside ours."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.errors import InvalidRecordsError, MalformedBodyError, ServeError
from serve_app.records.reader import RecordReader
from serve_app.records.rows import Rows
from serve_app.records.signature import Column, Signature

ONE = Signature((Column("bmi", "double"),))
TWO = Signature((Column("bmi", "double"), Column("age", "long")))
SMALL = Signature((Column("a", "float"), Column("b", "integer")))
TEXT = Signature((Column("text", "string"),))
MIXED = Signature(
    (
        Column("bmi", "double"),
        Column("visits", "long"),
        Column("smokes", "boolean"),
        Column("city", "string"),
    )
)
SMALL_MIXED = Signature((*SMALL.columns, Column("c", "boolean")))
SIGNATURES = [ONE, TWO, SMALL, SMALL_MIXED, TEXT, MIXED]


def reader(signature: Signature) -> RecordReader:
    """A reader for a signature."""
    return RecordReader(signature, 1000)


class SlowReader(RecordReader):
    """Reads every batch fault by fault."""

    def _at_once(self, records: list[Any], quotes: int | None) -> Rows | None:
        return None


# What is sent: JSON as text, so that every way to write a value is tried.

WHOLE = st.one_of(
    st.integers(-5, 5).map(str),
    st.builds(
        lambda power, off, sign: str(sign * (2**power + off)),
        st.sampled_from([31, 53, 63]),
        st.integers(-1, 1),
        st.sampled_from([1, -1]),
    ),
)
NUMBERS = st.one_of(
    WHOLE,
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(["0.1", "3.4028235e38", "-3.4028235677973366e38", str(2**128 - 2**103 - 1)]),
    st.sampled_from(["-0", "-0.0", "3.0", "1E2", "1e-400", "1e309", "-1e999", "3.4e38", "3.5e38"]),
    st.sampled_from([f"1{'0' * 308}", f"1{'0' * 309}", f"-1{'0' * 5000}", str(2**64), str(2**70)]),
)
STRINGS = st.one_of(
    st.text(max_size=5).map(json.dumps),
    st.text(max_size=5).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.sampled_from([r'"\ud800"', r'"\ud83d\ude00"', r'"\""', r'"\\"', r'"\\\""', r'"\u0022"']),
)
VALUES = st.one_of(NUMBERS, STRINGS, st.sampled_from(["true", "false", "null", "[]", "[[1]]"]))
RIGHT_VALUES = {
    "double": NUMBERS,
    "float": NUMBERS,
    "long": WHOLE,
    "integer": WHOLE,
    "boolean": st.sampled_from(["true", "false"]),
    "string": STRINGS,
}


@st.composite
def keys(draw: st.DrawFn, name: str) -> str:
    """A name as a JSON key, some of its characters escaped."""
    return '"' + "".join(f"\\u{ord(one):04x}" if draw(st.booleans()) else one for one in name) + '"'


def joined(parts: Sequence[str], draw: st.DrawFn) -> str:
    """The parts with commas and blanks between them."""
    blanks = draw(st.sampled_from(["", " ", "\r\n\t"]))
    return f",{blanks}".join(parts) + blanks


@st.composite
def records(draw: st.DrawFn, signature: Signature) -> str:
    """A record that has a good chance to fit, as JSON."""
    values = [
        draw(RIGHT_VALUES[column.type] if draw(st.integers(0, 9)) else VALUES)
        for column in signature.columns
    ]
    shape = draw(st.sampled_from(["plain", "list", "object", "object", "ragged", "other"]))
    if shape == "plain":
        return values[0]
    if shape == "list":
        return f"[{joined(values, draw)}]"
    if shape == "ragged":
        return f"[{joined(values[draw(st.integers(0, 1)) :], draw)}]"
    if shape == "other":
        return draw(VALUES)
    pairs = [
        f"{draw(keys(name))}:{value}" for name, value in zip(signature.names, values, strict=True)
    ]
    pairs = list(draw(st.permutations(pairs)))
    change = draw(st.sampled_from(["none"] * 6 + ["twice", "fewer", "more"]))
    if change == "twice":
        pairs.append(f"{draw(keys(draw(st.sampled_from(signature.names))))}:{draw(VALUES)}")
    if change == "fewer":
        pairs.pop()
    if change == "more":
        pairs.append(f"{draw(STRINGS)}:{draw(VALUES)}")
    return f"{{{joined(pairs, draw)}}}"


@st.composite
def batches(draw: st.DrawFn) -> tuple[Signature, str]:
    """A signature, and the body of a batch that has a good chance to fit."""
    signature = draw(st.sampled_from(SIGNATURES))
    one_shape = [draw(records(signature))] * draw(st.integers(1, 3))
    some = draw(st.lists(records(signature), min_size=1, max_size=4))
    parts = draw(st.sampled_from([one_shape, some]))
    return signature, f"{{{draw(keys('X'))} :[{joined(parts, draw)}]}}"


# What is expected: `json.loads`, and rules written down a second time, plainly.


class NotJsonError(Exception):
    """The text is refused as JSON."""


def parsed(text: str) -> list[Any]:
    """The records that `json.loads` finds. Raises NotJsonError."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise NotJsonError
        return dict(pairs)

    def whole(digits: str) -> float:
        return int(digits) if len(digits) < 1000 else float(digits)

    document = json.loads(text, object_pairs_hook=unique, parse_int=whole)
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise NotJsonError from error
    found: list[Any] = document["X"]
    return found


MAX_DOUBLE = float(np.finfo(np.float64).max)
MAX_FLOAT = math.nextafter(2.0**128 - 2.0**103, 0)
RANGES: dict[str, tuple[float, float]] = {
    "double": (-MAX_DOUBLE, MAX_DOUBLE),
    "float": (-MAX_FLOAT, MAX_FLOAT),
    "integer": (-(2**31), 2**31 - 1),
}


def fits(column: Column, signature: Signature, value: Any) -> bool:
    """Whether a column takes a value."""
    if column.type in ("string", "boolean"):
        return type(value) is {"string": str, "boolean": bool}[column.type]
    types = (int,) if column.type in ("long", "integer") else (int, float)
    is_exact = all(one.type not in ("string", "boolean") for one in signature.columns)
    long = (-(2**53), 2**53) if is_exact else (-(2**63), 2**63 - 1)
    low, high = long if column.type == "long" else RANGES[column.type]
    return type(value) in types and bool(
        float(low) <= value <= float(high) and low <= value <= high
    )


def row_of(signature: Signature, record: Any) -> list[Any] | None:
    """A record's values in the signature's order; None if it doesn't fit."""
    if isinstance(record, dict):
        if set(record) != set(signature.names):
            return None
        record = [record[name] for name in signature.names]
    elif not isinstance(record, list):
        record = [record]
    if len(record) != len(signature.columns):
        return None
    pairs = zip(signature.columns, record, strict=True)
    return record if all(fits(column, signature, value) for column, value in pairs) else None


def rows_of(signature: Signature, found: list[list[Any]]) -> Rows:
    """Rows as numpy makes them."""
    if all(column.is_numeric for column in signature.columns):
        numbers = np.array(found, dtype=np.float64).reshape(-1, len(signature.columns))
        for at, column in enumerate(signature.columns):
            if column.type == "float":
                numbers[:, at] = numbers[:, at].astype(np.float32)
        return numbers
    kinds = {"double": "f8", "float": "f4", "long": "i8", "integer": "i4", "boolean": "?"}
    dtype = [(column.name, kinds.get(column.type, "O")) for column in signature.columns]
    return np.array([tuple(row) for row in found], dtype=dtype)


@settings(max_examples=300)
@given(batches())
def test_what_parses_equals_what_json_and_numpy_make_of_it(batch: tuple[Signature, str]) -> None:
    """All records that fit, and the indexes of all that don't."""
    signature, text = batch
    try:
        found = parsed(text)
    except NotJsonError:
        with pytest.raises(MalformedBodyError):
            reader(signature).read_fitting(text.encode())
        return
    expected = [row_of(signature, record) for record in found]
    selection = reader(signature).read_fitting(text.encode())
    kept = [index for index, row in enumerate(expected) if row is not None]
    good = rows_of(signature, [row for row in expected if row is not None])
    assert selection.kept.tolist() == kept
    assert selection.rows.dtype == good.dtype
    np.testing.assert_array_equal(selection.rows, good)
    bad = [index for index, row in enumerate(expected) if row is None]
    assert [fault["index"] for fault in selection.faults] == bad
    if bad:
        with pytest.raises(InvalidRecordsError) as caught:
            reader(signature).read_many(text.encode())
        assert [fault["index"] for fault in caught.value.errors] == bad
    else:
        np.testing.assert_array_equal(reader(signature).read_many(text.encode()), good)


def outcome(target: RecordReader, text: str) -> Any:
    """What a reader makes of a batch, as something that can be compared."""
    try:
        selection = target.read_fitting(text.encode())
    except ServeError as error:
        return error.code, error.detail
    return selection.rows.dtype, selection.rows.tolist(), selection.faults


@settings(max_examples=300)
@given(batches())
def test_records_are_read_alike_at_once_and_one_by_one(batch: tuple[Signature, str]) -> None:
    """The fast path takes nothing that the slow one doesn't, and changes nothing."""
    signature, text = batch
    assert outcome(reader(signature), text) == outcome(SlowReader(signature, 1000), text)
