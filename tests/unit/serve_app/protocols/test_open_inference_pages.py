"""What v2 clients ask before they infer: health, metadata, and models that aren't here."""

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from serve_app.errors import PROBLEM, NotReadyError
from serve_app.http.body import Limits
from serve_app.http.routes import application
from serve_app.models.predictions import Predictions
from serve_app.models.served import ServedModel, ServedVersion
from serve_app.records.rows import Rows
from serve_app.records.signature import Column, Signature
from tests.services import service as service_of

MIXED = Signature(
    (
        Column("age", "long"),
        Column("rank", "integer"),
        Column("bmi", "double"),
        Column("bp", "float"),
        Column("smokes", "boolean"),
        Column("sex", "string"),
    )
)
MODEL_PATHS = ["/v2/models/a model", "/v2/models/a%20model/versions/7"]


async def ones(rows: Rows, wants_probabilities: bool, within_s: float | None = None) -> Predictions:
    """One for each row."""
    return Predictions(np.ones(len(rows)))


async def all_well() -> None:
    """A worker that answers."""


async def no_worker() -> None:
    """A worker that doesn't."""
    raise NotReadyError("no worker")


def client(check: Any = all_well, name: str = "a model", **facts: Any) -> TestClient:
    """A client of the routes."""
    version = ServedVersion(name, "7", None, "models:/a model/7", "ab" * 32)
    model = ServedModel(version, MIXED, np.zeros((1, 6)), **{"classes": None, **facts})
    limits = Limits(max_body_bytes=1000, body_timeout_s=5.0)
    app = application(service_of(model, ones, check=check, limits=limits))
    return TestClient(app, raise_server_exceptions=False)


def test_the_server_says_what_it_is() -> None:
    """Its version is the project's."""
    project = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text())["project"]
    assert client().get("/v2").json() == {
        "name": project["name"],
        "version": project["version"],
        "extensions": ["binary_tensor_data"],
    }


@pytest.mark.parametrize("path", MODEL_PATHS)
def test_the_model_says_what_it_takes_and_gives(path: str) -> None:
    """From its signature, its classes and what it predicts."""
    assert client(classes=("no", "yes"), result_type="O").get(path).json() == {
        "name": "a model",
        "versions": ["7"],
        "platform": "sklearn_skops",
        "inputs": [
            {"name": "age", "datatype": "INT64", "shape": [-1]},
            {"name": "rank", "datatype": "INT32", "shape": [-1]},
            {"name": "bmi", "datatype": "FP64", "shape": [-1]},
            {"name": "bp", "datatype": "FP32", "shape": [-1]},
            {"name": "smokes", "datatype": "BOOL", "shape": [-1]},
            {"name": "sex", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            {"name": "predict", "datatype": "BYTES", "shape": [-1]},
            {"name": "predict_proba", "datatype": "FP64", "shape": [-1, 2]},
        ],
    }


@pytest.mark.parametrize(
    ("kind", "datatype"), [("f", "FP64"), ("i", "INT64"), ("b", "BOOL"), ("U", "BYTES")]
)
def test_a_model_without_probabilities_has_one_output(kind: str, datatype: str) -> None:
    """Of the datatype that it predicts."""
    outputs = client(result_type=kind).get("/v2/models/a model").json()["outputs"]
    assert outputs == [{"name": "predict", "datatype": datatype, "shape": [-1]}]


def test_live_and_ready_say_so() -> None:
    """For the server and for the model; by HEAD without a body."""
    asked = client()
    assert asked.get("/v2/health/live").json() == {"live": True}
    assert asked.get("/v2/health/ready").json() == {"ready": True}
    for path in MODEL_PATHS:
        assert asked.get(f"{path}/ready").json() == {"name": "a model", "ready": True}
    head = asked.head("/v2/health/ready")
    assert (head.status_code, head.content) == (200, b"")


def test_not_ready_is_503_while_live_is_200() -> None:
    """With the error where v2 clients look for it."""
    asked = client(no_worker)
    assert asked.get("/v2/health/live").status_code == 200
    for path in ("/v2/health/ready", *(f"{path}/ready" for path in MODEL_PATHS)):
        answer = asked.get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert answer.json()["error"] == "no worker"
        assert answer.headers["retry-after"]


@pytest.mark.parametrize("path", ["/v2/models/other", "/v2/models/a model/versions/8"])
@pytest.mark.parametrize(("method", "end"), [("GET", ""), ("GET", "/ready"), ("POST", "/infer")])
def test_other_models_and_versions_are_not_found(path: str, method: str, end: str) -> None:
    """The error says what is served instead."""
    answer = client().request(method, path + end)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert answer.headers["content-type"] == PROBLEM
    assert "version '7' of 'a model' is served" in answer.json()["error"]


def test_other_methods_are_not_allowed() -> None:
    """405 says which are."""
    for path, method, allowed in (
        ("/v2/models/a model/infer", "GET", "POST"),
        ("/v2/models/a model", "POST", "GET"),
    ):
        answer = client().request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
        assert allowed in answer.headers["allow"]


def test_paths_of_extensions_that_are_not_offered_are_not_found() -> None:
    """With the error where v2 clients look for it; other routes have none of that."""
    problem = client().get("/v2/models/a model/config").json()
    assert (problem["code"], problem["error"]) == ("not_found", problem["detail"])
    assert "error" not in client().get("/other").json()


@pytest.mark.parametrize("name", ["a model", "a{b}", "\u00e4"])
def test_any_name_that_mlflow_takes_can_be_asked(name: str) -> None:
    """Paths carry it percent-encoded."""
    path = "/v2/models/" + "".join(f"%{byte:02x}" for byte in name.encode())
    assert client(name=name).get(path).json()["name"] == name
    answer = client(name=name).post(f"{path}/infer", json={})
    assert answer.json()["code"] == "malformed_tensors"
