"""The gate's decisions, one by one."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import joblib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.gate import Candidate, Champion, Decision, Policy, compare, judge

ACTUAL = np.linspace(0.0, 100.0, 200)
NOISE = np.random.default_rng(1).normal(0, 10, len(ACTUAL))
R2 = Policy(minimum={"r2": 0.4})


def decide(
    predictions: Any,
    champion: Any = None,
    *,
    policy: Policy = R2,
    metrics: dict[str, float] | None = None,
    obstacle: str | None = None,
) -> Decision:
    """Judge predictions of ACTUAL; `champion` holds the champion's, if it could make any."""
    exists = champion is not None or obstacle is not None
    return judge(
        Candidate({"r2": 0.9} if metrics is None else metrics, np.asarray(predictions)),
        Champion("3", champion, obstacle) if exists else None,
        ACTUAL,
        policy,
        error="squared",
        seed=7,
    )


def test_first_model_needs_only_the_absolute_thresholds() -> None:
    """Without a champion, a model that reaches the minimum passes."""
    decision = decide(ACTUAL + NOISE)
    assert decision.passed
    assert decision.comparison is None
    assert "pass: no champion yet: the absolute thresholds alone decide" in decision.reasons


@pytest.mark.parametrize(
    ("policy", "metrics", "reason"),
    [
        (R2, {"r2": 0.399}, "refuse: r2 is 0.399, wanted at least 0.4"),
        (Policy(maximum={"mse": 5}), {"mse": 5.1}, "refuse: mse is 5.1, wanted at most 5"),
        (R2, {}, "refuse: r2 could not be measured (None), wanted at least 0.4"),
        (R2, {"r2": float("nan")}, "refuse: r2 could not be measured (nan), wanted at least 0.4"),
    ],
)
def test_missed_threshold_refuses_with_its_numbers(
    policy: Policy, metrics: dict[str, float], reason: str
) -> None:
    """A missed or unmeasured metric refuses, and the reason holds value and bound."""
    decision = decide(ACTUAL + NOISE, policy=policy, metrics=metrics)
    assert not decision.passed
    assert reason in decision.reasons


def test_threshold_reached_exactly_passes() -> None:
    """The bounds themselves are good enough."""
    policy = Policy(minimum={"r2": 0.4}, maximum={"mse": 5})
    assert decide(ACTUAL, policy=policy, metrics={"r2": 0.4, "mse": 5.0}).passed


def test_better_candidate_passes() -> None:
    """A candidate with half the champion's error passes."""
    decision = decide(ACTUAL + NOISE / 2, ACTUAL + NOISE)
    assert decision.passed
    assert decision.comparison is not None
    assert decision.comparison.low == pytest.approx(0.75)
    assert "all of it above -10.00%" in decision.reasons[-1]


def test_same_model_again_passes_even_without_margin() -> None:
    """Equal predictions are no change at all, so that retraining is never refused for luck."""
    policy = Policy(minimum={}, margin=0)
    decision = decide(ACTUAL + NOISE, ACTUAL + NOISE, policy=policy)
    assert decision.passed


def test_clearly_worse_candidate_is_refused_whatever_the_policy_on_doubt() -> None:
    """An interval wholly below minus the margin fails."""
    policy = Policy(minimum={}, inconclusive="accept")
    decision = decide(ACTUAL + 2 * NOISE, ACTUAL + NOISE, policy=policy)
    assert not decision.passed
    assert "all of it below -10.00%" in decision.reasons[-1]


@pytest.mark.parametrize(("inconclusive", "passed"), [("refuse", False), ("accept", True)])
def test_interval_across_the_margin_follows_the_policy(inconclusive: str, passed: bool) -> None:
    """Neither shown better nor shown worse: the policy decides, and refuses by default."""
    other = np.random.default_rng(2).normal(0, 10, len(ACTUAL))
    policy = Policy.model_validate({"minimum": {}, "inconclusive": inconclusive})
    decision = decide(ACTUAL + other, ACTUAL + NOISE, policy=policy)
    assert decision.passed is passed
    assert decision.comparison is not None
    assert decision.comparison.low < -0.1 < decision.comparison.high
    assert f"gate.inconclusive is {inconclusive}" in decision.reasons[-1]


def test_two_point_estimates_within_the_margin_do_not_suffice() -> None:
    """A candidate 5% worse on few rows is in doubt, though 5% is less than the margin."""
    few = slice(0, 12)
    other = np.random.default_rng(5).permutation(NOISE[few]) * 1.05**0.5
    decision = judge(
        Candidate({}, ACTUAL[few] + other),
        Champion("3", ACTUAL[few] + NOISE[few]),
        ACTUAL[few],
        Policy(minimum={}),
        error="squared",
        seed=7,
    )
    assert decision.comparison is not None
    assert decision.comparison.change == pytest.approx(-0.05)
    assert not decision.passed


def test_champion_without_error_lets_only_its_equal_pass() -> None:
    """A relative change needs a champion's error; a perfect champion is matched or kept."""
    assert decide(ACTUAL, ACTUAL).passed
    worse = decide(ACTUAL + NOISE / 1e6, ACTUAL)
    assert not worse.passed
    assert worse.comparison is not None
    assert worse.comparison.low == -np.inf


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_predictions_refuse_the_candidate(bad: float) -> None:
    """A model that answers NaN or infinity is refused, and not compared."""
    predictions = ACTUAL + NOISE
    predictions[3] = bad
    decision = decide(predictions, ACTUAL + NOISE)
    assert not decision.passed
    assert "refuse: 1 of 200 predictions are NaN or infinite" in decision.reasons
    assert decision.comparison is None


