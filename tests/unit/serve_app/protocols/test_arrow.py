"""Arrow streams in and out of `/batch`, driven by Starlette's client over a fake model."""

import struct
from typing import Any

import httpx2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from serve_app.errors import BodyTooLargeError, MalformedArrowError, ServeError
from serve_app.http.body import Limits
from serve_app.http.routes import application
from serve_app.models.predictions import Predictions
from serve_app.models.served import ServedModel, ServedVersion
from serve_app.protocols import arrow_messages, media
from serve_app.protocols.arrow import ArrowReader
from serve_app.records import rows as row_blocks
from serve_app.records.reader import RecordReader
from serve_app.records.rows import Rows
from serve_app.records.signature import Column, Signature
from tests.services import service as service_of

VERSION = ServedVersion("diabetes", "7", "run1", "models:/diabetes/7", "ab" * 32)
TWO = Signature((Column("bmi", "double"), Column("age", "long")))
MIXED = Signature((Column("sex", "string"), Column("smokes", "boolean"), Column("age", "integer")))
MOST_RECORDS = 1000
AGES = pa.array([1, 2, 3])
BMIS = pa.array([0.5, 0.25, 1.0])
SEXES = pa.array(["f", "", "m\u00e4"])
SMOKES = pa.array([True, False, True])


async def weighted(
    rows: Rows, wants_probabilities: bool, within_s: float | None = None
) -> Predictions:
    """bmi + 10 age, or bmi and its complement; errors for a negative bmi."""
    errors = dict.fromkeys(np.flatnonzero(rows[:, 0] < 0).tolist(), "negative")
    if wants_probabilities:
        return Predictions(np.column_stack([rows[:, 0], 1 - rows[:, 0]]), errors)
    return Predictions(rows[:, 0] + 10 * rows[:, 1], errors)


async def echo(rows: Rows, wants_probabilities: bool, within_s: float | None = None) -> Predictions:
    """Each row as text."""
    return Predictions(np.array([str(row) for row in rows.tolist()]))


async def all_well() -> None:
    """A worker that answers."""


def client(
    signature: Signature = TWO, predict: Any = weighted, classes: tuple[str, ...] | None = None
) -> TestClient:
    """A client of the routes over a fake model."""
    example = row_blocks.empty(signature, 1)
    for at, column in enumerate(signature.columns):
        row_blocks.column(example, at)[:] = "" if column.type == "string" else 0
    service = service_of(
        model=ServedModel(VERSION, signature, example, classes),
        predict=predict,
        check=all_well,
        limits=Limits(max_body_bytes=2**20, body_timeout_s=5.0),
        max_batch_records=MOST_RECORDS,
    )
    return TestClient(application(service), raise_server_exceptions=False)


def stream(*batches: Any, **options: Any) -> bytes:
    """Batches as a stream; a dictionary of columns is a batch."""
    made = [pa.record_batch(one) if isinstance(one, dict) else one for one in batches]
    sink = pa.BufferOutputStream()
    writing = pa.ipc.IpcWriteOptions(**options)
    with pa.ipc.new_stream(sink, made[0].schema, options=writing) as writer:
        for batch in made:
            writer.write_batch(batch)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def ask(body: bytes, query: str = "", accept: str = media.ARROW, **model: Any) -> httpx2.Response:
    """The answer to a stream."""
    headers = {"content-type": media.ARROW, "accept": accept}
    return client(**model).post(f"/batch{query}", content=body, headers=headers)


