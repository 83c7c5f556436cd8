"""What values each type of column takes, from JSON, from arrays and in a matrix."""

import json
import math
import re
from typing import Any

import numpy as np
import pytest

from serve_app.errors import InvalidRecordsError
from serve_app.records.reader import RecordReader
from serve_app.records.signature import Column, Signature

MAX_DOUBLE = float(np.finfo(np.float64).max)
MAX_FLOAT = float(np.finfo(np.float32).max)
LARGEST_FLOAT = math.nextafter(2.0**128 - 2.0**103, 0)
"""What is still rounded to MAX_FLOAT."""
ONE = Signature((Column("bmi", "double"),))
TWO = Signature((Column("bmi", "double"), Column("age", "long")))
MIXED = Signature(
    (
        Column("bmi", "double"),
        Column("visits", "long"),
        Column("smokes", "boolean"),
        Column("city", "string"),
    )
)


def reader(signature: Signature = ONE) -> RecordReader:
    """A reader for a signature."""
    return RecordReader(signature, 1000)


def body(x: object) -> bytes:
    """A request body with this X."""
    return json.dumps({"X": x}).encode()


@pytest.mark.parametrize(
    ("signature", "value", "says"),
    [
        (Signature((Column("a", "long"),)), 2**53 + 1, "would be rounded"),
        (Signature((Column("a", "long"),)), 3.0, "must be a whole number, got 3.0"),
        (Signature((Column("a", "long"),)), 2**70, "would be rounded"),
        (Signature((Column("a", "long"), Column("b", "string"))), 2**63, "into 64 bits"),
        (Signature((Column("a", "integer"),)), 2**31, "into 32 bits"),
        (Signature((Column("a", "integer"),)), -(2**31) - 1, "into 32 bits"),
        (Signature((Column("a", "float"),)), 3.5e38, "into a 32-bit float"),
        (Signature((Column("a", "double"),)), 10**309, "into a 64-bit float"),
    ],
)
def test_numbers_that_the_column_would_cut_or_round_are_refused(
    signature: Signature, value: float, says: str
) -> None:
    """The reason names what doesn't fit."""
    rest = [""] * (len(signature.columns) - 1)
    with pytest.raises(InvalidRecordsError, match=re.escape(says)):
        reader(signature).read_one(body([value, *rest]))


@pytest.mark.parametrize("beside", ["double", "string"])
@pytest.mark.parametrize("kind", ["double", "float", "long", "integer", "boolean", "string"])
@pytest.mark.parametrize("number", [10**400, -(10**400)])
def test_a_whole_number_that_no_float_holds_does_not_fit(
    kind: str, beside: str, number: int
) -> None:
    """As any other: with its record's index, and the records beside it are read."""
    signature = Signature((Column("a", beside), Column("b", kind)))
    other: Any = "" if beside == "string" else 0.5
    fits = {"boolean": True, "string": "x"}.get(kind, 1)
    columns = {"a": [other] * 3, "b": [fits, number, None]}
    found = reader(signature).fitting_rows_of_columns(columns)
    assert [list(row) for row in found.rows.tolist()] == [[other, fits]]
    assert [(one["index"], one["field"]) for one in found.faults] == [(1, "b"), (2, "b")]


@pytest.mark.parametrize("beside", ["double", "string"])
@pytest.mark.parametrize(
    ("kind", "fitting", "unfit"),
    [
        ("double", [-MAX_DOUBLE, MAX_DOUBLE, 2**64], [True, None, "1", [1], 10**309]),
        ("float", [-MAX_FLOAT, MAX_FLOAT, 1], [1.001 * MAX_FLOAT, -1e39, False, "1"]),
        ("integer", [-(2**31), 2**31 - 1], [2**31, -(2**31) - 1, 1.0, 1e300, True]),
        ("long", [-(2**53), 2**53], [2**63, -(2**63) - 1, 2**70, 1.0, False, "1"]),
        ("boolean", [True, False], [0, 1, "true", None]),
        ("string", ["", "\u00e9", "1"], [1, 0.5, True, None, ["a"]]),
    ],
)
def test_each_type_takes_its_own_values_and_no_others(
    kind: str, beside: str, fitting: list[Any], unfit: list[Any]
) -> None:
    """At once and one by one, as numbers beside numbers or beside text."""
    signature = Signature((Column("a", beside), Column("b", kind)))
    other = "" if beside == "string" else 0.5
    target = reader(signature)
    for value in fitting:
        for batch in ([[other, value]] * 2, [{"b": value, "a": other}, [other, value]]):
            for row in target.read_many(body(batch)).tolist():
                assert list(row) == [other, value]
    for value in unfit:
        for batch in ([[other, value]] * 2, [{"b": value, "a": other}, [other, value]]):
            with pytest.raises(InvalidRecordsError) as caught:
                target.read_many(body(batch))
            assert [fault["field"] for fault in caught.value.errors] == ["b", "b"]


