"""A number of a 32-bit column is the same number to the model, whichever way it came."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from starlette.testclient import TestClient

from serve_app.http.body import Limits
from serve_app.http.routes import application
from serve_app.models.model import Model
from serve_app.models.predictions import Predictions
from serve_app.models.served import ServedVersion, describe
from serve_app.protocols import media
from serve_app.records import rows as row_blocks
from serve_app.records.rows import Rows
from serve_app.records.signature import Column, Signature
from tests.services import service

VERSION = ServedVersion("m", "7", "run1", "models:/m/7", "ab" * 32)
DOSES = np.array([0.1, 0.2], np.float32)
ENCODER = OneHotEncoder(handle_unknown="ignore")


def of_numbers() -> Model:
    """10 for 0.1, 20 for 0.2 and 15 for any other number."""
    estimator = make_pipeline(ENCODER, LinearRegression()).fit(DOSES.reshape(-1, 1), [10, 20])
    return Model(estimator, Signature((Column("dose", "float"),)), np.zeros((1, 1)))


def beside_text() -> Model:
    """The same, with a column that changes nothing."""
    frame = pd.DataFrame({"dose": DOSES, "city": ["Rome", "Rome"]})
    encoder = make_column_transformer((ENCODER, ["dose"]))
    signature = Signature((Column("dose", "float"), Column("city", "string")))
    estimator = make_pipeline(encoder, LinearRegression()).fit(frame, [10, 20])
    example = row_blocks.empty(signature, 1)
    example[0] = (0.1, "Rome")
    return Model(estimator, signature, example)


def client(model: Model) -> TestClient:
    """A client of the routes over a model."""

    async def predict(rows: Rows, wants: bool, within_s: float | None = None) -> Predictions:
        return model.predict(rows)

    limits = Limits(2**20, body_timeout_s=5.0)
    return TestClient(application(service(describe(VERSION, model), predict, limits=limits)))


def arrow(record: dict[str, Any]) -> bytes:
    """A stream with one record, numbers as float64."""
    table = pa.table({name: [value] for name, value in record.items()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


@pytest.mark.parametrize("model", [of_numbers(), beside_text()], ids=["numbers", "mixed"])
def test_a_record_has_one_answer_by_every_route(model: Model) -> None:
    """JSON, CSV, Arrow and tensors, all with 64-bit floats, as the model was fitted on 32 bits."""
    asked = client(model)
    record: dict[str, Any] = {"dose": 0.1, "city": "Rome"}
    record = {name: record[name] for name in model.signature.names}
    header, line = ",".join(record), ",".join(map(str, record.values()))
    tensors = [{"name": "dose", "datatype": "FP64", "shape": [1], "data": [0.1]}]
    if "city" in record:
        tensors.append({"name": "city", "datatype": "BYTES", "shape": [1], "data": ["Rome"]})

    def sent(path: str, content: str | bytes, media_type: str) -> Any:
        return asked.post(path, content=content, headers={"content-type": media_type}).json()

    answers = [
        asked.post("/stream", json={"X": record}).json()["result"],
        asked.post("/batch", json={"X": [record]}).json()["result"][0],
        sent("/batch", arrow(record), media.ARROW)["result"][0],
        asked.post("/invocations", json={"instances": [record]}).json()["predictions"][0],
        sent("/invocations", f"{header}\n{line}\n", media.CSV)["predictions"][0],
        asked.post("/v2/models/m/infer", json={"inputs": tensors}).json()["outputs"][0]["data"][0],
    ]
    assert answers == pytest.approx([10.0] * len(answers))
