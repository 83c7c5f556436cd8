"""Requests in every format hold the model's records, and answers are judged right or wrong."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from benchmarks import asks
from benchmarks.asks import Ask, Floats

ROWS: Floats = np.array([[0.25, 1.5], [-0.5, 2.0], [0.125, 3.0]])
COLUMNS = ("bmi", "bp")
EXPECTED: Floats = np.array([10.0, 20.0, 30.0])


def arrow_answer(values: Floats) -> bytes:
    """What a server would send."""
    table = pa.table({"result": values})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    answer: bytes = sink.getvalue().to_pybytes()
    return answer


def v2_answer(values: Floats) -> bytes:
    """All in JSON."""
    output = {"name": "y", "shape": [3, 1], "datatype": "FP64", "data": values.tolist()}
    return json.dumps({"outputs": [output]}).encode()


CASES: list[tuple[Ask, Callable[[Floats], bytes]]] = [
    (
        asks.original_many("/batch", ROWS, EXPECTED),
        lambda values: json.dumps({"result": values.tolist()}).encode(),
    ),
    (
        asks.original_named("/batch", ROWS, COLUMNS, EXPECTED),
        lambda values: json.dumps({"result": values.tolist()}).encode(),
    ),
    (
        asks.mlflow_split("/invocations", ROWS, COLUMNS, EXPECTED),
        lambda values: json.dumps({"predictions": values.tolist()}).encode(),
    ),
    (asks.v2_json("/infer", {"X": ROWS}, EXPECTED), v2_answer),
    (asks.arrow("/batch", ROWS, COLUMNS, EXPECTED), arrow_answer),
]


@pytest.mark.parametrize(("ask", "answer"), CASES)
def test_a_right_answer_is_told_from_a_wrong_one(
    ask: Ask, answer: Callable[[Floats], bytes]
) -> None:
    """By status, number of results and values."""
    assert ask.rows == 3
    assert ask.fault(200, answer(EXPECTED), {}) is None
    assert "503" in (ask.fault(503, answer(EXPECTED), {}) or "")
    assert "wrong" in (ask.fault(200, answer(EXPECTED + 1e-6), {}) or "")
    assert "wrong" in (ask.fault(200, answer(EXPECTED[:2]), {}) or "")
    assert "can't be read" in (ask.fault(200, b"no", {}) or "")


def test_one_record_of_one_column_is_sent_as_a_number() -> None:
    one = asks.original_one("/stream", np.array([0.25]), np.array([1.0]))
    assert json.loads(one.body) == {"X": 0.25}
    assert one.fault(200, b'{"result": 1.0}', {}) is None


def test_named_columns_are_objects() -> None:
    ask = asks.original_named("/batch", ROWS, COLUMNS, EXPECTED)
    assert json.loads(ask.body)["X"][1] == {"bmi": -0.5, "bp": 2.0}


def test_binary_tensors_follow_their_json_head() -> None:
    """As the protocol's binary extension has it, both ways."""
    ask = asks.v2_binary("/infer", {"X": ROWS}, EXPECTED)
    length = int(ask.headers[asks.V2_LENGTH])
    head = json.loads(ask.body[:length])
    assert head["inputs"][0]["shape"] == [3, 2]
    assert head["inputs"][0]["parameters"] == {"binary_data_size": 48}
    np.testing.assert_array_equal(np.frombuffer(ask.body[length:]).reshape(3, 2), ROWS)
    answer = json.dumps({"outputs": [{"name": "y", "datatype": "FP64"}]}).encode()
    headers = {asks.V2_LENGTH: str(len(answer))}
    assert ask.fault(200, answer + EXPECTED.tobytes(), headers) is None


def test_an_arrow_stream_holds_the_columns_by_name() -> None:
    ask = asks.arrow("/batch", ROWS, COLUMNS, EXPECTED)
    with pa.ipc.open_stream(ask.body) as reader:
        table = reader.read_all()
    assert table.column_names == list(COLUMNS)
    np.testing.assert_array_equal(table.column("bp").to_numpy(), ROWS[:, 1])
