"""MLflow's scoring protocol, driven by Starlette's client over a fake model."""

import io
import json
from importlib import metadata
from typing import Any

import httpx2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from serve_app.errors import PROBLEM
from serve_app.http.body import Limits
from serve_app.http.routes import application
from serve_app.models.predictions import Predictions
from serve_app.models.served import ServedModel, ServedVersion
from serve_app.protocols import mlflow_csv
from serve_app.records import rows as row_blocks
from serve_app.records.reader import RecordReader
from serve_app.records.rows import Rows
from serve_app.records.signature import Column, Signature
from tests.services import service as service_of

VERSION = ServedVersion("diabetes", "7", "run1", "models:/diabetes/7", "ab" * 32)
ONE = Signature((Column("bmi", "double"),))
TWO = Signature((Column("bmi", "double"), Column("age", "long")))
MIXED = Signature((Column("smokes", "boolean"), Column("sex", "string"), Column("age", "integer")))
LIMIT = 1000
CSV = "text/csv"
JSON = "application/json"


async def weighted(
    rows: Rows, wants_probabilities: bool, within_s: float | None = None
) -> Predictions:
    """Each row's values, weighted by 1, 10, ...; errors for rows that begin with -1."""
    assert not wants_probabilities
    errors = dict.fromkeys(np.flatnonzero(rows[:, 0] == -1).tolist(), "negative")
    return Predictions(rows @ 10.0 ** np.arange(rows.shape[1]), errors)


async def echo(rows: Rows, wants_probabilities: bool, within_s: float | None = None) -> Predictions:
    """Each row as text."""
    return Predictions(np.array([str(row) for row in rows.tolist()]))


async def all_well() -> None:
    """A worker that answers."""


def example_of(signature: Signature) -> Rows:
    """Zeros and empty strings."""
    example = row_blocks.empty(signature, 1)
    for at, column in enumerate(signature.columns):
        row_blocks.column(example, at)[:] = "" if column.type == "string" else 0
    return example


def client(signature: Signature = TWO, predict: Any = weighted) -> TestClient:
    """A client of the routes over a fake model."""
    service = service_of(
        model=ServedModel(VERSION, signature, example_of(signature), None),
        predict=predict,
        check=all_well,
        limits=Limits(max_body_bytes=LIMIT, body_timeout_s=5.0),
        max_batch_records=10,
    )
    return TestClient(application(service), raise_server_exceptions=False)


def ask(
    body: Any, signature: Signature = TWO, content_type: str = JSON, predict: Any = weighted
) -> httpx2.Response:
    """The answer to a body; what isn't text or bytes is sent as JSON."""
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    headers = {"content-type": content_type}
    return client(signature, predict).post("/invocations", content=content, headers=headers)


SPLIT = {"columns": ["age", "bmi"], "data": [[3, 0.5], [4, 1]], "index": [7, "x"]}
RECORDS = [{"age": 3, "bmi": 0.5}, {"bmi": 1, "age": 4}]
COLUMNS = {"age": [3, 4], "bmi": [0.5, 1]}


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ({"dataframe_split": SPLIT}, JSON),
        ({"dataframe_split": {"columns": ["bmi", "age"], "data": [[0.5, 3], [1, 4]]}}, JSON),
        ({"dataframe_records": RECORDS}, JSON),
        ({"dataframe_records": RECORDS, "params": {}}, JSON),
        ({"dataframe_records": RECORDS, "params": None}, f"{JSON}; charset=utf-8"),
        ({"instances": RECORDS}, JSON),
        ({"instances": COLUMNS}, JSON),
        ({"inputs": COLUMNS}, JSON),
        ({"inputs": RECORDS}, JSON),
        ({"inputs": [[0.5, 3], [1, 4]]}, JSON),
        ("age,bmi\n3,0.5\n4,1\n", CSV),
        ('"bmi","age"\r\n5e-1,3\r\n\r\n1,"4"', f"{CSV}; charset=UTF-8"),
        ("\ufeffage,bmi\r\n3,0.5\r\n4,1\r\n", CSV),  # as Excel writes it
        ('\ufeff"age","bmi"\n3,0.5\n4,1', CSV),
    ],
)
def test_every_format_asks_the_same(body: Any, content_type: str) -> None:
    """Columns by name and in any order, records in theirs."""
    answer = ask(body, TWO, content_type)
    assert answer.status_code == 200, answer.text
    assert answer.content == b'{"predictions":[30.5,41.0]}'
    assert answer.headers["content-type"] == JSON
    assert answer.headers["x-model-version"] == "7"


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [1, 2.5]},
        {"inputs": [1, 2.5]},
        {"inputs": [[1], [2.5]]},
        {"inputs": {"bmi": [1, 2.5]}},
        {"dataframe_split": {"columns": ["bmi"], "data": [1, [2.5]]}},
    ],
)
def test_a_model_of_one_column_takes_plain_values(body: Any) -> None:
    """As MLflow does."""
    assert ask(body, ONE).json() == {"predictions": [1.0, 2.5]}


