"""`/admin/rollout` and `/feedback`: what is taken, what is refused, and what comes back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from serve_app.control.labels import Label
from serve_app.errors import RolloutConflictError
from serve_app.http.body import Limits
from serve_app.http.routes import application
from serve_app.models.predictions import Predictions
from serve_app.models.served import ServedModel
from serve_app.records.rows import Rows
from serve_app.records.signature import Column, Signature
from tests.services import Commands, Labelled, service
from tests.unit.serve_app.control.stage import version_of

MOST_BYTES = 10_000
JSON = {"content-type": "application/json"}


def model(labels: tuple[Any, ...] | None = None) -> ServedModel:
    """A model of one feature."""
    signature = Signature((Column("x", "double"),))
    return ServedModel(version_of("1"), signature, np.zeros((1, 1)), None, labels)


async def double(
    rows: Rows, wants_probabilities: bool, within_s: float | None = None
) -> Predictions:
    """Answer without a worker."""
    return Predictions(rows[:, 0] * 2)


def client(served: ServedModel | None = None, **changes: Any) -> TestClient:
    """A client of the routes."""
    limits = Limits(MOST_BYTES, 5.0)
    return TestClient(application(service(served or model(), double, limits=limits, **changes)))


def test_how_it_stands_is_shown() -> None:
    """All that is known of a service without a rollout."""
    standing = client().get("/admin/rollout").json()
    assert (standing["champion"], standing["challenger"], standing["rollout"]) == ("1", None, None)


def test_a_command_is_passed_on() -> None:
    """It is done by the controller; the answer says that it was taken."""
    commands = Commands()
    answer = client(command=commands).post(
        "/admin/rollout", json={"action": "pause", "reason": "to look"}
    )
    assert (answer.status_code, answer.json()) == (202, {"action": "pause"})
    assert commands.given == [("pause", "to look")]


def test_a_command_that_makes_no_sense_is_a_conflict() -> None:
    """With the controller's own words."""

    async def refuse(action: str, reason: str) -> None:
        raise RolloutConflictError("no rollout is under way")

    answer = client(command=refuse).post("/admin/rollout", json={"action": "abort", "reason": "x"})
    assert (answer.status_code, answer.json()["code"]) == (409, "rollout_conflict")
    assert answer.json()["detail"] == "no rollout is under way"


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"action": "stop", "reason": "x"},
        {"action": "pause"},
        {"action": "pause", "reason": ""},
        {"action": "pause", "reason": "x" * 501},
        {"action": "pause", "reason": "a\x00b"},
        {"action": "pause", "reason": "\x1b[2J"},
        {"action": "pause", "reason": "a\x85b"},
        {"action": "pause", "reason": "a\u2028promoted by hand"},
        {"action": "pause", "reason": "a\u202eb"},
        {"action": "pause", "reason": "x", "force": True},
    ],
)
def test_other_commands_are_refused(content: Any) -> None:
    """And reach nobody."""
    commands = Commands()
    answer = client(command=commands).post("/admin/rollout", json=content)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_body")
    assert commands.given == []


@pytest.mark.parametrize(
    ("value", "values"),
    [(1.5, (1.5,)), (2, (2,)), ([1.5, None], (1.5, None))],
)
def test_true_values_are_passed_on(value: Any, values: tuple[Any, ...]) -> None:
    """One, or one for each record."""
    labelled = Labelled()
    answer = client(label=labelled).post("/feedback", json={"request_id": "r 1", "value": value})
    assert (answer.status_code, answer.json()) == (202, {"state": "accepted"})
    assert labelled.given == [Label("r 1", values)]


NUMBERS: list[Any] = ["1.5", True, None, [], [None], ["x"], {"a": 1}, [[1.0]], [0.0] * 1001]


@pytest.mark.parametrize("value", NUMBERS)
def test_what_a_model_of_numbers_does_not_predict_is_refused(value: Any) -> None:
    """Nor is what says nothing at all."""
    labelled = Labelled()
    answer = client(label=labelled).post("/feedback", json={"request_id": "a", "value": value})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_body")
    assert labelled.given == []


@pytest.mark.parametrize(
    ("labels", "good", "bad"),
    [(("no", "yes"), "yes", ["maybe", 1, True]), ((0, 1), 1, [2, "1", True])],
)
def test_a_classifier_takes_its_labels(labels: tuple[Any, ...], good: Any, bad: list[Any]) -> None:
    """Any other tells nothing of which version is worse."""
    asked = client(model(labels))
    assert asked.post("/feedback", json={"request_id": "a", "value": good}).status_code == 202
    for value in bad:
        answer = asked.post("/feedback", json={"request_id": "a", "value": value})
        assert answer.status_code == 422, value


def test_a_number_too_large_is_refused() -> None:
    """JSON can write what no float holds."""
    content = b'{"request_id": "a", "value": 1e999}'
    answer = client().post("/feedback", content=content, headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_body")


def test_bodies_are_bounded_and_must_be_json() -> None:
    """As on all routes."""
    asked = client()
    text = {"content-type": "text/plain"}
    assert asked.post("/feedback", content=b"{", headers=text).status_code == 415
    assert asked.post("/feedback", content=b"{", headers=JSON).status_code == 400
    large = b"1" * (MOST_BYTES + 1)
    assert asked.post("/admin/rollout", content=large, headers=JSON).status_code == 413
