"""What each metric says of a challenger."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.rollouts.evidence import Arm, Evidence, Pairs
from serve_app.rollouts.policy import Policy
from serve_app.rollouts.verdicts import METRICS, Verdict, judge, required

POLICY = Policy()
GOOD = Evidence(
    champion=Arm(10_000),
    challenger=Arm(2_000),
    live=20,
    time=Pairs(2_000, 100),
    shift=Pairs(2_000, 10),
    quality=Pairs(20_000, 10_000),
)


def verdict(metric: str, evidence: Evidence, policy: Policy = POLICY) -> Verdict:
    """The verdict on one metric."""
    return next(one for one in judge(policy, evidence) if one.metric == metric)


@pytest.mark.parametrize("metric", METRICS)
def test_a_challenger_that_is_as_good_passes(metric: str) -> None:
    """With enough requests, on every metric."""
    found = verdict(metric, GOOD)
    assert found.outcome == "pass"
    assert "all of it below" in found.reason


@pytest.mark.parametrize(
    ("metric", "evidence"),
    [
        ("errors", replace(GOOD, challenger=Arm(2_000, errors=100))),
        ("missing", replace(GOOD, challenger=Arm(2_000, missing=100))),
        ("time", replace(GOOD, time=Pairs(200, 190))),
        ("shift", replace(GOOD, shift=Pairs(200, 120))),
        ("quality", replace(GOOD, quality=Pairs(500, 350))),
    ],
)
def test_a_challenger_that_is_worse_fails_on_that_metric_alone(
    metric: str, evidence: Evidence
) -> None:
    """The others go on saying what they said."""
    failed = [one for one in judge(POLICY, evidence) if one.outcome == "fail"]
    assert [one.metric for one in failed] == [metric]
    assert failed[0].reason.startswith(f"{metric}: ")
    assert "all of it above" in failed[0].reason


@pytest.mark.parametrize("metric", METRICS)
def test_no_data_is_never_a_pass(metric: str) -> None:
    """Not even by the widest tolerance."""
    widest = {"fail_above": 0.99, "pass_below": 1}
    policy = Policy.model_validate(dict.fromkeys(METRICS, widest))
    assert verdict(metric, Evidence(), policy).outcome == "inconclusive"
    assert "yet" in verdict(metric, Evidence(), policy).reason


@pytest.mark.parametrize("alone", [Evidence(Arm(10**6)), Evidence(Arm(), Arm(10**6))])
def test_one_version_alone_is_no_comparison(alone: Evidence) -> None:
    """However many requests the other has answered without a fault."""
    assert verdict("errors", alone).outcome == "inconclusive"


@pytest.mark.parametrize("metric", METRICS)
def test_few_requests_are_inconclusive(metric: str) -> None:
    """A perfect score on ten requests proves nothing."""
    few = Evidence(Arm(10), Arm(10), 0, Pairs(10, 4), Pairs(10), Pairs(10, 5))
    found = verdict(metric, few)
    assert found.outcome == "inconclusive"
    assert "neither above" in found.reason


def test_errors_that_both_have_are_not_the_challengers_fault() -> None:
    """The champion of the same window is the measure, not an absolute share."""
    both = replace(GOOD, champion=Arm(50_000, errors=5_000), challenger=Arm(50_000, errors=5_000))
    assert verdict("errors", both).outcome == "pass"


def test_a_better_challenger_passes() -> None:
    """Fewer errors are no reason to stop."""
    better = replace(GOOD, champion=Arm(10_000, errors=2_000))
    assert verdict("errors", better).outcome == "pass"


def test_the_sentence_has_the_numbers() -> None:
    """Whoever reads it in a year knows what was seen, and how sure it was."""
    evidence = replace(GOOD, champion=Arm(4_000, errors=4), challenger=Arm(800, errors=40))
    found = verdict("errors", evidence)
    assert found.reason.startswith(
        "errors: 5.00% of records failed in 800 requests to the challenger, "
        "0.10% in 4000 to the champion, +4.90%: interval "
    )
    numbers = found.numbers
    assert numbers["challenger_share"] == 0.05
    assert numbers["low"] > numbers["fail_above"] == 0.001


def test_labels_are_asked_for_only_on_demand() -> None:
    """Without `quality_required` the other four suffice."""
    assert "quality" not in required(POLICY)
    assert required(Policy(quality_required=True)) == METRICS


def test_more_steps_leave_less_to_chance_at_each() -> None:
    """Bonferroni: the more often a version may fail, the surer each fail must be."""
    one_step = Policy.model_validate({"steps": [{"weight": 1}]})
    for metric in METRICS[:-1]:
        alone, shared = verdict(metric, GOOD, one_step).numbers, verdict(metric, GOOD).numbers
        assert alone["low"] >= shared["low"]
        assert alone["high"] < shared["high"]


def test_quality_is_one_comparison_over_all_steps() -> None:
    """Its evidence goes on from step to step, so its chance of error isn't split over them."""
    one_step = Policy.model_validate({"steps": [{"weight": 1}]})
    assert verdict("quality", GOOD, one_step) == verdict("quality", GOOD)
    assert GOOD.at_next_step() == Evidence(quality=GOOD.quality)


COUNTS = st.integers(1, 10_000)


@given(COUNTS, COUNTS, st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_more_errors_of_the_challenger_never_help_it(
    champion: int, challenger: int, base: float, one: float, other: float
) -> None:
    """Outcomes are ordered: pass, inconclusive, fail."""
    order = ["pass", "inconclusive", "fail"]
    few, many = (
        verdict("errors", Evidence(Arm(champion, base * champion), Arm(challenger, x * challenger)))
        for x in sorted((one, other))
    )
    assert order.index(few.outcome) <= order.index(many.outcome)
