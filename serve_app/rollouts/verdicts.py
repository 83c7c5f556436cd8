"""Is the challenger worse? One verdict for each metric, with its numbers.

Each metric says how much worse the challenger is, as bounds that hold at every look of the step
at once (`bounds.py`). Surely above `fail_above` fails, surely below `pass_below` passes, all else
is inconclusive. Chances of error add up at most (Bonferroni): alpha is split evenly over the
metrics, each part over the steps, and where two versions have bounds of their own, between these.
Quality is one long comparison over all steps, so its part stays whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from serve_app.rollouts.bounds import interval
from serve_app.rollouts.evidence import Evidence, Pairs
from serve_app.rollouts.policy import Policy, Tolerance

METRICS: Final = ("errors", "missing", "time", "shift", "quality")

NO_DATA: Final = {
    "errors": "no requests to both versions yet",
    "missing": "no requests to both versions yet",
    "time": "no calls timed yet",
    "shift": "no predictions compared yet",
    "quality": "no labels yet",
}

Outcome = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one metric says, why in a sentence, and the numbers behind it."""

    metric: str
    outcome: Outcome
    reason: str
    numbers: Mapping[str, float]


def judge(policy: Policy, evidence: Evidence) -> tuple[Verdict, ...]:
    """Return one verdict for each of METRICS, in their order, on what one step has seen."""
    whole = policy.alpha / len(METRICS)
    alpha = whole / len(policy.steps)
    champion, challenger = evidence.champion, evidence.challenger
    arms = champion.requests, challenger.requests
    errors = Pairs(arms[0], champion.errors), Pairs(arms[1], challenger.errors)
    missing = Pairs(arms[0], champion.missing), Pairs(arms[1], challenger.missing)
    longer = f"calls over {policy.slower_factor:g} times and {policy.slower_by_s:g} s longer"
    return (
        _between("errors", "records failed", *errors, policy.errors, alpha),
        _between("missing", "predictions missing", *missing, policy.missing, alpha),
        _paired("time", longer, evidence.time, policy.time, alpha),
        _paired("shift", "records predicted otherwise", evidence.shift, policy.shift, alpha),
        _paired("quality", "labels further off", evidence.quality, policy.quality, whole),
    )


def required(policy: Policy) -> tuple[str, ...]:
    """Return the metrics that must pass before a step is done."""
    return METRICS if policy.quality_required else METRICS[:-1]


def _between(
    metric: str, what: str, champion: Pairs, challenger: Pairs, tolerance: Tolerance, alpha: float
) -> Verdict:
    """Judge by the difference of two versions' shares, each with bounds of its own."""
    if not (champion.count and challenger.count):
        return Verdict(metric, "inconclusive", f"{metric}: {NO_DATA[metric]}", {})
    least, most = interval(champion.total, champion.count, alpha / 2)
    low, high = interval(challenger.total, challenger.count, alpha / 2)
    shares = challenger.total / challenger.count, champion.total / champion.count
    facts = (
        f"{shares[0]:.2%} of {what} in {challenger.count} requests to the challenger, "
        f"{shares[1]:.2%} in {champion.count} to the champion, {shares[0] - shares[1]:+.2%}"
    )
    numbers = {
        "challenger_requests": challenger.count,
        "challenger_share": shares[0],
        "champion_requests": champion.count,
        "champion_share": shares[1],
    }
    return _verdict(metric, facts, (low - most, high - least), tolerance, numbers)


def _paired(metric: str, what: str, pairs: Pairs, tolerance: Tolerance, alpha: float) -> Verdict:
    """Judge by one share, over requests that both versions ran on the same rows."""
    if not pairs.count:
        return Verdict(metric, "inconclusive", f"{metric}: {NO_DATA[metric]}", {})
    share = pairs.total / pairs.count
    facts = f"{share:.2%} of {what} in {pairs.count} requests to both versions"
    bounds = interval(pairs.total, pairs.count, alpha)
    return _verdict(metric, facts, bounds, tolerance, {"requests": pairs.count, "share": share})


def _verdict(
    metric: str,
    facts: str,
    bounds: tuple[float, float],
    tolerance: Tolerance,
    numbers: Mapping[str, float],
) -> Verdict:
    low, high = bounds
    outcome: Outcome = "inconclusive"
    where = f"neither above {tolerance.fail_above:.2%} nor below {tolerance.pass_below:.2%}"
    if low > tolerance.fail_above:
        outcome, where = "fail", f"all of it above {tolerance.fail_above:.2%}"
    elif high < tolerance.pass_below:
        outcome, where = "pass", f"all of it below {tolerance.pass_below:.2%}"
    reason = f"{metric}: {facts}: interval {low:.2%} to {high:.2%}, {where}"
    limits = {"fail_above": tolerance.fail_above, "pass_below": tolerance.pass_below}
    return Verdict(metric, outcome, reason, {**numbers, "low": low, "high": high, **limits})