def test_an_object_of_plain_values_is_one_record() -> None:
    """So MLflow reads it."""
    assert ask({"inputs": {"bmi": 0.5, "age": 3}}).json() == {"predictions": [30.5]}


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ({"inputs": {"smokes": [True], "sex": ["f, x"], "age": [3]}}, JSON),
        ({"instances": [{"smokes": True, "sex": "f, x", "age": 3}]}, JSON),
        ('sex,age,smokes\n"f, x",3,TRUE', CSV),
    ],
)
def test_columns_may_hold_strings_and_truth_values(body: Any, content_type: str) -> None:
    """By the signature, not by what they look like."""
    answer = ask(body, MIXED, content_type, echo)
    assert answer.json() == {"predictions": ["(True, 'f, x', 3)"]}


def test_values_of_a_float_column_are_rounded_as_mlflow_rounds_them() -> None:
    """To 32 bits; the others are not."""
    signature = Signature((Column("bmi", "float"), Column("age", "double")))
    answer = ask({"inputs": {"bmi": [0.1], "age": [0.1]}}, signature, JSON)
    assert answer.json() == {"predictions": [float(np.float32(0.1)) + 1]}


def test_a_float32_is_written_with_all_its_digits() -> None:
    """As MLflow writes it, and not as the shortest text that a 32-bit float is read from."""

    async def single(
        rows: Rows, wants_probabilities: bool, within_s: float | None = None
    ) -> Predictions:
        return Predictions(rows[:, 0].astype(np.float32))

    answer = ask({"inputs": [0.1]}, ONE, JSON, single)
    assert answer.content == b'{"predictions":[0.10000000149011612]}'