def test_champion_with_non_finite_predictions_is_beaten_by_any_finite_model() -> None:
    """A broken champion must not keep a working model out."""
    champion = ACTUAL + NOISE
    champion[3] = np.nan
    decision = decide(ACTUAL + 5 * NOISE, champion)
    assert decision.passed
    assert "champion version 3 gives NaN or infinity for 1 of 200 rows" in decision.reasons[-1]


def test_lengths_that_differ_refuse() -> None:
    """Predictions that can't be paired row by row are refused on either side."""
    short = ACTUAL[:-1]
    assert "refuse: 199 predictions for 200 held-out rows" in decide(short).reasons
    decision = decide(ACTUAL, short)
    assert not decision.passed
    assert "champion version 3 gave 199 predictions for 200 held-out rows" in decision.reasons[-1]


def test_champion_that_cannot_predict_refuses_with_the_obstacle() -> None:
    """Without a comparison there's no proof that the candidate is no worse."""
    decision = decide(ACTUAL, obstacle="it needs the columns ['age']")
    assert not decision.passed
    text = "refuse: can't be compared with champion version 3: it needs the columns ['age']"
    assert text in decision.reasons


def test_classification_counts_wrong_labels() -> None:
    """Labels, text too, are compared by the share of wrong ones."""
    actual = np.array(["cat", "dog"] * 50)
    champion, candidate = actual.copy(), actual.copy()
    champion[:20] = "bird"
    candidate[:10] = "bird"
    decision = judge(
        Candidate({"accuracy": 0.9}, candidate),
        Champion("1", champion),
        actual,
        Policy(minimum={"accuracy": 0.7}),
        error="zero_one",
        seed=1,
    )
    assert decision.passed
    assert decision.comparison is not None
    assert decision.comparison.champion_error == pytest.approx(0.2)
    assert decision.comparison.change == pytest.approx(0.5)
    assert "share of wrong labels 0.1 against 0.2" in decision.reasons[-1]


@pytest.mark.parametrize(
    ("rows", "champions", "candidates"),
    [(10, 0.02, 0.10), (30, 0.03, 0.06), (100, 0.01, 0.03), (300, 0.1, 0.12)],
)
def test_a_worse_classifier_passes_no_more_often_than_the_interval_says(
    rows: int, champions: float, candidates: float
) -> None:
    """Not either where hardly a label is wrong, so that most draws hold no error at all."""
    generator = np.random.default_rng(rows)
    policy = Policy(minimum={}, resamples=400)
    passed = 0
    for seed in range(200):
        champion = (generator.random(rows) < champions).astype(np.float64)
        candidate = (generator.random(rows) < candidates).astype(np.float64)
        found = compare(candidate, champion, policy, error="zero_one", seed=seed)
        passed += found.low >= -policy.margin
    assert passed / 200 <= 0.05


@pytest.mark.parametrize(("wrong", "passed"), [(0, False), (10, False), (60, True)])
def test_equal_labels_pass_where_enough_of_them_are_wrong(wrong: int, passed: bool) -> None:
    """Three errors more could have been missed: too much for ten, within 10% of sixty."""
    errors = np.zeros(400)
    errors[:wrong] = 1
    found = compare(errors, errors, Policy(), error="zero_one", seed=3)
    assert found.change == 0
    assert found.candidate_error == pytest.approx(wrong / 400)
    assert (found.low >= -0.1) is passed


def test_interval_does_not_depend_on_the_number_of_workers() -> None:
    """Seeds belong to chunks of fixed size, not to workers."""
    candidate, champion = np.square(NOISE) * 1.1, np.square(NOISE[::-1])
    policy = Policy(resamples=2_500)
    alone = compare(candidate, champion, policy, error="squared", seed=3)
    with joblib.parallel_config("threading", n_jobs=3):
        together = compare(candidate, champion, policy, error="squared", seed=3)
    assert alone == together
    assert alone != compare(candidate, champion, policy, error="squared", seed=4)


def test_interval_covers_the_true_change_about_as_often_as_it_says() -> None:
    """Over 200 draws of 100 rows with a true change of -20%, a 90% interval holds it 85 to 95%."""
    generator = np.random.default_rng(11)
    policy = Policy(resamples=1_000, confidence=0.9)
    covered = 0
    for seed in range(200):
        champion = generator.normal(0, 1, 100) ** 2
        candidate = 1.2 * generator.normal(0, 1, 100) ** 2
        found = compare(candidate, champion, policy, error="squared", seed=seed)
        covered += found.low <= -0.2 <= found.high
    assert 0.83 <= covered / 200 <= 0.95


@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.floats(0.01, 100))
def test_decision_is_the_same_in_any_unit(seed: int, rows: int, unit: float) -> None:
    """The margin is relative, so the target's unit does not matter."""
    generator = np.random.default_rng(seed)
    candidate, champion = generator.random(rows) + 0.01, generator.random(rows) + 0.01
    policy = Policy(resamples=200)
    one = compare(candidate, champion, policy, error="squared", seed=seed)
    other = compare(candidate * unit, champion * unit, policy, error="squared", seed=seed)
    assert (other.low, other.high) == pytest.approx((one.low, one.high), rel=1e-9, abs=1e-9)


def test_gate_imports_neither_ray_nor_mlflow_nor_starlette() -> None:
    """The decision is pure: it can be read and tested alone."""
    code = "import sys, train.gate; print({'ray', 'mlflow', 'starlette'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "set()"
