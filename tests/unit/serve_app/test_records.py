"""Request bodies become arrays by the model's signature, or an error that says where."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import BodyTooLargeError, InvalidRecordsError, MalformedBodyError
from serve_app.records import MAX_REPORTED_ERRORS, RecordReader, labelled
from serve_app.signature import Column, Signature

ONE = Signature((Column("bmi", "double"),))
TWO = Signature((Column("bmi", "double"), Column("age", "long")))


def reader(signature: Signature = ONE, max_records: int = 1000) -> RecordReader:
    """A reader for a signature."""
    return RecordReader(signature, max_records)


def body(x: object) -> bytes:
    """A request body with this X."""
    return json.dumps({"X": x}).encode()


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**60), 2**60)))
def test_numbers_arrive_as_numpy_would_have_them(values: list[float]) -> None:
    """Whatever parses equals what `json.loads` and numpy make of it."""
    if not values:
        return
    rows = reader().read_many(body(values))
    assert rows.shape == (len(values), 1)
    assert rows.dtype == np.float64
    np.testing.assert_array_equal(rows[:, 0], np.array(values, dtype=np.float64))


@pytest.mark.parametrize("x", [0.2, [0.2], {"bmi": 0.2}])
def test_one_feature_takes_a_number_a_list_or_an_object(x: object) -> None:
    """All three shapes of a record give the same row."""
    np.testing.assert_array_equal(reader().read_one(body(x)), [[0.2]])


def test_named_columns_may_come_in_any_order() -> None:
    """The row follows the signature, not the body."""
    np.testing.assert_array_equal(reader(TWO).read_one(body({"age": 3, "bmi": 0.5})), [[0.5, 3]])


def test_shapes_of_records_may_be_mixed_in_a_batch() -> None:
    """Each record is read by its own shape."""
    rows = reader(TWO).read_many(body([[0.5, 3], {"bmi": 1, "age": 2}]))
    np.testing.assert_array_equal(rows, [[0.5, 3], [1, 2]])


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b'{"X": NaN}',
        b'{"X": Infinity}',
        b'{"X": 1} 2',
        b'{"X": "\xff"}',
        b'\xef\xbb\xbf{"X": 1}',
        b"[" * 5000,
        b"\x00",
    ],
)
def test_a_body_that_is_not_json_is_malformed(raw: bytes) -> None:
    """What isn't JSON in UTF-8 is refused as such."""
    with pytest.raises(MalformedBodyError):
        reader().read_one(raw)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"[]", "must be"),
        (b"{}", "missing"),
        (b'{"x": 1}', "unknown field 'x'"),
        (b'{"X": 1, "Y": 2}', "unknown field 'Y'"),
        (b'{"X": null}', "got null"),
        (b'{"X": true}', "got a boolean"),
        (b'{"X": "1.5"}', "got a string"),
        (b'{"X": []}', "a list of 0"),
        (b'{"X": [1, 2]}', "a list of 2"),
        (b'{"X": [[1]]}', "got a list"),
        (b'{"X": {}}', "missing field"),
        (b'{"X": {"bmi": 1, "age": 2}}', "unknown field"),
        (b'{"X": {"bmi": {"a": 1}}}', "got an object"),
    ],
)
def test_a_record_that_does_not_fit_is_refused_with_its_reason(raw: bytes, says: str) -> None:
    """The error says what is wrong."""
    with pytest.raises(InvalidRecordsError, match=says):
        reader().read_one(raw)


BOUNDS = [
    ("long", 2**53, 2**53 + 1),
    ("long", -(2**53), -(2**53) - 1),
    ("long", 3, 3.0),
    ("long", 3, 2**70),
    ("integer", 2**31 - 1, 2**31),
    ("float", 3.4e38, 3.5e38),
    ("double", 1.7e308, 2**64 * 10**300),
]


