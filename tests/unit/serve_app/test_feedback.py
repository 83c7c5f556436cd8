"""True values find their rows, and say which version is further off."""

import asyncio
from collections.abc import Sequence
from math import inf
from typing import Any

import numpy as np
import pytest

from serve_app import feedback
from serve_app.calls.ask import Ask
from serve_app.control.labels import Label
from serve_app.errors import NotReadyError, OverloadedError
from serve_app.feedback import (
    MOST_BYTES,
    MOST_ROWS,
    MOST_ROWS_A_REQUEST,
    Answered,
    Feedback,
    Records,
    worse,
)
from serve_app.models.predictions import Predictions
from serve_app.observer import Observer
from serve_app.protocols.question import Answer, Question
from serve_app.records.rows import Rows
from serve_app.rollouts.evidence import Pairs
from serve_app.rollouts.policy import Policy
from serve_app.rollouts.rollout import State
from serve_app.rollouts.spread import MIN_VALUES
from serve_app.routing import Table
from tests.unit.serve_app.control.stage import model_of

SMALL = 10


def rows(*values: float) -> Rows:
    """Records of one feature."""
    return np.asarray(values, dtype=np.float64).reshape(-1, 1)


def records(*values: float) -> Records:
    """All of a request's."""
    return Records(rows(*values))


def question(*values: float) -> Question:
    """What asks for them."""
    return Question(rows(*values), lambda found: Answer(b""))


def test_rows_are_taken_once() -> None:
    """Of two requests with one id the last counts."""
    answered = Answered()
    answered.add(b"a", records(1.0), SMALL)
    answered.add(b"a", records(2.0, 3.0), SMALL)
    found = answered.pop(b"a")
    assert found is not None
    assert found.rows.tolist() == [[2.0], [3.0]]
    assert answered.pop(b"a") is None