def split(columns: Any = ("bmi", "age"), data: Any = ((1, 2),), **others: Any) -> Any:
    """A body with a split frame."""
    return {"dataframe_split": {"columns": columns, "data": data, **others}}


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code", "said"),
    [
        ("", JSON, 400, "malformed_json", "empty"),
        ('{"inputs": [1, 2}', JSON, 400, "malformed_json", ""),
        ('{"inputs": [[NaN, 2]]}', JSON, 400, "malformed_json", ""),
        ('{"inputs": [], "inputs": [[1, 2]]}', JSON, 400, "malformed_json", "'inputs'"),
        ('{"inputs": {"bmi": [1], "bmi": [2]}}', JSON, 400, "malformed_json", "'bmi'"),
        ({"inputs": [[1, 2]], "params": {"a": 1}}, JSON, 400, "invalid_parameter", "params"),
        ([[1, 2]], JSON, 422, "invalid_records", "a list"),
        ({}, JSON, 422, "invalid_records", "has 0 of the formats"),
        ({"inputs": [], "instances": []}, JSON, 422, "invalid_records", "has 2 of the formats"),
        ({"columns": [], "data": []}, JSON, 422, "invalid_records", "'columns'"),
        ({"inputs": 1}, JSON, 422, "invalid_records", "a number"),
        ({"inputs": []}, JSON, 422, "invalid_records", "no record"),
        ({"inputs": {}}, JSON, 422, "invalid_records", "missing field"),
        ({"inputs": {"bmi": [1], "age": 2}}, JSON, 422, "invalid_records", "'age'"),
        ({"inputs": {"bmi": [1], "age": [2, 3]}}, JSON, 422, "invalid_records", "lengths: 1, 2"),
        ({"inputs": {"bmi": [1], "x": [1]}}, JSON, 422, "invalid_records", "'x': unknown"),
        ({"inputs": {"bmi": [1, "2"], "age": [1, 1]}}, JSON, 422, "invalid_records", "record 1"),
        ({"dataframe_records": {"bmi": [1]}}, JSON, 422, "invalid_records", "a list"),
        ({"dataframe_records": [RECORDS[0], [1, 2]]}, JSON, 422, "invalid_records", "record 1"),
        ({"dataframe_records": [{"bmi": 1}]}, JSON, 422, "invalid_records", "field 'age': missing"),
        ({"dataframe_split": []}, JSON, 422, "invalid_records", "an object"),
        (split(others=1), JSON, 422, "invalid_records", "'others'"),
        (split(columns=None), JSON, 422, "invalid_records", "columns"),
        (split(columns=["bmi", 1]), JSON, 422, "invalid_records", "column 1"),
        (split(columns=["bmi", "age", "age"]), JSON, 422, "invalid_records", "twice"),
        (split(columns=["bmi", "sex"]), JSON, 422, "invalid_records", "'sex': unknown"),
        (split(columns=["bmi"]), JSON, 422, "invalid_records", "'age': missing"),
        (split(data={"bmi": 1}), JSON, 422, "invalid_records", "data"),
        (split(data=[[1, 2], [1]]), JSON, 422, "invalid_records", "record 1"),
        (
            split(columns=["age", "bmi"], data=[[1, 2], [1]]),
            JSON,
            422,
            "invalid_records",
            "list of",
        ),
        (split(index=[1, 2]), JSON, 422, "invalid_records", "index"),
        (split(data=[[1, None]]), JSON, 422, "invalid_records", "null"),
        (split(data=[[-1, 2]]), JSON, 422, "unpredictable_records", "negative"),
        (split(data=[[1, 2]] * 11), JSON, 413, "too_large", "11 records"),
        (b"1" * (LIMIT + 1), JSON, 413, "too_large", "bytes"),
        (split(), "text/plain", 415, "unsupported_media_type", "application/json or text/csv"),
        (split(), f"{JSON}; format=pandas-split", 415, "unsupported_media_type", "'format'"),
        (split(), f"{JSON}; charset=latin-1", 415, "unsupported_media_type", "utf-8"),
        ("", CSV, 400, "malformed_csv", "empty"),
        ("\n\n", CSV, 400, "malformed_csv", "empty"),
        ('\ufeff{"inputs": [[1, 2]]}', JSON, 400, "malformed_json", ""),
        ("\ufeff\ufeffbmi,age\n1,2", CSV, 422, "invalid_records", "unknown field"),
        (b"bmi,age\n\xff,2", CSV, 400, "malformed_csv", "UTF-8"),
        ("bmi,age\n1\0,2", CSV, 400, "malformed_csv", "null character"),
        ('bmi,age\n"1,2', CSV, 400, "malformed_csv", "end of data"),
        ('bmi,age\n"1"2,3', CSV, 400, "malformed_csv", "expected"),
        ("bmi,age\n", CSV, 422, "invalid_records", "no record"),
        ("bmi\n1", CSV, 422, "invalid_records", "'age': missing"),
        (",bmi,age\n0,1,2", CSV, 422, "invalid_records", "index=False"),
        ("bmi,age,age\n1,2,2", CSV, 422, "invalid_records", "twice"),
        ("bmi,age\n1,2\n1,2,3\n", CSV, 422, "invalid_records", "record 1: must have 2 values"),
        ("bmi,age\n1,2\n1\n", CSV, 422, "invalid_records", "record 1: must have 2 values"),
        ("bmi,age\n1,2\nx,2\n", CSV, 422, "invalid_records", "record 1, field 'bmi'"),
        ("bmi,age\n1,2\n1,2.0\n", CSV, 422, "invalid_records", "record 1, field 'age'"),
        ("bmi,age\n1_0,2\n", CSV, 422, "invalid_records", "got a string"),
        ("bmi,age\n\u0661,2\n", CSV, 422, "invalid_records", "got a string"),
        ("bmi,age\ninf,2\n", CSV, 422, "invalid_records", "got a string"),
        ("bmi,age\n1e309,2\n", CSV, 422, "invalid_records", "64-bit float"),
        (f"bmi,age\n1,{2**70}\n", CSV, 422, "invalid_records", "2**53"),
        (f"bmi,age\n1,2\n1,{'9' * 400}\n", CSV, 422, "invalid_records", "record 1, field 'age'"),
        ("bmi,age\nNA,2\n", CSV, 422, "invalid_records", "got null"),
        ("bmi,age\n,2\n", CSV, 422, "invalid_records", "got null"),
        ("bmi,age\n" + "1,2\n" * 11, CSV, 413, "too_large", "records"),
        ("bmi,age\n1" + "," * 30, CSV, 413, "too_large", "more than 22 values"),
        ('bmi,age\n1,"' + "," * 30 + '"', CSV, 422, "invalid_records", "got a string"),
    ],
)
def test_what_does_not_fit_is_refused(
    body: Any, content_type: str, status: int, code: str, said: str
) -> None:
    """A problem document that MLflow's clients can read, too."""
    answer = ask(body, TWO, content_type)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == PROBLEM
    assert said in problem["detail"]
    assert (problem["error_code"], problem["message"]) == ("BAD_REQUEST", problem["detail"])


