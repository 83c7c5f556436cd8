"""The HTTP contract, driven by Starlette's client over a fake model."""

import asyncio
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from starlette.types import Message

from serve_app.errors import PROBLEM, NotReadyError
from serve_app.http.routes import application
from serve_app.models.predictions import Predictions
from serve_app.models.served import ServedModel, ServedVersion
from serve_app.records.rows import Rows
from serve_app.records.signature import Column, Signature
from tests.services import service as service_of

VERSION = ServedVersion("diabetes", "7", "run1", "models:/diabetes/7", "ab" * 32, {"r2": 0.47})
LIMIT = 1000


async def double(
    rows: Rows, wants_probabilities: bool, within_s: float | None = None
) -> Predictions:
    """Twice each row, or the share of it; errors for negative rows."""
    errors = dict.fromkeys(np.flatnonzero(rows[:, 0] < 0).tolist(), "negative")
    if wants_probabilities:
        return Predictions(np.column_stack([rows[:, 0], 1 - rows[:, 0]]), errors)
    return Predictions(rows[:, 0] * 2, errors)


async def all_well() -> None:
    """A worker that answers."""


def client(classes: tuple[str, ...] | None = None, **changes: Any) -> TestClient:
    """A client of the routes over the fake model."""
    signature = Signature((Column("bmi", "double"),))
    model = ServedModel(VERSION, signature, np.zeros((1, 1)), classes)
    app = application(service_of(**{"model": model, "predict": double, **changes}))
    return TestClient(app, raise_server_exceptions=False)


def test_stream_answers_one_record() -> None:
    """The body is exactly `result`; the version is in a header."""
    answer = client().post("/stream", json={"X": 0.2})
    assert answer.status_code == 200
    assert answer.content == b'{"result":0.4}'
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-model-version"] == "7"
    assert answer.headers["x-model-role"] == "champion"


def test_batch_answers_in_order() -> None:
    """One result a record."""
    answer = client().post("/batch", json={"X": [0.2, 0.5, 0.1]})
    assert answer.json() == {"result": [0.4, 1.0, 0.2]}


def test_probabilities_come_by_label_when_asked_for() -> None:
    """`proba=true` is for classifiers; others say so."""
    url = "/stream?proba=true"
    answer = client(classes=("yes", "no")).post(url, json={"X": 0.25})
    assert answer.json() == {"result": {"yes": 0.25, "no": 0.75}}
    refused = client().post(url, json={"X": 0.25})
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_parameter")
    assert client().post("/stream?proba=maybe", json={"X": 1}).status_code == 400


@pytest.mark.parametrize("route", ["/health", "/health/live", "/health/ready"])
def test_health_says_ok(route: str) -> None:
    """As the original service did."""
    answer = client().get(route)
    assert (answer.status_code, answer.text) == (200, "Ok")


def test_not_ready_is_503_while_live_is_200() -> None:
    """Readiness needs a worker, liveness does not."""

    async def no_worker() -> None:
        raise NotReadyError("no worker")

    unready = client(check=no_worker)
    assert unready.get("/health/ready").status_code == 503
    assert unready.get("/health/live").status_code == 200


def test_model_describes_what_is_served() -> None:
    """Name, versions with their weights, run, digest, signature, example and metrics."""
    facts = client().get("/model").json()
    (version,) = facts["versions"]
    assert version == {
        "version": "7",
        "role": "champion",
        "weight": 1.0,
        "run_id": "run1",
        "digest": facts["digest"],
    }
    assert facts["signature"] == [{"name": "bmi", "type": "double"}]
    assert facts["example"] == {"bmi": 0.0}
    assert (facts["name"], facts["run_id"], facts["metrics"]) == ("diabetes", "run1", {"r2": 0.47})