def test_columns_are_read_as_records_are() -> None:
    """Lists and arrays of each column's own kind, in any order of names."""
    columns = {
        "city": np.array(["a", "b"], dtype=object),
        "smokes": np.array([True, False]),
        "visits": np.array([1, 2**63], dtype=np.uint64),
        "bmi": np.array([0.5, 1], dtype=np.float32),
    }
    selection = reader(MIXED).fitting_rows_of_columns(columns)
    assert selection.rows.tolist() == [(0.5, 1, True, "a")]
    assert [(one["index"], one["field"]) for one in selection.faults] == [(1, "visits")]
    columns["visits"][1] = 3
    assert reader(MIXED).rows_of_columns(columns).tolist()[1] == (1.0, 3, False, "b")
    with pytest.raises(InvalidRecordsError, match="different lengths: 1, 2"):
        reader(MIXED).rows_of_columns({**columns, "city": ["a"]})
    with pytest.raises(InvalidRecordsError, match="'city': missing"):
        reader(MIXED).rows_of_columns({"bmi": [1], "visits": [1], "smokes": [True]})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.array([0.5, np.nan]), "got NaN"),
        (np.array([0.5, -np.inf]), "does not fit into a 64-bit float"),
        (np.array([0.5, None], dtype=object), "got null"),
        ([0.5, "a"], "got a string"),
        (np.array(["a", "b"]), "record 0, field 'bmi': must be a number, got a string"),
        (np.array([True, False]), "record 0, field 'bmi': must be a number, got a boolean"),
    ],
)
def test_values_of_a_column_that_do_not_fit_are_named(values: Any, says: str) -> None:
    """By record, whatever array they came in."""
    with pytest.raises(InvalidRecordsError, match=says):
        reader().rows_of_columns({"bmi": values})


def test_a_matrix_may_hold_whole_numbers_as_floats() -> None:
    """It has one type for all columns; halves are refused, and what would be rounded."""
    assert reader(TWO).rows_of_matrix(np.array([[0.5, 3.0]])).tolist() == [[0.5, 3.0]]
    assert reader(TWO).rows_of_matrix(np.array([[5, 2**53]])).tolist() == [[5.0, 2.0**53]]
    with pytest.raises(InvalidRecordsError, match=r"record 1, field 'age'.*got 0\.5"):
        reader(TWO).rows_of_matrix(np.array([[0.5, 3.0], [1, 0.5]]))
    with pytest.raises(InvalidRecordsError, match="would be rounded"):
        reader(TWO).rows_of_matrix(np.array([[1, 2**53 + 1]]))
    with pytest.raises(InvalidRecordsError, match="would be rounded"):
        reader(TWO).rows_of_matrix(np.array([[1, np.inf]]))


@pytest.mark.parametrize("beside", ["double", "string"])
def test_every_way_in_rounds_the_numbers_of_a_float_column(beside: str) -> None:
    """To 32 bits, at once and fault by fault; those of other columns are not."""
    target = reader(Signature((Column("a", beside), Column("b", "float"))))
    other: Any = "" if beside == "string" else 0.1
    good = [other, 0.1]
    columns = {"a": [other] * 2, "b": [0.1] * 2}
    arrays = {"a": np.array([other] * 2), "b": np.array([0.1] * 2)}
    found = [
        target.read_one(body(good)),
        target.read_many(body([good] * 2)),
        target.read_many(body([good, {"b": 0.1, "a": other}])),
        target.read_fitting(body([good, [other, None]])).rows,
        target.rows_of([good]),
        target.rows_of_columns(columns),
        target.rows_of_columns(arrays),
        target.fitting_rows_of_columns({**columns, "b": [0.1, "x"]}).rows,
        target.fitting_rows_of_columns({**arrays, "b": np.array([0.1, np.inf])}).rows,
    ]
    if beside == "double":
        found += [
            target.rows_of_matrix(np.array([good] * 2)),
            target.rows_of_matrix(np.array([good, [0.1, MAX_FLOAT]]))[:1],
        ]
    for rows in found:
        assert {tuple(row) for row in rows.tolist()} == {(other, float(np.float32(0.1)))}


@pytest.mark.parametrize("beside", ["double", "string"])
@pytest.mark.parametrize("number", [3.4028235e38, LARGEST_FLOAT, -LARGEST_FLOAT])
def test_a_number_that_is_rounded_to_the_largest_float_fits(number: float, beside: str) -> None:
    """As programs write it, cut to the digits that tell it apart; the next larger doesn't."""
    target = reader(Signature((Column("a", beside), Column("b", "float"))))
    other: Any = "" if beside == "string" else 0.5
    largest = math.copysign(MAX_FLOAT, number)
    larger = math.copysign(2.0**128 - 2.0**103, number)
    for one in (number, int(number)):
        assert list(target.read_one(body([other, one])).tolist()[0]) == [other, largest]
    for values in ([number], [int(number)], np.array([number])):
        rows = target.rows_of_columns({"a": [other], "b": values})
        assert list(rows.tolist()[0]) == [other, largest]
    for one in (larger, int(larger)):
        with pytest.raises(InvalidRecordsError, match="into a 32-bit float"):
            target.read_one(body([other, one]))
    for values in ([larger], [int(larger)], [int(LARGEST_FLOAT) + 1], np.array([larger])):
        with pytest.raises(InvalidRecordsError, match="into a 32-bit float"):
            target.rows_of_columns({"a": [other], "b": values})
