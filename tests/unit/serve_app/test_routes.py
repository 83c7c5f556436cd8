"""The HTTP contract, driven by Starlette's client over a fake model."""

import asyncio
import json
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from starlette.types import Message

from serve_app.errors import PROBLEM, NotReadyError, OverloadedError
from serve_app.predictions import Predictions
from serve_app.rows import Rows
from serve_app.routes import Service, application
from serve_app.served import ServedModel, ServedVersion
from serve_app.signature import Column, Signature

VERSION = ServedVersion("diabetes", "7", "run1", "models:/diabetes/7", "ab" * 32, {"r2": 0.47})
LIMIT = 1000


async def double(rows: Rows, wants_probabilities: bool) -> Predictions:
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
    service = {
        "model": ServedModel(VERSION, signature, np.zeros((1, 1)), classes),
        "predict": double,
        "check": all_well,
        "max_body_bytes": LIMIT,
        "max_batch_records": 100,
        "body_timeout_s": 5.0,
    }
    app = application(Service(**{**service, **changes}))
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
    """Name, version, weight, run, digest, signature and metrics."""
    facts = client().get("/model").json()
    assert facts["versions"] == [{"version": "7", "role": "champion", "weight": 1.0}]
    assert facts["signature"] == [{"name": "bmi", "type": "double"}]
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
        ("DELETE", "/model", b"", {}, 405, "method_not_allowed"),
        ("GET", "/nothing", b"", {}, 404, "not_found"),
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


def test_a_chunked_body_over_the_limit_is_cut_off() -> None:
    """A body without a length is refused as soon as it is too long."""
    answer = client().post(
        "/stream",
        content=(b"1" * 100 for _ in range(1000)),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 413


def test_a_body_that_does_not_arrive_is_given_up() -> None:
    """408, and the connection is closed, as the rest of the body may still come."""

    async def send_slowly() -> list[Message]:
        service = client(body_timeout_s=0.05).app
        sent: list[Message] = []
        first = [{"type": "http.request", "body": b"{", "more_body": True}]

        async def receive() -> Message:
            if first:
                return first.pop()
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Message) -> None:
            sent.append(message)

        headers = [(b"content-type", b"application/json")]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/stream",
            "query_string": b"",
            "headers": headers,
        }
        await service(scope, receive, send)
        return sent

    start, rest = asyncio.run(send_slowly())
    assert start["status"] == 408
    assert (b"connection", b"close") in start["headers"]
    assert json.loads(rest["body"])["code"] == "request_timeout"


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json; charset=utf-8; a=b",
        "application/json;a=b;charset=UTF-8",
        'Application/JSON; charset="utf-8"',
        "application/json;",
    ],
)
def test_parameters_of_the_content_type_other_than_charset_count_for_nothing(
    content_type: str,
) -> None:
    """Clients send what they like."""
    answer = client().post("/stream", content=b'{"X": 1}', headers={"content-type": content_type})
    assert answer.status_code == 200


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


def test_overload_says_when_to_come_back() -> None:
    """503 carries Retry-After."""

    async def full(rows: Rows, wants_probabilities: bool) -> Predictions:
        await asyncio.sleep(0)
        raise OverloadedError("full")

    answer = client(predict=full).post("/stream", json={"X": 1})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_an_unexpected_error_shows_nothing_of_itself() -> None:
    """The log has it; the client gets a code."""

    async def broken(rows: Rows, wants_probabilities: bool) -> Predictions:
        raise RuntimeError("secret")

    answer = client(predict=broken).post("/stream", json={"X": 1})
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal_error"
    assert "secret" not in answer.text
