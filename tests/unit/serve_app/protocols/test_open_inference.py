"""The Open Inference Protocol v2, driven by Starlette's client over a fake model."""

import json
import struct
from typing import Any

import httpx2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from serve_app.errors import PROBLEM
from serve_app.http.body import Limits
from serve_app.http.routes import application
from serve_app.models.predictions import Predictions
from serve_app.models.served import ServedModel, ServedVersion
from serve_app.records.rows import Rows
from serve_app.records.signature import Column, Signature
from tests.services import service as service_of

VERSION = ServedVersion("diabetes", "7", "run1", "models:/diabetes/7", "ab" * 32)
NUMBERS = Signature((Column("age", "long"), Column("bmi", "double")))
MIXED = Signature(
    (
        Column("age", "integer"),
        Column("bmi", "float"),
        Column("smokes", "boolean"),
        Column("sex", "string"),
    )
)
PATH = "/v2/models/diabetes/infer"
HEADER = "inference-header-content-length"
MOST_RECORDS = 50


async def echo(rows: Rows, wants_probabilities: bool, within_s: float | None = None) -> Predictions:
    """Each row as text, or the last column and its complement; errors for rows of -1."""
    if wants_probabilities:
        return Predictions(np.column_stack([rows[:, -1], 1 - rows[:, -1]]))
    records = rows.tolist()
    errors = {at: "negative" for at, record in enumerate(records) if record[0] == -1}
    return Predictions(np.array([str(list(record)) for record in records]), errors)


async def total(
    rows: Rows, wants_probabilities: bool, within_s: float | None = None
) -> Predictions:
    """The sum of each row."""
    return Predictions(rows.sum(axis=1))


async def all_well() -> None:
    """A worker that answers."""


def client(
    signature: Signature = NUMBERS,
    classes: tuple[str, ...] | None = None,
    predict: Any = echo,
    check: Any = all_well,
) -> TestClient:
    """A client of the routes over a fake model."""
    example = np.zeros((1, len(signature.columns)))
    app = application(
        service_of(
            model=ServedModel(VERSION, signature, example, classes, result_type="U"),
            predict=predict,
            check=check,
            limits=Limits(max_body_bytes=5000, body_timeout_s=5.0),
            max_batch_records=MOST_RECORDS,
        )
    )
    return TestClient(app, raise_server_exceptions=False)


def tensor(name: str, datatype: str, shape: list[int], data: Any) -> dict[str, Any]:
    """An input in JSON."""
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def matrix(*rows: list[Any], datatype: str = "FP64", name: str = "rows") -> dict[str, Any]:
    """All columns in one input."""
    return tensor(name, datatype, [len(rows), len(rows[0])], list(rows))


def ask(asked: TestClient, *inputs: dict[str, Any], **more: Any) -> httpx2.Response:
    """The answer to JSON inputs."""
    return asked.post(PATH, json={"inputs": list(inputs), **more})


def ask_binary(
    asked: TestClient, document: Any, content: bytes, headers: dict[str, str] | None = None
) -> httpx2.Response:
    """The answer to a document with bytes behind it, as tritonclient sends it: of no type."""
    text = json.dumps(document).encode()
    headers = {HEADER: str(len(text)), **(headers or {})}
    return asked.post(PATH, content=text + content, headers=headers)


def binary(name: str, datatype: str, shape: list[int], size: Any) -> dict[str, Any]:
    """An input in bytes."""
    parameters = {"binary_data_size": size}
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": parameters}


def refused(answer: httpx2.Response) -> tuple[int, str]:
    """Status and code of an error that both v2 clients and others can read."""
    assert answer.headers["content-type"] == PROBLEM
    problem = answer.json()
    assert problem["error"] == problem["detail"]
    return answer.status_code, problem["code"]


ROWS = ["[3.0, 0.5]", "[4.0, 0.25]"]


@pytest.mark.parametrize("path", [PATH, "/v2/models/diabetes/versions/7/infer"])
def test_one_tensor_holds_all_columns_of_numbers(path: str) -> None:
    """Under any name; id, model and version are in the answer."""
    document = {"id": "42", "inputs": [matrix([3, 0.5], [4, 0.25])]}
    answer = client().post(path, json=document)
    assert answer.status_code == 200
    assert answer.headers["x-model-version"] == "7"
    assert answer.json() == {
        "id": "42",
        "model_name": "diabetes",
        "model_version": "7",
        "outputs": [{"name": "predict", "datatype": "BYTES", "shape": [2], "data": ROWS}],
    }


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_each_column_may_be_a_tensor(shape: list[int]) -> None:
    """In any order, flat or as a column."""
    answer = ask(
        client(), tensor("bmi", "FP32", shape, [0.5, 0.25]), tensor("age", "INT8", shape, [3, 4])
    )
    assert answer.json()["outputs"][0]["data"] == ROWS