def columns(answer: httpx2.Response) -> dict[str, list[Any]]:
    """The columns of an answer."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == media.ARROW
    found: dict[str, list[Any]] = pa.ipc.open_stream(answer.content).read_all().to_pydict()
    return found


@pytest.mark.parametrize("accept", [media.JSON, media.ARROW, "", "*/*"])
@pytest.mark.parametrize("sent", [media.JSON, media.ARROW])
def test_the_body_and_the_answer_each_have_the_type_that_is_named(sent: str, accept: str) -> None:
    """JSON in, Arrow out, and the other way round; JSON if nothing is preferred."""
    content = (
        b'{"X": [[0.5, 1], {"age": 2, "bmi": 0.25}]}'
        if sent == media.JSON
        else stream({"age": AGES[:2], "bmi": BMIS[:2]})
    )
    headers = {"content-type": sent, "accept": accept}
    answer = client().post("/batch", content=content, headers=headers)
    assert answer.headers["x-model-version"] == "7"
    if accept == media.ARROW:
        assert columns(answer) == {"result": [10.5, 20.25]}
    else:
        assert answer.headers["content-type"] == media.JSON
        assert answer.json() == {"result": [10.5, 20.25]}


@pytest.mark.parametrize("bmi", ["float64", "float32", "int8", "uint64"])
@pytest.mark.parametrize("age", ["int64", "uint8", "int32"])
def test_numbers_of_every_width_fit_a_numeric_column(bmi: str, age: str) -> None:
    """In columns of any order, over several batches."""
    one = {
        "age": AGES.cast(pa.type_for_alias(age)),
        "bmi": pa.array([5, 6, 7]).cast(pa.type_for_alias(bmi)),
    }
    assert columns(ask(stream(one, one))) == {"result": [15.0, 26.0, 37.0] * 2}


@pytest.mark.parametrize(
    "sex",
    [
        SEXES,
        SEXES.cast(pa.large_string()),
        SEXES.dictionary_encode(),
        SEXES.cast(pa.large_string()).dictionary_encode(),
        pa.concat_arrays([SEXES, SEXES]).dictionary_encode()[3:],
    ],
)
def test_strings_come_plain_or_in_dictionaries(sex: Any) -> None:
    """Beside booleans and whole numbers."""
    batch = {"age": AGES, "sex": sex, "smokes": SMOKES}
    answer = ask(stream(batch, batch), signature=MIXED, predict=echo)
    assert (
        columns(answer)["result"]
        == ["('f', True, 1)", "('', False, 2)", "('m\u00e4', True, 3)"] * 2
    )


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.array([1.5], np.float32), pa.float64()),
        (np.array([1], np.uint8), pa.int64()),
        (np.array([True]), pa.bool_()),
        (np.array(["a"]), pa.string()),
        (np.array(["a"], object), pa.string()),
    ],
)
def test_the_result_has_the_type_of_the_predictions(values: Any, kind: Any) -> None:
    """float64, int64, bool or string."""

    async def constant(
        rows: Rows, wants_probabilities: bool, within_s: float | None = None
    ) -> Predictions:
        return Predictions(values)

    answer = ask(stream({"age": AGES[:1], "bmi": BMIS[:1]}), predict=constant)
    table = pa.ipc.open_stream(answer.content).read_all()
    assert table.schema.field("result").type == kind
    assert table.column("result").to_pylist() == values.tolist()


def test_probabilities_have_a_column_for_each_class() -> None:
    """Under its label."""
    answer = ask(stream({"age": AGES, "bmi": BMIS}), "?proba=true", classes=("yes", "no"))
    assert columns(answer) == {"yes": [0.5, 0.25, 1.0], "no": [0.5, 0.75, 0.0]}


PARTLY = {"age": pa.array([1, None, 3, 4]), "bmi": pa.array([0.5, 1.0, np.nan, -1.0])}
REASONS = [
    "field 'age': must be a whole number, got null",
    "field 'bmi': must be a number, got NaN",
]


def test_partial_answers_have_nulls_and_reasons() -> None:
    """For records that don't fit, and for those that the model has no answer for."""
    assert columns(ask(stream(PARTLY), "?partial=true")) == {
        "result": [10.5, None, None, None],
        "error": [None, *REASONS, "negative"],
    }
    answer = ask(stream(PARTLY), "?partial=true", accept=media.JSON).json()
    assert answer["result"] == [10.5, None, None, None]
    assert [error["index"] for error in answer["errors"]] == [1, 2, 3]


def test_partial_probabilities_have_nulls_and_reasons() -> None:
    """In every class."""
    answer = ask(stream(PARTLY), "?partial=true&proba=true", classes=("yes", "no"))
    assert columns(answer) == {
        "yes": [0.5, None, None, None],
        "no": [0.5, None, None, None],
        "error": [None, *REASONS, "negative"],
    }