@pytest.mark.parametrize(("kind", "fits", "does_not"), BOUNDS)
def test_numbers_that_the_column_would_cut_or_round_are_refused(
    kind: str, fits: float, does_not: float
) -> None:
    """Each type has its bounds, for one record and for many, by position and by name."""
    target = reader(Signature((Column("a", "double"), Column("b", kind))))
    for wrap in (lambda x: [0.5, x], lambda x: {"b": x, "a": 0.5}):
        rows = target.read_many(body([wrap(fits), wrap(1)]))
        np.testing.assert_array_equal(rows, [[0.5, fits], [0.5, 1]])
        with pytest.raises((InvalidRecordsError, MalformedBodyError)):
            target.read_many(body([wrap(1), wrap(does_not)]))


VALUES = st.one_of(
    st.integers(-(2**60), 2**60), st.floats(allow_nan=False), st.none(), st.booleans(), st.text()
)
RECORDS = st.one_of(
    VALUES,
    st.lists(VALUES, max_size=3),
    st.fixed_dictionaries({"bmi": VALUES, "age": VALUES}),
    st.dictionaries(st.sampled_from(["bmi", "age", "x"]), VALUES),
)


@given(st.lists(RECORDS, min_size=1, max_size=4))
def test_a_batch_is_read_as_its_records_are_one_by_one(records: list[object]) -> None:
    """The fast paths take what the slow one takes, and nothing else."""

    def alone(record: object) -> list[float] | None:
        try:
            row: list[float] = reader(TWO).read_one(body(record))[0].tolist()
            return row
        except (InvalidRecordsError, MalformedBodyError):
            return None

    expected = [alone(record) for record in records]
    try:
        together = reader(TWO).read_many(body(records)).tolist()
    except (InvalidRecordsError, MalformedBodyError):
        assert None in expected
    else:
        assert together == expected


def test_errors_stay_short_however_long_the_names_are() -> None:
    """Ten names of a wide model, 100 characters of a client's own text."""
    wide = Signature(tuple(Column(f"column_{at}", "double") for at in range(500)))
    for record in (None, [1], {"x" * 5000: 1}):
        with pytest.raises(InvalidRecordsError) as caught:
            reader(wide).read_one(body(record))
        assert len(caught.value.body()) < 1500
        assert "column_9 and 490 more" in caught.value.detail


def test_bad_records_of_a_batch_are_named_by_index() -> None:
    """Each bad record is listed, the first 20 at most."""
    with pytest.raises(InvalidRecordsError) as caught:
        reader().read_many(body([0.1, None, 0.2, "a"]))
    assert [fault["index"] for fault in caught.value.errors] == [1, 3]
    with pytest.raises(InvalidRecordsError) as caught:
        reader().read_many(body([None] * 50))
    assert len(caught.value.errors) == MAX_REPORTED_ERRORS
    assert "49 more" in caught.value.detail


@pytest.mark.parametrize("x", [[], 0.2, None, {}])
def test_a_batch_must_be_a_list_with_records(x: object) -> None:
    """An empty batch, or none, is refused."""
    with pytest.raises(InvalidRecordsError):
        reader().read_many(body(x))


def test_a_batch_over_the_limit_is_too_large() -> None:
    """The limit itself is taken; one more is not."""
    assert len(reader(max_records=3).read_many(body([1, 2, 3]))) == 3
    with pytest.raises(BodyTooLargeError):
        reader(max_records=3).read_many(body([1, 2, 3, 4]))


@given(st.binary(max_size=60))
def test_no_bytes_make_anything_but_rows_or_a_client_error(raw: bytes) -> None:
    """Whatever is sent, the answer is an array or an error of the client's."""
    for read in (reader().read_one, reader(TWO).read_many):
        try:
            assert np.isfinite(read(raw)).all()
        except (MalformedBodyError, InvalidRecordsError) as error:
            assert 400 <= error.status < 500


def test_probabilities_are_named_by_class() -> None:
    """Each record's probabilities are an object by label."""
    assert labelled(("a", "b"))(np.array([[0.25, 0.75]])) == [{"a": 0.25, "b": 0.75}]
