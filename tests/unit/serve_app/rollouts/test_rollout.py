"""What happens next in a rollout, rule by rule."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.rollouts.evidence import Arm, Evidence, Pairs
from serve_app.rollouts.policy import Policy, Step
from serve_app.rollouts.rollout import (
    CommandError,
    Decision,
    State,
    abort,
    advanced,
    at_weight,
    decide,
    pause,
    promote,
    resume,
)

POLICY = Policy(
    steps=(
        Step(weight=0, min_s=10, min_requests=1_000),
        Step(weight=1, min_s=20, min_requests=3_000),
    ),
    max_step_s=100,
)
BEGAN = 1_000.0
SHADOW = State(number=7, champion="3", challenger="4", step=0, step_began=BEGAN)
LAST = replace(SHADOW, step=1)
PAUSED = replace(SHADOW, paused_at=BEGAN + 5)

GOOD = Evidence(Arm(10_000), Arm(5_000), 0, Pairs(2_000, 100), Pairs(2_000, 10), Pairs())
BAD = replace(GOOD, challenger=Arm(500, errors=250))
DOUBTFUL = replace(GOOD, champion=Arm(1_000, errors=15), challenger=Arm(3_000, errors=60))
LITTLE = Evidence(Arm(500), Arm(100), 0, Pairs(100, 5), Pairs(100), Pairs())
FEW = replace(GOOD, challenger=Arm(999))
UNTIMED = replace(GOOD, time=Pairs())
LABELS_WORSE = replace(GOOD, quality=Pairs(1_000, 700))


@pytest.mark.parametrize(
    ("state", "evidence", "after_s", "action", "reason"),
    [
        (SHADOW, GOOD, 10, "advance", "shift: 0.50% of records"),
        (LAST, GOOD, 20, "promote", "errors: 0.00% of records failed"),
        (SHADOW, GOOD, 9, "hold", "9 s of at least 10 s have passed"),
        (LAST, GOOD, 19, "hold", "19 s of at least 20 s have passed"),
        (SHADOW, FEW, 50, "hold", "999 of at least 1000 requests have been judged"),
        (LAST, replace(GOOD, challenger=Arm(2_999)), 50, "hold", "2999 of at least 3000"),
        (SHADOW, DOUBTFUL, 50, "hold", "errors: 2.00% of records failed"),
        (SHADOW, UNTIMED, 50, "hold", "time: no calls timed yet"),
        (SHADOW, Evidence(), 50, "hold", "errors: no requests to both versions yet"),
        (SHADOW, BAD, 0, "abort", "errors: 50.00% of records failed"),
        (LAST, BAD, 0, "abort", "errors: 50.00% of records failed"),
        (SHADOW, LABELS_WORSE, 0, "abort", "quality: 70.00% of labels further off"),
        (SHADOW, DOUBTFUL, 100, "hold", "errors: 2.00% of records failed"),
        (SHADOW, DOUBTFUL, 101, "abort", "past its deadline of 100 s: still inconclusive"),
        (SHADOW, UNTIMED, 101, "abort", "time: no calls timed yet"),
        (SHADOW, LITTLE, 101, "abort", "past its deadline of 100 s: too little traffic"),
        (SHADOW, Evidence(), 101, "abort", "past its deadline of 100 s: too little traffic"),
        (SHADOW, GOOD, 101, "advance", "errors: 0.00%"),
        (SHADOW, GOOD, -60, "hold", "0 s of at least 10 s have passed"),
        (PAUSED, GOOD, 50, "hold", "paused"),
        (PAUSED, DOUBTFUL, 10_000, "hold", "paused"),
        (PAUSED, Evidence(), 10_000, "hold", "paused"),
        (PAUSED, BAD, 50, "abort", "errors: 50.00% of records failed"),
    ],
)
def test_what_happens_next(
    state: State, evidence: Evidence, after_s: float, action: str, reason: str
) -> None:
    """One line for each rule: who is where, what was seen, how long it took, what follows."""
    decision = decide(POLICY, state, evidence, BEGAN + after_s)
    assert decision.action == action
    assert any(reason in one for one in decision.reasons), decision.reasons


def test_a_fail_is_the_only_reason_told() -> None:
    """What passes beside it is to be read in the verdicts."""
    decision = decide(POLICY, SHADOW, BAD, BEGAN + 50)
    assert len(decision.reasons) == 1
    assert [one.outcome for one in decision.verdicts][:4] == ["fail", "pass", "pass", "pass"]


def test_all_that_is_open_is_told() -> None:
    """Time, number and each metric that says nothing yet."""
    decision = decide(POLICY, SHADOW, LITTLE, BEGAN + 5)
    assert len(decision.reasons) == 4


def test_labels_hold_a_step_only_where_they_are_required() -> None:
    """By default nobody has to send any."""
    assert decide(POLICY, SHADOW, GOOD, BEGAN + 50).action == "advance"
    strict = POLICY.model_copy(update={"quality_required": True})
    decision = decide(strict, SHADOW, GOOD, BEGAN + 50)
    assert decision.action == "hold"
    assert decision.reasons == ("quality: no labels yet",)


def test_every_step_begins_its_own_clock() -> None:
    """The next step counts from its beginning."""
    state = advanced(SHADOW, BEGAN + 30)
    assert state == replace(SHADOW, step=1, step_began=BEGAN + 30)
    assert decide(POLICY, state, GOOD, BEGAN + 49).action == "hold"
    assert decide(POLICY, state, GOOD, BEGAN + 50).action == "promote"


def test_a_pause_counts_neither_for_the_least_time_nor_for_the_deadline() -> None:
    """4 s before it and 6 after it are 10, however long it was."""
    resumed = resume(pause(SHADOW, BEGAN + 4), BEGAN + 5_000)
    assert not resumed.is_paused
    assert decide(POLICY, resumed, GOOD, BEGAN + 5_005).action == "hold"
    assert decide(POLICY, resumed, GOOD, BEGAN + 5_006).action == "advance"
    assert decide(POLICY, resumed, DOUBTFUL, BEGAN + 5_096).action == "hold"
    assert decide(POLICY, resumed, DOUBTFUL, BEGAN + 5_097).action == "abort"


TIMES = st.floats(0, 1e6)


@given(TIMES, TIMES, TIMES)
def test_a_pause_never_lengthens_nor_shortens_what_has_run(
    before: float, length: float, after: float
) -> None:
    """A clock that stands still loses nothing."""
    paused = pause(SHADOW, BEGAN + before)
    assert paused.elapsed_s(BEGAN + before + length) == pytest.approx(before, abs=1e-6)
    resumed = resume(paused, BEGAN + before + length)
    ran = resumed.elapsed_s(BEGAN + before + length + after)
    assert ran == pytest.approx(before + after, abs=1e-6)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (lambda: resume(SHADOW, BEGAN), "rollout 7 is not paused"),
        (lambda: pause(PAUSED, BEGAN), "rollout 7 is paused already"),
        (lambda: pause(None, BEGAN), "no rollout is under way"),
        (lambda: resume(None, BEGAN), "no rollout is under way"),
        (lambda: promote(None, "x"), "no rollout is under way"),
        (lambda: abort(None, "x"), "no rollout is under way"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(
    command: Callable[[], object], message: str
) -> None:
    """With a sentence for whoever gave it."""
    with pytest.raises(CommandError, match=message):
        command()


@pytest.mark.parametrize("state", [SHADOW, PAUSED])
def test_a_person_may_end_a_rollout_either_way(state: State) -> None:
    """Paused or not; the reason is kept."""
    assert promote(state, "known good") == Decision("promote", ("by hand: known good",))
    assert abort(state, "wrong data") == Decision("abort", ("by hand: wrong data",))


STATES = st.builds(
    State, st.integers(0), st.text(), st.text(), st.integers(0, 9), TIMES, st.none() | TIMES
)


@given(STATES)
def test_json_brings_back_the_same_state(state: State) -> None:
    """It outlives a restart."""
    assert State.from_json(json.loads(json.dumps(state.to_json()))) == state


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        "x",
        {},
        {"number": 7},
        {**SHADOW.to_json(), "more": 1},
        {**SHADOW.to_json(), "number": "7"},
        {**SHADOW.to_json(), "number": "\ud800"},
        {**SHADOW.to_json(), "number": 7.0},
        {**SHADOW.to_json(), "number": True},
        {**SHADOW.to_json(), "champion": 3},
        {**SHADOW.to_json(), "challenger": None},
        {**SHADOW.to_json(), "step": "x"},
        {**SHADOW.to_json(), "step": 1.5},
        {**SHADOW.to_json(), "step": -1},
        {**SHADOW.to_json(), "step_began": "0"},
        {**SHADOW.to_json(), "step_began": float("nan")},
        {**SHADOW.to_json(), "paused_at": float("inf")},
        {**SHADOW.to_json(), "paused_at": 10**400},
    ],
)
def test_what_is_no_state_raises_nothing_but_value_error(content: object) -> None:
    """MLflow gives back what others may have written there."""
    with pytest.raises(ValueError):
        State.from_json(content)


EVIDENCE = st.builds(
    lambda n, m, x, y, z: Evidence(Arm(n, x * n), Arm(m, y * m, z * m), 0, Pairs(m, x * m)),
    *(st.integers(0, 5_000),) * 2,
    *(st.floats(0, 1),) * 3,
)


@given(STATES, EVIDENCE, TIMES)
def test_nothing_advances_while_a_metric_is_missing(
    state: State, evidence: Evidence, now: float
) -> None:
    """Whatever state and time: without compared predictions no step is done."""
    state = replace(state, step=state.step % len(POLICY.steps))
    assert decide(POLICY, state, evidence, now).action in ("hold", "abort")


@pytest.mark.parametrize(
    ("weights", "step", "weight", "expected"),
    [
        ((0.0, 0.1, 0.5, 1.0), 2, 0.5, 2),
        ((0.0, 0.1, 0.1, 1.0), 2, 0.1, 2),
        ((0.0, 0.1, 1.0), 3, 0.1, 1),
        ((0.0, 0.1, 1.0), 2, 0.5, 1),
        ((0.0, 0.01, 0.1, 1.0), 1, 0.1, 2),
        ((0.0, 0.25, 1.0), 9, 1.0, 2),
        ((0.5, 1.0), 1, 0.1, 0),
        ((0.0, 0.1, 1.0), 2, None, 0),
    ],
)
def test_a_policy_that_has_changed_raises_no_weight(
    weights: tuple[float, ...], step: int, weight: float | None, expected: int
) -> None:
    """Its steps are looked up by the weight that was reached."""
    policy = Policy(steps=tuple(Step(weight=one) for one in weights))
    state = replace(SHADOW, step=step)
    assert at_weight(policy, state, weight) == replace(SHADOW, step=expected)
