"""True values of batches that were answered in part: one for each record that was sent."""

import asyncio
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from serve_app.calls.ask import Ask
from serve_app.control.labels import Label
from serve_app.feedback import MOST_ROWS_A_REQUEST, Feedback
from serve_app.http.answers import REQUEST_ID
from serve_app.http.body import Limits
from serve_app.http.routes import application
from serve_app.models.predictions import Predictions
from serve_app.observer import Observer
from serve_app.records.rows import Rows
from serve_app.rollouts.evidence import Pairs
from serve_app.rollouts.policy import Policy
from serve_app.rollouts.rollout import State
from serve_app.routing import Table
from tests.services import service
from tests.unit.serve_app.control.stage import model_of

ID = "a request"


class Slopes:
    """Workers whose version n answers n times x."""

    async def predict(self, rows: Rows, sizes: tuple[int, ...], ask: Ask) -> Predictions:
        """Multiply."""
        return Predictions(rows[:, 0] * float(ask.version))


async def answered(rows: Rows, wants: bool, within_s: float | None = None) -> Predictions:
    """No answer for records under 0."""
    errors = dict.fromkeys(np.flatnonzero(rows[:, 0] < 0).tolist(), "negative")
    return Predictions(rows[:, 0], errors)


def pairs(records: list[Any], values: tuple[Any, ...], query: str = "?partial=true") -> Pairs:
    """What is seen when these values come for a request with these records."""
    workers: Any = Slopes()
    observer = Observer(workers, Policy())
    observer.turn(Table(1, model_of("1"), model_of("2"), rollout=State(7, "1", "2", 0, 0.0)))
    feedback = Feedback(workers, observer)
    served = application(
        service(
            model_of("1"),
            answered,
            remember=feedback.remember,
            limits=Limits(2**20, 5.0),
            max_batch_records=10_000,
        )
    )

    async def named(scope: Scope, receive: Receive, send: Send) -> None:
        await served({**scope, REQUEST_ID: ID.encode()}, receive, send)

    assert TestClient(named).post(f"/batch{query}", json={"X": records}).status_code == 200
    observer.quality_margin((1,) * 10_000, Predictions(np.arange(10_000.0)))
    asyncio.run(feedback.join([Label(ID, values)]))
    taken = observer.take()
    return Pairs() if taken is None else taken[1].quality


FAR = 1e6
"""Where the margin is nothing."""


@pytest.mark.parametrize(
    ("records", "values", "worse"),
    [
        ([None, FAR, "x"], (None, FAR, None), 1.0),
        ([None, FAR, "x"], (3.0, 2 * FAR, 4.0), 0.0),
        ([FAR, None, 3 * FAR], (None, None, 3 * FAR), 1.0),
        ([FAR, None, 3 * FAR], (2 * FAR, None, None), 0.0),
        ([FAR, 2 * FAR], (FAR, None), 1.0),
        ([None, -FAR, FAR], (None, None, FAR), 1.0),
    ],
)
def test_each_value_is_that_of_its_record(
    records: list[Any], values: tuple[Any, ...], worse: float
) -> None:
    """Those of records that didn't fit are passed over."""
    assert pairs(records, values) == Pairs(1, worse)


@pytest.mark.parametrize("values", [(FAR,), (FAR, FAR), (FAR,) * 4])
def test_another_number_of_values_is_passed_over(values: tuple[Any, ...]) -> None:
    """It isn't known whose they are; neither if they are as many as the records that fit."""
    assert pairs([None, FAR, "x"], values) == Pairs()


def test_values_of_none_but_records_that_did_not_fit_say_nothing() -> None:
    """Not even that the versions are equally good."""
    assert pairs([None, FAR], (3.0, None)) == Pairs()


def test_a_batch_that_fits_is_compared_as_before() -> None:
    """Whether or not it might have been answered in part."""
    for query in ("", "?partial=true"):
        assert pairs([FAR, 2 * FAR], (FAR, 2 * FAR), query) == Pairs(1, 1.0)


@pytest.mark.parametrize(("bad", "counted"), [(1, 1), (2, 0)])
def test_batches_that_no_values_can_come_for_are_not_kept(bad: int, counted: int) -> None:
    """Of more records than one body of values may have, whether they fit or not."""
    records = [*[None] * bad, *[FAR] * (MOST_ROWS_A_REQUEST - 1)]
    assert pairs(records, (*[None] * bad, *[FAR] * (MOST_ROWS_A_REQUEST - 1))).count == counted