@pytest.mark.parametrize(
    ("method", "path", "content", "headers", "status", "code"),
    [
        ("POST", "/stream", b"", {}, 400, "malformed_json"),
        ("POST", "/stream", b"{", {}, 400, "malformed_json"),
        ("POST", "/stream", b'{"X": "a"}', {}, 422, "invalid_records"),
        ("POST", "/batch", b'{"X": []}', {}, 422, "invalid_records"),
        ("POST", "/stream", b'{"X": -1}', {}, 422, "unpredictable_records"),
        ("POST", "/batch", b'{"X": [1, -1]}', {}, 422, "unpredictable_records"),
        ("POST", "/stream", b"1" * (LIMIT + 1), {}, 413, "too_large"),
        ("POST", "/stream", b"{}", {"content-type": "text/csv"}, 415, "unsupported_media_type"),
        ("POST", "/stream", b"{}", {"content-encoding": "gzip"}, 415, "unsupported_media_type"),
        (
            "POST",
            "/stream",
            b"{}",
            {"content-type": "application/json; charset=latin-1"},
            415,
            "unsupported_media_type",
        ),
        ("GET", "/stream", b"", {}, 405, "method_not_allowed"),
        ("POST", "/stream", b"{}", {"accept": "text/html"}, 406, "not_acceptable"),
        ("POST", "/stream?proba=1", b'{"X": 1}', {}, 400, "invalid_parameter"),
        ("DELETE", "/model", b"", {}, 405, "method_not_allowed"),
        ("GET", "/nothing", b"", {}, 404, "not_found"),
        ("POST", "/stream/", b'{"X": 1}', {}, 404, "not_found"),
        ("POST", "/nothing", b'{"X": 1}', {"host": "["}, 404, "not_found"),
        ("GET", "/stream", b"", {"host": "["}, 405, "method_not_allowed"),
        ("POST", "/v2/models/diabetes/versions/8/infer", b"", {"host": "["}, 404, "not_found"),
    ],
)
def test_every_client_error_is_a_problem_document(
    method: str, path: str, content: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    """Status, stable code, and a detail; never a stack trace."""
    headers = {"content-type": "application/json", **headers}
    answer = client().request(method, path, content=content, headers=headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == PROBLEM
    problem = answer.json()
    assert problem["code"] == code
    assert problem["status"] == status
    assert problem["detail"]
    assert "Traceback" not in answer.text


def test_what_a_client_sent_is_repeated_in_part_only() -> None:
    """100 characters at most."""
    long = "x" * 900
    answers = [
        client().post("/stream", content=b"{}", headers={"content-type": long}),
        client().post("/stream", json={long: 1}),
        client().post("/stream", json={"X": {long: 1}}),
        client().post(f"/stream?proba={long}", json={"X": 1}),
        client().get(f"/{long}"),
    ]
    assert [answer.status_code for answer in answers] == [415, 422, 422, 400, 404]
    for answer in answers:
        assert len(answer.content) < 600


@pytest.mark.parametrize(("path", "status"), [("/nothing", 404), ("/health", 405)])
def test_odd_bytes_in_a_query_do_no_harm_to_an_error(path: str, status: int) -> None:
    """They aren't looked at."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"\xff",
        "headers": [(b"host", b"x")],
    }
    app: Any = client().app
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == status


def test_a_route_says_which_methods_it_takes() -> None:
    """RFC 9110 wants `allow` with a 405."""
    assert client().get("/stream").headers["allow"] == "POST"


def test_partial_answers_what_can_be_answered() -> None:
    """Through all layers: a record that doesn't fit, and one that the model has no answer for."""
    answer = client().post("/batch?partial=true", json={"X": [1, "a", -1]})
    assert answer.status_code == 200
    assert answer.json()["result"] == [2.0, None, None]
    assert [one["index"] for one in answer.json()["errors"]] == [1, 2]


@pytest.mark.parametrize("path", ["/stream", "/batch"])
def test_a_prediction_passes_by_the_router(path: str) -> None:
    """`Front` answers it without Starlette's steps, as the router would."""
    app: Any = client().app
    scope = {"type": "http", "method": "POST", "path": path}
    assert app.endpoint(scope) is not None
    assert app.endpoint({**scope, "method": "GET"}) is None
    assert app.endpoint({**scope, "path": f"{path}/"}) is None
    assert app.endpoint({"type": "lifespan"}) is None


TENSOR = {"name": "bmi", "datatype": "FP64", "shape": [1], "data": [0.2]}


@pytest.mark.parametrize("path", ["/v2/models/diabetes", "/v2/models/diabetes/versions/7"])
def test_behind_a_prefix_every_protocol_predicts(path: str) -> None:
    """Serve says what it is, and leaves it in the path."""
    behind = TestClient(client().app, root_path="/m")
    assert behind.post("/m/stream", json={"X": 0.2}).json() == {"result": 0.4}
    answer = behind.post("/m/invocations", json={"inputs": {"bmi": [0.2]}})
    assert answer.json() == {"predictions": [0.4]}
    answer = behind.post(f"/m{path}/infer", json={"inputs": [TENSOR]})
    assert answer.status_code == 200
    assert answer.json()["outputs"][0]["data"] == [0.4]
    scope = {"type": "http", "method": "POST", "path": f"/m{path}/infer", "root_path": "/m"}
    app: Any = client().app
    assert app.endpoint(scope) is not None
    assert app.endpoint({**scope, "root_path": "/"}) is None


@pytest.mark.parametrize("prefix", ["", "/m"])
@pytest.mark.parametrize(
    ("method", "path", "members"),
    [
        ("GET", "/v2/nothing", {"error"}),
        ("GET", "/v2/models/other", {"error"}),
        ("DELETE", "/v2", {"error"}),
        ("GET", "/invocations", {"error_code", "message"}),
        ("GET", "/invocations/", {"error_code", "message"}),
        ("GET", "/nothing", set()),
        ("GET", "/stream", set()),
    ],
)
def test_an_error_of_no_endpoint_has_the_members_of_its_path(
    prefix: str, method: str, path: str, members: set[str]
) -> None:
    """Where a protocol's clients look for them, under any prefix."""
    problem = TestClient(client().app, root_path=prefix).request(method, prefix + path).json()
    assert problem["status"] in (404, 405)
    assert {"error", "error_code", "message"} & problem.keys() == members
    assert {problem[name] for name in members - {"error_code"}} <= {problem["detail"]}
