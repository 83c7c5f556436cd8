"""The columns of an Arrow answer have one type a model, whichever records have no result."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from serve_app.http.body import Limits
from serve_app.http.routes import application
from serve_app.models.model import Model
from serve_app.models.predictions import Predictions
from serve_app.models.served import ServedVersion, describe
from serve_app.protocols import media
from serve_app.records.rows import Rows
from serve_app.records.signature import Column, Signature
from tests.services import service

SIGNATURE = Signature((Column("x", "double"),))
VERSION = ServedVersion("any", "7", "run1", "models:/any/7", "ab" * 32)
GOOD, REFUSED, RAISING = 1.0, None, -1.0
BATCHES = [[GOOD], [GOOD, REFUSED, RAISING], [REFUSED], [RAISING], [REFUSED, RAISING]]


class Constant:
    """Answers the same for all, and raises for negative rows."""

    def __init__(self, answer: npt.NDArray[Any]) -> None:
        self.answer = answer

    def predict(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return it for each row."""
        if (rows < 0).any():
            raise ValueError("negative")
        return self.answer.repeat(len(rows))


class Classifier(Constant):
    """Has probabilities of a given type."""

    def __init__(self, dtype: str, labels: tuple[str, str] = ("no", "yes")) -> None:
        super().__init__(np.array(["no"]))
        self.classes_ = np.array(labels)
        self.dtype = dtype

    def predict_proba(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Be certain."""
        self.predict(rows)
        return np.array([[1, 0]] * len(rows), self.dtype)


def client(estimator: Any) -> TestClient:
    """A client of the routes over an estimator."""
    model = Model(estimator, SIGNATURE, np.zeros((1, 1)))

    async def predict(rows: Rows, wants: bool, within_s: float | None = None) -> Predictions:
        return model.probabilities(rows) if wants else model.predict(rows)

    limits = Limits(2**20, body_timeout_s=5.0)
    return TestClient(application(service(describe(VERSION, model), predict, limits=limits)))


def answered(estimator: Any, query: str, records: list[float | None]) -> Any:
    """The table that is answered."""
    headers = {"accept": media.ARROW}
    answer = client(estimator).post(f"/batch{query}", json={"X": records}, headers=headers)
    assert answer.status_code == 200
    return pa.ipc.open_stream(answer.content).read_all()


@pytest.mark.parametrize("records", BATCHES)
@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (np.array([1.5]), pa.float64()),
        (np.array([1.5], np.float32), pa.float64()),
        (np.array([1], np.int8), pa.int64()),
        (np.array([1], np.uint16), pa.int64()),
        (np.array([True]), pa.bool_()),
        (np.array(["yes"]), pa.string()),
        (np.array(["yes"], object), pa.string()),
    ],
)
def test_a_result_has_the_type_of_the_models_results(
    answer: npt.NDArray[Any], kind: Any, records: list[float | None]
) -> None:
    """Also where none of the records has one: answers for chunks can be put together."""
    table = answered(Constant(answer), "?partial=true", records)
    assert table.schema == pa.schema([("result", kind), ("error", pa.string())])
    expected = [answer.tolist()[0] if record == GOOD else None for record in records]
    assert table.column("result").to_pylist() == expected
    assert table.column("error").null_count == records.count(GOOD)


@pytest.mark.parametrize("records", BATCHES)
@pytest.mark.parametrize("dtype", ["float64", "float32", "int64"])
def test_probabilities_are_float64(dtype: str, records: list[float | None]) -> None:
    """Whatever the model gives, and if it gives nothing."""
    table = answered(Classifier(dtype), "?partial=true&proba=true", records)
    shares = [("no", pa.float64()), ("yes", pa.float64())]
    assert table.schema == pa.schema([*shares, ("error", pa.string())])
    expected = [1.0 if record == GOOD else None for record in records]
    assert table.column("no").to_pylist() == expected
    assert answered(Classifier(dtype), "?proba=true", [GOOD]).schema == pa.schema(shares)


def test_no_answer_has_two_columns_of_one_name() -> None:
    """A class named as the column of reasons is refused where both would stand."""
    asked = client(Classifier("float64", ("no", "error")))
    for query, accept, status in (
        ("?partial=true&proba=true", media.ARROW, 400),
        ("?partial=true&proba=true", media.JSON, 200),
        ("?partial=true", media.ARROW, 200),
        ("?proba=true", media.ARROW, 200),
    ):
        answer = asked.post(f"/batch{query}", json={"X": [GOOD]}, headers={"accept": accept})
        assert answer.status_code == status, query
        if status == 400:
            assert answer.json()["code"] == "invalid_parameter"
            assert "named error" in answer.json()["detail"]