@pytest.mark.parametrize("query", ["?partial=true", "?partial=true&proba=true"])
def test_no_record_may_fit(query: str) -> None:
    """Then no worker is asked."""
    none = {"age": pa.array([None, None], pa.int64()), "bmi": BMIS[:2]}
    found = columns(ask(stream(none), query, classes=("yes", "no")))
    assert found.pop("error") == [REASONS[0]] * 2
    assert all(values == [None, None] for values in found.values())


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({"age": pa.array([1, None, 3]), "bmi": BMIS}, "record 1, field 'age'"),
        ({"age": AGES, "bmi": pa.array([0, np.inf, 0])}, "record 1, field 'bmi'"),
        ({"age": AGES, "bmi": pa.array([0, 0, np.nan])}, "record 2, field 'bmi'"),
        ({"age": pa.array([1, 2, 2**60]), "bmi": BMIS}, "record 2, field 'age'"),
        ({"age": pa.array([1, 2, 2**63], pa.uint64()), "bmi": BMIS}, "record 2, field 'age'"),
        ({"age": AGES}, "'bmi': missing"),
        ({"age": AGES, "bmi": BMIS, "sex": SEXES}, "'sex': unknown"),
        ({"age": BMIS, "bmi": BMIS}, "column 'age': must be of Arrow type int8"),
        ({"age": AGES, "bmi": SMOKES}, "got bool"),
        ({"age": AGES, "bmi": SEXES}, "got string"),
        ({"age": AGES, "bmi": BMIS.cast(pa.float16())}, "got halffloat"),
        ({"age": AGES, "bmi": BMIS.dictionary_encode()}, "got dictionary"),
        ({"age": AGES, "bmi": pa.array([[1], [2], [3]])}, "got list"),
        ({"age": AGES, "bmi": pa.nulls(3)}, "got null"),
        ({"age": AGES[:0], "bmi": BMIS[:0]}, "no record"),
        (pa.record_batch([AGES, BMIS, BMIS], ["age", "bmi", "bmi"]), "twice"),
    ],
)
def test_records_that_do_not_fit_are_refused(batch: Any, said: str) -> None:
    """With index and field, or with the column, as a problem document in JSON."""
    answer = ask(stream(batch))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_records")
    assert said in answer.json()["detail"]


WHOLE = stream({"age": AGES, "bmi": BMIS})
DICTIONARY = {"age": AGES, "sex": SEXES.dictionary_encode(), "smokes": SMOKES}
ZEROS = {"age": pa.array(np.zeros(900, np.int64)), "bmi": pa.array(np.zeros(900))}


def with_metadata(body: bytes) -> bytes:
    """A stream whose batches have metadata of their own."""
    batch = pa.ipc.open_stream(body).read_next_batch()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch, custom_metadata={"ARROW:experimental_compression": "lz4"})
    content: bytes = sink.getvalue().to_pybytes()
    return content


def with_delta() -> bytes:
    """A stream that adds to a dictionary."""
    longer = pa.DictionaryArray.from_arrays(
        pa.array([0, 1, 3], pa.int32()), ["f", "", "m\u00e4", "x"]
    )
    return stream(DICTIONARY, {**DICTIONARY, "sex": longer}, emit_dictionary_deltas=True)


def as_file() -> bytes:
    """A file, which is no stream."""
    batch = pa.record_batch({"age": AGES, "bmi": BMIS})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    content: bytes = sink.getvalue().to_pybytes()
    return content


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b"{}", "not an Arrow stream"),
        (WHOLE[:100], "not an Arrow stream"),
        (WHOLE[:-20], "not an Arrow stream"),
        (WHOLE + b"\0", "after the end"),
        (WHOLE + WHOLE, "after the end"),
        (as_file(), "not an Arrow stream"),
        (stream(ZEROS, compression="lz4"), "compressed"),
        (stream(ZEROS, compression="zstd"), "compressed"),
        (with_metadata(WHOLE), "metadata"),
    ],
)
def test_what_is_no_plain_stream_is_refused(body: bytes, said: str) -> None:
    """400, and nothing is unpacked."""
    answer = ask(body)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_arrow")
    assert said in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (with_delta(), "several parts"),
        (stream(DICTIONARY, compression="zstd"), "compressed"),
    ],
)
def test_dictionaries_come_whole_and_plain(body: bytes, said: str) -> None:
    """400 for one that grows, or is compressed."""
    answer = ask(body, signature=MIXED, predict=echo)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_arrow")
    assert said in answer.json()["detail"]


