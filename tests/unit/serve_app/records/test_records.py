"""Request bodies become arrays by the model's signature, or an error that says where."""

import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import (
    MAX_REPORTED_ERRORS,
    BodyTooLargeError,
    InvalidRecordsError,
    MalformedBodyError,
    ServeError,
)
from serve_app.records.reader import RecordReader
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
SIGNATURES = [ONE, TWO, SMALL, TEXT, MIXED]


def reader(signature: Signature = ONE, max_records: int = 1000) -> RecordReader:
    """A reader for a signature."""
    return RecordReader(signature, max_records)


def body(x: object) -> bytes:
    """A request body with this X."""
    return json.dumps({"X": x}).encode()


def test_the_fast_path_is_taken_by_records_that_fit() -> None:
    """Which the tests above would not notice."""

    class Fast(RecordReader):
        def _one_by_one(self, records: list[Any]) -> Any:
            raise AssertionError("slow")

    for signature, fitting in [
        (ONE, [0.5, 1]),
        (ONE, [[0.5], [1]]),
        (TWO, [{"age": 1, "bmi": 0.5}, {"bmi": 1, "age": 2}]),
        (TEXT, ['a"\\\\"', ""]),
        (MIXED, [[0.5, 1, True, 'quoted "\\"'], [1, -(2**63), False, ""]]),
    ]:
        assert len(Fast(signature, 10).read_many(body(fitting))) == 2


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,X01e.- \\utrflasn', max_size=60))
def test_no_bytes_make_anything_but_rows_or_an_error_of_the_clients(raw: bytes | str) -> None:
    """Whatever is sent."""
    raw = raw if isinstance(raw, bytes) else raw.encode()
    for prefix in (b"", b'{"X":', b'{"X":['):
        for signature in SIGNATURES:
            for read in (reader(signature).read_one, reader(signature).read_many):
                try:
                    assert len(read(prefix + raw))
                except ServeError as error:
                    assert 400 <= error.status < 500
                    assert json.loads(error.body())


@pytest.mark.parametrize("x", [0.2, [0.2], {"bmi": 0.2}])
def test_one_feature_takes_a_number_a_list_or_an_object(x: object) -> None:
    """All three shapes of a record give the same row."""
    np.testing.assert_array_equal(reader().read_one(body(x)), [[0.2]])


def test_mixed_columns_keep_their_kinds() -> None:
    """Whole numbers of 64 bits, truth values and text are no floats."""
    rows = reader(MIXED).read_one(
        body({"city": "Zürich\0", "smokes": True, "visits": 2**63 - 1, "bmi": 1})
    )
    assert rows.dtype == [("bmi", "f8"), ("visits", "i8"), ("smokes", "?"), ("city", "O")]
    assert rows.tolist() == [(1.0, 2**63 - 1, True, "Zürich\0")]


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"[]", "must be"),
        (b"{}", "missing"),
        (b'{"x": 1}', "unknown field 'x'"),
        (b'{"X": 1, "Y": 2}', "unknown field 'Y'"),
        (b'{"X": null}', "must be a number, got null"),
        (b'{"X": true}', "must be a number, got a boolean"),
        (b'{"X": "1.5"}', "must be a number, got a string"),
        (b'{"X": 1e309}', "does not fit into a 64-bit float"),
        (b'{"X": []}', "a list of 0"),
        (b'{"X": [1, 2]}', "a list of 2"),
        (b'{"X": [[1]]}', "got a list"),
        (b'{"X": {}}', "field 'bmi': missing field"),
        (b'{"X": {"bmi": 1, "age": 2}}', "field 'age': unknown field; the model has bmi"),
        (b'{"X": {"bmi": {"a": 1}}}', "got an object"),
    ],
)
def test_a_record_that_does_not_fit_is_refused_with_its_reason(raw: bytes, says: str) -> None:
    """The error says what is wrong."""
    with pytest.raises(InvalidRecordsError, match=re.escape(says)):
        reader().read_one(raw)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b'{"X": 1, "X": 2}', "the key 'X' stands twice"),
        (b'{"X": {"bmi": 1, "bmi": 1}}', "the key 'bmi' stands twice"),
        (b'{"X": {"bmi": 1, "\\u0062mi": 1}}', "the key 'bmi' stands twice"),
        (b'{"X": {"a": {"b": 1}, "a": 2}}', "the key 'a' stands twice"),
        (b'{"X": {"bmi": 1e309, "bmi": 1}}', "the key 'bmi' stands twice"),
        (b'{"Y": 1, "Y": 1}', "the key 'Y' stands twice"),
        (b'{"X": ' + b"[" * 300 + b"]" * 300 + b"}", "deeper than 254"),
        (b'{"X": ' + b"[" * 5000, "depth"),
    ],
)
def test_duplicate_keys_and_deep_nesting_are_malformed(raw: bytes, says: str) -> None:
    """Not the last value, not a stack overflow."""
    with pytest.raises(MalformedBodyError, match=says):
        reader().read_one(raw)
    with pytest.raises(MalformedBodyError, match=says):
        reader().read_many(raw)