def test_mixed_columns_are_tensors_of_their_own() -> None:
    """Text, truth values and numbers reach the model as they are."""
    answer = ask(
        client(MIXED),
        tensor("age", "INT64", [1], [3]),
        tensor("bmi", "FP64", [1], [0.5]),
        tensor("smokes", "BOOL", [1], [True]),
        tensor("sex", "BYTES", [1], ["f\u00e9"]),
    )
    assert answer.json()["outputs"][0]["data"] == ["[3, 0.5, True, 'f\u00e9']"]


def test_tensors_may_be_bytes_behind_the_document() -> None:
    """In the order of the inputs, beside others in JSON."""
    inputs = [
        binary("smokes", "BOOL", [1], 1),
        tensor("age", "INT64", [1], [3]),
        binary("sex", "BYTES", [1], 6),
        binary("bmi", "FP32", [1], 4),
    ]
    content = b"\1" + struct.pack("<I2s", 2, b"ab") + struct.pack("<f", 0.5)
    answer = ask_binary(client(MIXED), {"inputs": inputs}, content)
    assert answer.json()["outputs"][0]["data"] == ["[3, 0.5, True, 'ab']"]


def test_outputs_are_bytes_if_asked_for_so() -> None:
    """As a whole or one by one; the header tells where the document ends."""
    asked = client(classes=("yes", "no"))
    outputs: list[dict[str, Any]] = [
        {"name": "predict_proba", "parameters": {"binary_data": True}},
        {"name": "predict", "parameters": {"binary_data": False}},
    ]
    for document in (
        {"outputs": outputs},
        {
            "outputs": [{"name": "predict_proba"}, outputs[1]],
            "parameters": {"binary_data_output": True},
        },
    ):
        answer = ask(asked, matrix([3, 0.5], [4, 0.25]), **document)
        assert answer.headers["content-type"] == "application/octet-stream"
        end = int(answer.headers[HEADER])
        probabilities, labels = json.loads(answer.content[:end])["outputs"]
        assert labels == {"name": "predict", "datatype": "BYTES", "shape": [2], "data": ROWS}
        assert probabilities == {
            "name": "predict_proba",
            "datatype": "FP64",
            "shape": [2, 2],
            "parameters": {"binary_data_size": 32},
        }
        assert np.frombuffer(answer.content[end:]).tolist() == [0.5, 0.5, 0.25, 0.75]


def test_a_client_that_accepts_bytes_only_gets_them() -> None:
    """The `accept` header decides where the request says nothing."""
    answer = client(predict=total).post(
        PATH, json={"inputs": [matrix([3, 0.5])]}, headers={"accept": "application/octet-stream"}
    )
    end = int(answer.headers[HEADER])
    assert np.frombuffer(answer.content[end:]).tolist() == [3.5]
    assert client().post(PATH, json={}, headers={"accept": "text/csv"}).status_code == 406


def test_whole_numbers_may_come_as_floats_in_a_matrix_only() -> None:
    """A matrix has one datatype for all; a column has its own."""
    assert ask(client(), matrix([3.0, 0.5])).status_code == 200
    answer = ask(client(), matrix([3, 0.5], [3.5, 0.5]))
    assert refused(answer) == (422, "invalid_records")
    assert answer.json()["errors"] == [
        {"index": 1, "field": "age", "reason": "must be a whole number, got 3.5"}
    ]
    column = ask(client(), tensor("age", "FP64", [1], [3.0]), tensor("bmi", "FP64", [1], [0.5]))
    assert refused(column) == (422, "invalid_records")
    assert "is INT64, got FP64" in column.json()["detail"]


GOOD = matrix([3, 0.5])
AGE, BMI = tensor("age", "INT64", [1], [3]), tensor("bmi", "FP64", [1], [0.5])