def test_a_compressed_bomb_is_refused_before_it_is_unpacked() -> None:
    """A few kB that claim to be a TiB take no memory at all."""
    zeros = stream(ZEROS, compression="zstd", use_threads=False)
    claimed = struct.pack("<q", 900 * 8)
    assert zeros.count(claimed) >= 2
    bomb = zeros.replace(claimed, struct.pack("<q", 2**40))
    before = pa.total_allocated_bytes()
    assert ask(bomb).status_code == 400
    assert pa.total_allocated_bytes() <= before


def test_more_records_than_a_batch_may_have_are_refused() -> None:
    """As soon as their number is read."""
    answer = ask(stream(ZEROS, ZEROS))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert "1800 records" in answer.json()["detail"]


def test_a_stream_in_too_many_pieces_is_refused() -> None:
    """Each costs time of its own, empty ones too."""
    empty = pa.record_batch({"age": AGES[:0], "bmi": BMIS[:0]})
    assert ask(stream(*[empty] * 900, {"age": AGES, "bmi": BMIS})).status_code == 200
    answer = ask(stream(*[empty] * 1100))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_a_string_that_many_records_name_is_decoded_once() -> None:
    """A dictionary can't unpack to more than it holds."""
    long = pa.DictionaryArray.from_arrays(np.zeros(900, np.int32), ["x" * 10_000])
    ages, smokes = pa.array(np.zeros(900, np.int32)), pa.array(np.ones(900, np.bool_))
    body = stream({"age": ages, "sex": long, "smokes": smokes})
    rows = ArrowReader(RecordReader(MIXED, MOST_RECORDS)).read_many(body)
    assert len({id(value) for value in rows["sex"]}) == 1


def test_a_long_text_that_many_records_name_is_refused() -> None:
    """A body of 20 kB with 18 MB of text: each record would carry it to a worker."""
    long = pa.DictionaryArray.from_arrays(np.zeros(900, np.int8), ["x" * 20_000])
    ages, smokes = pa.array(np.zeros(900, np.int32)), pa.array(np.ones(900, np.bool_))
    body = stream({"age": ages, "sex": long, "smokes": smokes})
    assert len(body) < 40_000
    for query in ("", "?partial=true"):
        answer = ask(body, query, signature=MIXED, predict=echo)
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
        assert "18000000 bytes of text" in answer.json()["detail"]


TEXTS = pa.array(["m\u00e4", None, "", "abc"])
"""6 bytes, 5 characters."""


@pytest.mark.parametrize(
    "column",
    [
        TEXTS,
        TEXTS.cast(pa.large_string()),
        TEXTS.dictionary_encode(),
        pa.DictionaryArray.from_arrays(pa.array([0, None, 1, 2], pa.uint8()), TEXTS.drop_null()),
        pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 3], pa.int16()), TEXTS),
    ],
)
def test_text_is_counted_as_utf_8_over_all_batches(column: Any) -> None:
    """Up to the limit it is read; nulls and empty texts hold none."""
    four = {"age": pa.array([1, 2, 3, 4]), "sex": column, "smokes": pa.array([True] * 4)}
    body = stream(four, four)
    fits = ArrowReader(RecordReader(MIXED, MOST_RECORDS, max_text_bytes=12))
    assert fits.read_fitting(body).rows["sex"].tolist() == ["m\u00e4", "", "abc"] * 2
    for read in (fits.read_fitting, fits.read_many):
        with pytest.raises(BodyTooLargeError, match=r"hold 18 bytes of text, at most 12"):
            read(stream(four, four, four))