def test_values_twice_in_one_object_are_found_among_escaped_quotes() -> None:
    """Marks of one string can't stand in for those of a key that was lost."""
    lost = b'{"X": [{"text": "a", "text": "\\u0022\\u0022"}]}'
    with pytest.raises(MalformedBodyError, match="twice"):
        reader(TEXT).read_many(lost)


@pytest.mark.parametrize("record", [{"bmi": 1, "age": 2, "x": 3}, {"bmi": 1}, {"bmi": 1, "x": 2}])
def test_all_columns_must_be_there_and_no_others(record: Any) -> None:
    """Among records that have them, too."""
    for batch in ([record], [{"bmi": 1, "age": 2}, record], [[1, 2], record]):
        with pytest.raises(InvalidRecordsError) as caught:
            reader(TWO).read_many(body(batch))
        assert [fault["index"] for fault in caught.value.errors] == [len(batch) - 1]


def test_errors_stay_short_however_long_the_names_are() -> None:
    """Ten names of a wide model at most, 200 characters of them, 100 of a client's own text."""
    wide = Signature(tuple(Column(f"column_{at}", "double") for at in range(500)))
    for record in (None, [1], {"x" * 5000: 1}):
        with pytest.raises(InvalidRecordsError) as caught:
            reader(wide).read_one(body(record))
        assert len(caught.value.body()) < 1500
        assert "column_9 and 490 more" in caught.value.detail
    long = Signature(tuple(Column(f"{at}" * 150, "double") for at in range(9)))
    with pytest.raises(InvalidRecordsError, match="0 and 8 more") as caught:
        reader(long).read_one(body(None))
    assert len(caught.value.body()) < 1000


def test_bad_records_of_a_batch_are_named_by_index() -> None:
    """Each bad record is listed, the first 20 at most."""
    with pytest.raises(InvalidRecordsError) as caught:
        reader().read_many(body([0.1, None, 0.2, "a"]))
    assert [fault["index"] for fault in caught.value.errors] == [1, 3]
    with pytest.raises(InvalidRecordsError) as caught:
        reader().read_many(body([None] * 50))
    assert len(caught.value.errors) == MAX_REPORTED_ERRORS
    assert "49 more" in caught.value.detail


def test_a_record_with_several_faults_is_listed_once_with_its_first() -> None:
    """By the order of the signature, not by that of the body."""
    with pytest.raises(InvalidRecordsError) as caught:
        reader(TWO).read_many(body([{"age": "a", "bmi": None}, [1, 1], [1, None]]))
    assert [(fault["index"], fault["field"]) for fault in caught.value.errors] == [
        (0, "bmi"),
        (2, "age"),
    ]


@pytest.mark.parametrize("x", [[], 0.2, None, {}])
def test_a_batch_must_be_a_list_with_records(x: object) -> None:
    """An empty batch, or none, is refused."""
    for read in (reader().read_many, reader().read_fitting):
        with pytest.raises(InvalidRecordsError):
            read(body(x))


def test_a_batch_over_the_limit_is_too_large() -> None:
    """The limit itself is taken; one more is not."""
    assert len(reader(max_records=3).read_many(body([1, 2, 3]))) == 3
    for read in (reader(max_records=3).read_many, reader(max_records=3).read_fitting):
        with pytest.raises(BodyTooLargeError):
            read(body([1, 2, 3, 4]))


@pytest.mark.parametrize("part", [b"1", b"[]", b"{}", b'{"":0}', b"[" * 100 + b"]" * 100])
def test_a_large_body_of_too_many_values_is_refused_before_they_are_made(part: bytes) -> None:
    """Whatever they are; lists alone could take forty times the body's size in memory."""
    raw = b'{"X":[' + b",".join([part] * (2**21 // len(part))) + b"]}"
    for read in (reader().read_many, reader().read_one):
        with pytest.raises(BodyTooLargeError, match="holds more than"):
            read(raw)


def test_separators_in_text_are_no_values() -> None:
    """A large body of text with commas and brackets is read."""
    text = ",[{" * 2**19
    assert reader(TEXT, max_records=1).read_many(body([text])).tolist() == [(text,)]


def test_records_parsed_elsewhere_are_read_alike() -> None:
    """Their keys have been looked at."""
    assert reader(TWO).rows_of([[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]
    with pytest.raises(InvalidRecordsError, match="record 1"):
        reader(TWO).rows_of([[1, 2], [3]])
    with pytest.raises(InvalidRecordsError, match="no record"):
        reader(TWO).rows_of([])