@pytest.mark.parametrize(
    ("document", "status", "code"),
    [
        ([], 400, "malformed_tensors"),
        ({}, 400, "malformed_tensors"),
        ({"inputs": []}, 400, "malformed_tensors"),
        ({"inputs": {}}, 400, "malformed_tensors"),
        ({"inputs": [1]}, 400, "malformed_tensors"),
        ({"inputs": [{**GOOD, "name": None}]}, 400, "malformed_tensors"),
        ({"inputs": [{**GOOD, "dtype": "FP64"}]}, 400, "malformed_tensors"),
        ({"inputs": [GOOD], "output": []}, 400, "malformed_tensors"),
        ({"inputs": [GOOD], "id": 1}, 400, "malformed_tensors"),
        ({"inputs": [GOOD], "parameters": []}, 400, "malformed_tensors"),
        ({"inputs": [GOOD], "parameters": {"binary_data_output": 1}}, 400, "malformed_tensors"),
        ({"inputs": [GOOD], "outputs": {}}, 400, "malformed_tensors"),
        ({"inputs": [GOOD], "outputs": [{"name": "predict"}] * 2}, 400, "malformed_tensors"),
        (
            {
                "inputs": [GOOD],
                "outputs": [{"name": "predict", "parameters": {"classification": 1}}],
            },
            400,
            "malformed_tensors",
        ),
        ({"inputs": [{**GOOD, "datatype": "FP8"}]}, 400, "malformed_tensors"),
        ({"inputs": [{**GOOD, "datatype": []}]}, 400, "malformed_tensors"),
        ({"inputs": [{**GOOD, "shape": []}]}, 400, "malformed_tensors"),
        ({"inputs": [{**GOOD, "shape": [-1, 2]}]}, 400, "malformed_tensors"),
        ({"inputs": [{**GOOD, "shape": [True, 2]}]}, 400, "malformed_tensors"),
        ({"inputs": [{**GOOD, "shape": [2**64, 2]}]}, 400, "malformed_tensors"),
        ({"inputs": [{**GOOD, "shape": [2, 2]}]}, 400, "malformed_tensors"),
        ({"inputs": [{**GOOD, "data": None}]}, 400, "malformed_tensors"),
        (
            {"inputs": [{**GOOD, "parameters": {"shared_memory_region": "a"}}]},
            400,
            "malformed_tensors",
        ),
        ({"inputs": [{**GOOD, "parameters": {"binary_data_size": 0}}]}, 400, "malformed_tensors"),
        ({"inputs": [AGE, BMI, AGE]}, 400, "malformed_tensors"),
        ({"inputs": [GOOD], "outputs": [{"name": "transform"}]}, 422, "unknown_output"),
        ({"inputs": [GOOD], "outputs": [{"name": "predict_proba"}]}, 422, "unknown_output"),
        ({"inputs": [AGE]}, 422, "invalid_records"),
        ({"inputs": [AGE, BMI, GOOD]}, 422, "invalid_records"),
        ({"inputs": [AGE, tensor("bmi", "FP64", [2], [0.5, 1])]}, 422, "invalid_records"),
        ({"inputs": [AGE, tensor("bmi", "FP64", [1, 1, 1], [0.5])]}, 422, "invalid_records"),
        ({"inputs": [AGE, tensor("bmi", "FP64", [1, 2], [0.5, 1])]}, 422, "invalid_records"),
        ({"inputs": [AGE, tensor("bmi", "BOOL", [1], [True])]}, 422, "invalid_records"),
        ({"inputs": [AGE, tensor("bmi", "FP64", [1], ["0.5"])]}, 422, "invalid_records"),
        ({"inputs": [matrix([3, 0.5, 1])]}, 422, "invalid_records"),
        ({"inputs": [tensor("rows", "FP64", [2], [3, 0.5])]}, 422, "invalid_records"),
        ({"inputs": [matrix(["a", "b"], datatype="BYTES")]}, 422, "invalid_records"),
        ({"inputs": [matrix([True, True], datatype="BOOL")]}, 422, "invalid_records"),
        ({"inputs": [matrix([2**53 + 1, 1], datatype="INT64")]}, 422, "invalid_records"),
        ({"inputs": [tensor("rows", "FP64", [0, 2], [])]}, 422, "invalid_records"),
        ({"inputs": [matrix([-1, 1])]}, 422, "unpredictable_records"),
        ({"inputs": [matrix(*[[1, 1]] * (MOST_RECORDS + 1))]}, 413, "too_large"),
        ({"inputs": [matrix(*[[1, 1]] * 1000)]}, 413, "too_large"),
        ({"inputs": [{**GOOD, "shape": [2**62, 2]}]}, 413, "too_large"),
        ({"inputs": [tensor("age", "INT64", [2**62], []), BMI]}, 413, "too_large"),
    ],
)
def test_what_cannot_be_inferred_is_refused(document: Any, status: int, code: str) -> None:
    """400 for what is no inference request, 422 for what the model doesn't take."""
    assert refused(client().post(PATH, json=document)) == (status, code)