def test_the_oldest_are_forgotten_by_rows_and_by_bytes() -> None:
    """Empty ones, large ones and heavy ones aren't kept at all."""
    answered = Answered()
    for number in range(3):
        answered.add(b"%d" % number, records(*[0.0] * MOST_ROWS_A_REQUEST), SMALL)
    answered.add(b"empty", records(), SMALL)
    answered.add(b"large", records(*[0.0] * (MOST_ROWS_A_REQUEST + 1)), SMALL)
    answered.add(b"heavy", records(1.0), MOST_BYTES)
    assert [answered.pop(name) for name in (b"empty", b"large", b"heavy")] == [None] * 3
    for number in range(3, 3 + MOST_ROWS // MOST_ROWS_A_REQUEST):
        answered.add(b"%d" % number, records(*[0.0] * MOST_ROWS_A_REQUEST), SMALL)
    assert answered.pop(b"2") is None
    assert answered.pop(b"3") is not None
    heavy = Answered()
    for number in range(100):
        heavy.add(b"%d" % number, records(1.0), feedback.MOST_BYTES_A_REQUEST)
    kept = sum(heavy.pop(b"%d" % number) is not None for number in range(100))
    assert kept == MOST_BYTES // feedback.MOST_BYTES_A_REQUEST


@pytest.mark.parametrize(
    ("truth", "champion", "challenger", "margin", "expected"),
    [
        ([1.0], [1.0], [2.0], 0.0, 1.0),
        ([1.0], [3.0], [2.0], 0.0, 0.0),
        ([1.0], [2.0], [0.0], 0.0, 0.5),
        ([1.0], [1.1], [1.15], 0.1, 0.5),
        ([1.0, None], [1.0, 0.0], [1.5, 99.0], 0.1, 1.0),
        ([0.0, 0.0], [3.0, 3.0], [5.0, 0.0], 0.0, 0.0),
    ],
)
def test_numbers_are_compared_by_their_distance(
    truth: Sequence[Any],
    champion: list[float],
    challenger: list[float],
    margin: float,
    expected: float,
) -> None:
    """On average over the records whose truth is known; a small difference is a tie."""
    found = Predictions(np.asarray(champion)), Predictions(np.asarray(challenger))
    assert worse(truth, *found, False, margin) == expected


def test_labels_are_compared_by_how_many_are_wrong() -> None:
    """Near misses count as misses."""
    truth, champion = ["a", "b"], Predictions(np.asarray(["a", "c"]))
    assert worse(truth, champion, Predictions(np.asarray(["b", "c"])), True, 0.0) == 1.0
    assert worse(truth, champion, Predictions(np.asarray(["b", "b"])), True, 0.0) == 0.5


def test_no_answer_is_furthest() -> None:
    """For both it is a tie."""
    good, none = Predictions(np.asarray([9.0])), Predictions(np.asarray([0.0]), {0: "raised"})
    assert worse([1.0], good, none, False, inf) == 0.5
    assert worse([1.0], good, none, False, 5.0) == 1.0
    assert worse([1.0], none, none, False, 0.0) == 0.5


class Slopes:
    """Workers whose version n answers n times x."""

    async def predict(self, rows: Rows, sizes: tuple[int, ...], ask: Ask) -> Predictions:
        """Multiply."""
        return Predictions(rows[:, 0] * float(ask.version))


def test_labels_are_joined_with_the_rows_that_are_here() -> None:
    """Those of other ingresses, and of another number of records, are passed over."""

    async def scenario() -> None:
        workers: Any = Slopes()
        observer = Observer(workers, Policy())
        joined = Feedback(workers, observer)
        joined.remember(b"before", question(1.0), SMALL)
        state = State(7, "1", "2", 0, 0.0)
        observer.turn(Table(1, model_of("1"), model_of("2"), rollout=state))
        for number in range(MIN_VALUES):
            joined.remember(b"%d" % number, question(1.0 + number), SMALL)
        labels = [Label(str(number), (1.0 + number,)) for number in range(MIN_VALUES)]
        strangers = [Label("before", (1.0,)), Label("elsewhere", (1.0,)), Label("0", (1.0, 2.0))]
        await joined.join([*strangers[:2], *labels[1:], strangers[2]])
        taken = observer.take()
        assert taken is None  # too few predictions to say what is far
        joined.remember(b"more", question(5.0), SMALL)
        await joined.join([Label("more", (5.0,))])
        taken = observer.take()
        assert taken is not None
        assert taken[1].quality == Pairs(1, 1.0)

    asyncio.run(scenario())


BAD = 13.0
"""What one version, or both, have no answer for."""


class Faulty(Slopes):
    """Versions that fail, each in its own way, as long as a bad row is among those asked for."""

    def __init__(self, **faults: Exception | float) -> None:
        self.faults = {name[1:]: fault for name, fault in faults.items()}
        self.asked: list[tuple[str, int]] = []

    async def predict(self, rows: Rows, sizes: tuple[int, ...], ask: Ask) -> Predictions:
        """Raise, or take some seconds."""
        self.asked.append((ask.version, len(sizes)))
        fault = self.faults.get(ask.version) if BAD in rows else None
        if isinstance(fault, Exception):
            raise fault
        await asyncio.sleep(fault or 0.0)
        return await super().predict(rows, sizes, ask)


def compared(workers: Any, values: Sequence[float]) -> Pairs:
    """What is seen when the true value of each request is that which version 1 predicts."""

    async def scenario() -> Pairs:
        observer = Observer(workers, Policy())
        observer.turn(Table(1, model_of("1"), model_of("2"), rollout=State(7, "1", "2", 0, 0.0)))
        observer.quality_margin((1,) * MIN_VALUES, Predictions(np.arange(float(MIN_VALUES))))
        joined = Feedback(workers, observer)
        for number, value in enumerate(values):
            joined.remember(b"%d" % number, question(value), SMALL)
        await joined.join([Label(str(number), (value,)) for number, value in enumerate(values)])
        taken = observer.take()
        return Pairs() if taken is None else taken[1].quality

    return asyncio.run(scenario())


MANY_VALUES = [1.0] * 300
GONE = NotReadyError("no worker")


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """No call takes long, and none is waited for."""
    monkeypatch.setattr(feedback, "PAUSE_S", 0.0)
    monkeypatch.setattr(feedback, "TIMEOUT_S", 0.2)


@pytest.mark.usefixtures("_soon")
@pytest.mark.parametrize(
    "faults",
    [
        {"v2": GONE},
        {"v2": 9.0},
        {"v1": GONE},
        {"v1": 9.0},
        {"v1": ValueError("shape"), "v2": GONE},
        {"v1": OverloadedError("full")},
    ],
)
def test_what_fails_costs_no_other_its_comparison(faults: dict[str, Any]) -> None:
    """It is found by halving, and says nothing of either version."""
    workers = Faulty(**faults)
    values = [*MANY_VALUES[:77], BAD, *MANY_VALUES[77:]]
    assert compared(workers, values) == Pairs(len(MANY_VALUES), len(MANY_VALUES))
    assert len(workers.asked) < 50


@pytest.mark.usefixtures("_soon")
def test_when_all_fails_the_rest_is_let_go() -> None:
    """A page of labels keeps nobody for long: not the workers, and not the next page."""
    workers = Faulty(v1=GONE)
    assert compared(workers, [BAD] * 1000) == Pairs()
    assert len(workers.asked) == feedback.MOST_FAILURES


@pytest.mark.parametrize(("then", "counted"), [((7, 1), 2), ((8, 0), 0)])
def test_values_go_on_over_steps_but_not_over_rollouts(then: tuple[int, int], counted: int) -> None:
    """What was answered in one says nothing of the next one's versions."""

    def turn(window: tuple[int, int]) -> None:
        state = State(window[0], "1", "2", window[1], 0.0)
        observer.turn(Table(1, model_of("1"), model_of("2"), rollout=state))
        observer.quality_margin((1,) * MIN_VALUES, Predictions(np.arange(float(MIN_VALUES))))

    class Turning(Slopes):
        async def predict(self, rows: Rows, sizes: tuple[int, ...], ask: Ask) -> Predictions:
            if ask.version == "2" and observer.window != then:
                turn(then)
            return await super().predict(rows, sizes, ask)

    workers: Any = Turning()
    observer = Observer(workers, Policy())
    turn((7, 0))
    joined = Feedback(workers, observer)
    ones = [1.0] * feedback.MOST_ROWS_A_CALL
    for name in ("a", "b"):
        joined.remember(name.encode(), question(*ones), SMALL)
    asyncio.run(joined.join([Label(name, tuple(ones)) for name in ("a", "b")]))
    taken = observer.take()
    assert (0 if taken is None else taken[1].quality.count) == counted