def test_columns_whose_texts_lie_in_the_same_bytes_are_counted_each() -> None:
    """pyarrow reads such a stream, and each column is decoded by itself."""
    two = Signature((Column("a", "string"), Column("b", "string")))
    body = stream({"a": pa.array(["a" * 5000] * 2), "b": pa.array(["b" * 5000] * 2)})
    assert body.count(struct.pack("<qq", 10_032, 10_000)) == 1
    shared = body.replace(struct.pack("<qq", 10_032, 10_000), struct.pack("<qq", 16, 10_000))
    rows = ArrowReader(RecordReader(two, MOST_RECORDS)).read_many(shared)
    assert rows["b"].tolist() == ["a" * 5000] * 2
    with pytest.raises(BodyTooLargeError, match="hold 20000 bytes"):
        ArrowReader(RecordReader(two, MOST_RECORDS, max_text_bytes=19_999)).read_many(shared)


def test_a_large_dictionary_for_many_batches_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be checked once for each."""
    monkeypatch.setattr(arrow_messages, "MAX_DICTIONARY_BYTES", 200)
    fine = ask(stream(*[DICTIONARY] * 3), signature=MIXED, predict=echo)
    assert fine.status_code == 200
    answer = ask(stream(*[DICTIONARY] * 30), signature=MIXED, predict=echo)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_numbers_are_not_copied_before_they_become_rows() -> None:
    """What pyarrow gives is a view of the body."""
    body = pa.py_buffer(WHOLE)
    values = pa.ipc.open_stream(body).read_next_batch().column(1).to_numpy()
    start = values.__array_interface__["data"][0]
    assert body.address <= start < body.address + body.size


READERS = {
    signature: ArrowReader(RecordReader(signature, MOST_RECORDS)) for signature in (TWO, MIXED)
}
NULLS = {"age": pa.array([1, None, 3]), "sex": pa.array(["x", None, "y"]), "smokes": SMOKES}
STREAMS = [
    (TWO, WHOLE),
    (TWO, stream(PARTLY, PARTLY)),
    (TWO, stream(ZEROS, compression="lz4")),
    (MIXED, stream(NULLS)),
    (MIXED, stream({**NULLS, "sex": NULLS["sex"].cast(pa.large_string())})),
    (MIXED, stream({**NULLS, "sex": NULLS["sex"].dictionary_encode()})),
    (MIXED, stream(DICTIONARY, DICTIONARY)),
    (MIXED, with_delta()),
]
ODD = st.sampled_from([0, 1, 2, 3, 7, 8, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1])
ODD_LONG = st.sampled_from([0, 1, -1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63)])


@st.composite
def mutations(draw: st.DrawFn) -> tuple[Signature, bytes]:
    """A valid stream with a few bytes, words, or pieces changed."""
    signature, valid = draw(st.sampled_from(STREAMS))
    body = bytearray(valid)
    for _ in range(draw(st.integers(1, 6))):
        if not body:
            break
        at = draw(st.integers(0, len(body) - 1))
        change = draw(st.sampled_from(["byte", "word", "long", "cut", "insert", "end"]))
        if change == "byte":
            body[at] = draw(st.integers(0, 255))
        elif change == "word":
            body[at & ~3 : (at & ~3) + 4] = struct.pack("<I", draw(ODD))
        elif change == "long":
            body[at & ~7 : (at & ~7) + 8] = struct.pack("<q", draw(ODD_LONG))
        elif change == "cut":
            del body[at : at + draw(st.integers(1, 16))]
        elif change == "insert":
            body[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif len(body) > at + 8:
            del body[at + 8 :]
    return signature, bytes(body)


@given(mutations())
@settings(max_examples=400, deadline=None)
def test_no_bytes_make_more_than_a_client_error(mutation: tuple[Signature, bytes]) -> None:
    """Rows, or 400, 413 or 422; never anything else, and never a crash."""
    signature, body = mutation
    reader = READERS[signature]
    for read in (reader.read_many, reader.read_fitting):
        try:
            read(body)
        except ServeError as error:
            assert error.status in (400, 413, 422)


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_bytes_that_are_no_stream_are_malformed(body: bytes) -> None:
    """Whatever they are."""
    with pytest.raises(MalformedArrowError):
        READERS[TWO].read_many(body)