@pytest.mark.parametrize("name", ["age", "unknown"])
def test_a_long_shape_is_not_repeated(name: str) -> None:
    """Not beyond its first hundred characters."""
    inputs = [tensor(name, "INT64", [1] * 1000, [3])]
    inputs += [BMI] if name == "age" else []
    answer = client().post(PATH, json={"inputs": inputs})
    assert refused(answer) == (422, "invalid_records")
    assert "[1, 1, 1" in answer.json()["detail"]
    assert len(answer.json()["detail"]) < 400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"inputs": [{"name": "rows", "datatype": "FP64", "shape": [1, 2], "data": [1, NaN]}]}',
        b'{"inputs": [], "inputs": []}',
        b"\xff",
        json.dumps({"inputs": [GOOD]}).encode() + b"\0",
    ],
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    """Duplicate keys and NaN included."""
    answer = client().post(PATH, content=body, headers={"content-type": "application/json"})
    assert refused(answer) == (400, "malformed_json")


def test_text_that_escapes_quotes_is_no_duplicate_key() -> None:
    """What looks for duplicates counts quotes first."""
    age, bmi, smokes = (
        tensor("age", "INT8", [1], [1]),
        tensor("bmi", "FP64", [1], [1]),
        tensor("smokes", "BOOL", [1], [True]),
    )
    answer = ask(client(MIXED), age, bmi, smokes, tensor("sex", "BYTES", [1], ['"']))
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("size", "shape", "content"),
    [
        (16, [1, 2], b"\0" * 15),
        (16, [1, 2], b"\0" * 17),
        (8, [1, 2], b"\0" * 8),
        (2**62, [2**59, 2], b"\0" * 16),
        (-1, [1, 2], b"\0" * 16),
        (True, [1, 2], b"\0" * 16),
        ("16", [1, 2], b"\0" * 16),
        (None, [1, 2], b"\0" * 16),
    ],
)
def test_binary_sizes_that_are_not_the_bodys_are_refused(
    size: Any, shape: list[int], content: bytes
) -> None:
    """Neither beyond it nor less than it."""
    document = {"inputs": [binary("rows", "FP64", shape, size)]}
    assert refused(ask_binary(client(), document, content)) == (400, "malformed_tensors")


@pytest.mark.parametrize("length", ["", "0", "-1", "1e2", "9" * 30, "100000", "\u00b2"])
def test_a_header_that_cannot_be_is_refused(length: str) -> None:
    """It must be within the body."""
    document = {"inputs": [binary("rows", "FP64", [1, 2], 16)]}
    headers = {HEADER: length.encode("latin-1")}
    answer = ask_binary(client(), document, b"\0" * 16, headers)  # type: ignore[arg-type]
    assert refused(answer) == (400, "malformed_header")


def test_numbers_in_bytes_must_be_finite() -> None:
    """With the record's index."""
    document = {"inputs": [binary("rows", "FP64", [2, 2], 32)]}
    answer = ask_binary(client(), document, struct.pack("<4d", 1, 2, 3, np.nan))
    assert refused(answer) == (422, "invalid_records")
    assert answer.json()["errors"][0]["index"] == 1


ASKED = client()


@given(st.binary(max_size=200), st.integers(0, 250), st.booleans())
def test_no_body_fails_the_service(content: bytes, end: int, is_document: bool) -> None:
    """Whatever the header says of it."""
    if is_document:
        content = json.dumps({"inputs": [binary("rows", "FP64", [1, 2], 16)]}).encode() + content
    answer = ASKED.post(PATH, content=content, headers={HEADER: str(end)})
    assert answer.status_code in (200, 400, 422)


def test_other_types_of_body_are_refused() -> None:
    """And compressed ones."""
    asked = client()
    for headers in ({"content-type": "text/csv"}, {"content-encoding": "gzip"}):
        answer = asked.post(PATH, json={"inputs": [GOOD]}, headers=headers)
        assert refused(answer) == (415, "unsupported_media_type")