def test_a_whole_number_of_many_digits_does_not_fit_beside_text() -> None:
    """Though no float holds it."""
    answer = ask(f"smokes,sex,age\ntrue,f,3\ntrue,f,{'9' * 400}", MIXED, CSV, echo)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_records")
    assert answer.json()["errors"] == [
        {"index": 1, "field": "age", "reason": "does not fit into 32 bits"}
    ]


@pytest.mark.parametrize("text", ["", "  ", "NA", "null", "None", "yes", "1"])
def test_what_pandas_would_take_for_missing_is_no_value(text: str) -> None:
    """Nor is what it would take for a truth value only with a word of its own."""
    answer = ask(f"smokes,sex,age\n{text},f,3", MIXED, CSV, echo)
    assert answer.json()["errors"][0]["field"] == "smokes"
    if text not in ("  ", "yes", "1"):
        answer = ask(f"smokes,sex,age\ntrue,{text},3", MIXED, CSV, echo)
        assert answer.json()["errors"][0]["field"] == "sex"


@pytest.mark.parametrize("text", [" ", "\t ", " NA", "x" * 131_073])
def test_text_of_a_column_is_what_pandas_reads(text: str) -> None:
    """Blanks and all, however long."""
    content = f"age,sex,smokes\n3,{text},true"
    assert pd.read_csv(io.StringIO(content))["sex"].tolist() == [text]
    columns = mlflow_csv.columns_of(content.encode(), RecordReader(MIXED, 10))
    assert columns == {"age": [3], "sex": [text], "smokes": [True]}


def test_blanks_are_no_record_where_pandas_leaves_the_line_out() -> None:
    """One column, of text: it is refused, and not a record more than MLflow counts."""
    city = Signature((Column("city", "string"),))
    assert pd.read_csv(io.StringIO("city\n  \nRome\n"))["city"].tolist() == ["Rome"]
    answer = ask("city\n  \nRome\n", city, CSV, echo)
    assert answer.json()["errors"] == [
        {"index": 0, "field": "city", "reason": "must be a string, got null"}
    ]


@given(
    st.lists(st.tuples(st.floats(-1e300, 1e300), st.integers(-(2**53) + 1, 2**53 - 1)), min_size=1)
)
@settings(deadline=None)
def test_csv_holds_what_pandas_wrote(records: list[tuple[float, int]]) -> None:
    """Every digit, however pandas writes it, and as pandas reads it."""
    frame = pd.DataFrame(records, columns=pd.Index(["bmi", "age"]))[:10]

    async def same(
        rows: Rows, wants_probabilities: bool, within_s: float | None = None
    ) -> Predictions:
        text = io.StringIO(frame.to_csv(index=False))
        expected = pd.read_csv(text, dtype={"bmi": float, "age": int})
        return Predictions((rows == expected.to_numpy(dtype=float)).all(axis=1))

    answer = ask(frame.to_csv(index=False), TWO, CSV, same)
    assert answer.json() == {"predictions": [True] * len(frame)}


def test_ping_and_version_answer_as_mlflow_does() -> None:
    """A line's end, and MLflow's own version."""
    ping, version = client().get("/ping"), client().get("/version")
    assert (ping.status_code, ping.content, ping.headers["content-type"]) == (200, b"\n", JSON)
    assert (version.status_code, version.text) == (200, metadata.version("mlflow"))
    assert version.headers["content-type"] == JSON
    assert client().get("/invocations").status_code == 405
