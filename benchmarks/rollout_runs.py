"""One simulated rollout: seeded traffic and a simulated clock around the decision."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import numpy as np

from serve_app.rollouts.evidence import Arm, Evidence, Pairs
from serve_app.rollouts.policy import Policy, Tolerance
from serve_app.rollouts.rollout import Action, State, advanced, decide
from serve_app.rollouts.verdicts import judge

LOOK_S: Final = 5.0
INTERVAL_S: Final = 60.0
"""A fixed check looks at the last minute, as Flagger's and Argo Rollouts' examples do."""

MINIMUM: Final = 50
"""and skips a metric on fewer requests than this."""

MODEL_TIME_S: Final = 0.002
TIME_NOISE: Final = 0.3
"""Standard deviation of the logarithm of either version's time in the model."""

PREDICTION_NOISE: Final = 0.1
"""By how much the versions differ anyhow, in standard deviations of the champion's predictions."""

DRIFT_PERIOD_S: Final = 900.0

Outcome = Literal["promoted", "failed", "deadline"]


@dataclass(frozen=True)
class Scenario:
    """Traffic of one record a request, and by how much the challenger is worse.

    `base_errors` is either version's share of failed requests; with `drifts` it swings by 90%.
    `failing_client` is one client's share of all requests, each of which fails on both versions.
    """

    name: str
    requests_per_s: float = 50.0
    base_errors: float = 0.001
    drifts: bool = False
    failing_client: float = 0.0
    more_errors: float = 0.0
    more_missing: float = 0.0
    times_slower: float = 1.0
    shifted_by: float = 0.0
    shifted_share: float = 1.0
    labelled_share: float = 0.0
    worse_share: float = 0.5

    def errors_at(self, now: float) -> float:
        """The champion's error rate at a time."""
        swing = 0.9 * math.sin(2 * math.pi * now / DRIFT_PERIOD_S) if self.drifts else 0.0
        return self.base_errors * (1 + swing)


@dataclass(frozen=True)
class Run:
    """How a rollout ended, at which step, after how many requests that the challenger answered."""

    outcome: Outcome
    step: int
    live: int
    seconds: float


@cache
def slow_share(times_slower: float, policy: Policy) -> float:
    """The share of calls that count as slower, with log-normal times of both versions."""
    noise = np.exp(np.random.default_rng(0).normal(0, TIME_NOISE, (2, 100_000))) * MODEL_TIME_S
    champion, challenger = noise[0], noise[1] * times_slower
    by_factor = challenger > champion * policy.slower_factor
    return float(np.mean(by_factor & (challenger - champion > policy.slower_by_s)))


def moved_share(scenario: Scenario, policy: Policy) -> float:
    """The share of records that count as predicted otherwise."""

    def beyond(shift: float) -> float:
        away = [
            (policy.shift_distance + sign * shift) / PREDICTION_NOISE / math.sqrt(2)
            for sign in (-1, 1)
        ]
        return sum(math.erfc(one) for one in away) / 2

    moved = scenario.shifted_share * beyond(scenario.shifted_by)
    return moved + (1 - scenario.shifted_share) * beyond(0.0)


class Traffic:
    """What each look adds to the evidence."""

    def __init__(self, scenario: Scenario, policy: Policy, seed: tuple[int, ...]) -> None:
        self._scenario = scenario
        self._shadow = policy.shadow
        self._slow = slow_share(scenario.times_slower, policy)
        self._moved = moved_share(scenario, policy)
        self._random = np.random.default_rng(seed)
        self._client_place = self._random.random()

    def look(self, now: float, weight: float) -> Evidence:
        """Return what the seconds since the last look have shown."""
        scenario = self._scenario
        requests = scenario.requests_per_s * LOOK_S
        if not scenario.failing_client:
            return self._seen(requests, weight, scenario.errors_at(now))
        theirs = scenario.failing_client * requests
        is_in = float(self._client_place < weight)
        others = self._seen(requests - theirs, weight, scenario.errors_at(now))
        return others + self._seen(theirs, is_in, 1.0)

    def _seen(self, expected: float, weight: float, errors: float) -> Evidence:
        """Draw the requests of clients of whom a share `weight` gets the challenger."""
        scenario, draw = self._scenario, self._draw
        requests = int(self._random.poisson(expected))
        live = draw(requests, weight)
        to_challenger = draw(requests - live, self._shadow)
        to_champion = draw(live, self._shadow)
        champion, challenger = requests - live + to_champion, live + to_challenger
        pairs = to_challenger + to_champion
        labels = draw(pairs, scenario.labelled_share)
        failed = draw(challenger, min(1.0, errors + scenario.more_errors))
        return Evidence(
            champion=Arm(champion, draw(champion, errors)),
            challenger=Arm(challenger, failed, draw(challenger, scenario.more_missing)),
            live=live,
            time=Pairs(pairs, draw(pairs, self._slow)),
            shift=Pairs(pairs, draw(pairs, self._moved)),
            quality=Pairs(labels, draw(labels, scenario.worse_share)),
        )

    def _draw(self, count: int, chance: float) -> int:
        return int(self._random.binomial(count, chance)) if count and chance else 0


Check = Callable[[State, Evidence, Evidence, float], tuple[Action, bool]]
"""(state, evidence of the step, of the last look, now) -> what to do, and whether by a verdict."""


def run(scenario: Scenario, policy: Policy, check: Check, seed: tuple[int, ...]) -> Run:
    """Walk one rollout to its end."""
    traffic = Traffic(scenario, policy, seed)
    state, evidence, live, now = State(1, "1", "2", 0, 0.0), Evidence(), 0, 0.0
    while True:
        now += LOOK_S
        seen = traffic.look(now, policy.steps[state.step].weight)
        evidence, live = evidence + seen, live + seen.live
        action, by_verdict = check(state, evidence, seen, now)
        if action == "advance":
            state, evidence = advanced(state, now), evidence.at_next_step()
        elif action == "promote":
            return Run("promoted", state.step, live, now)
        elif action == "abort":
            return Run("failed" if by_verdict else "deadline", state.step, live, now)


def ours(policy: Policy) -> Check:
    """The decision that the service takes."""

    def check(state: State, evidence: Evidence, seen: Evidence, now: float) -> tuple[Action, bool]:
        decision = decide(policy, state, evidence, now)
        return decision.action, any(one.outcome == "fail" for one in decision.verdicts)

    return check


class Fixed:
    """Thresholds on the last minute's shares as they are; the first that is crossed aborts.

    `limit` says which of a tolerance's two numbers is the threshold.
    """

    def __init__(self, policy: Policy, limit: Callable[[Tolerance], float]) -> None:
        self._policy = policy
        self._limit = limit
        self._window = Evidence()
        self._looked_at = 0.0

    def __call__(
        self, state: State, evidence: Evidence, seen: Evidence, now: float
    ) -> tuple[Action, bool]:
        self._window += seen
        step = self._policy.steps[state.step]
        if now - self._looked_at >= INTERVAL_S:
            window, self._window, self._looked_at = self._window, Evidence(), now
            if self._is_crossed(window):
                return "abort", True
        if state.elapsed_s(now) < step.min_s or evidence.challenger.requests < step.min_requests:
            return ("hold" if state.elapsed_s(now) <= self._policy.max_step_s else "abort"), False
        return ("promote" if state.step == len(self._policy.steps) - 1 else "advance"), False

    def _is_crossed(self, window: Evidence) -> bool:
        for verdict in judge(self._policy, window):
            numbers = verdict.numbers
            count = numbers.get("requests", numbers.get("challenger_requests", 0))
            if count < MINIMUM:
                continue
            worse = numbers.get("share", numbers.get("challenger_share", 0.0))
            tolerance: Tolerance = getattr(self._policy, verdict.metric)
            if worse - numbers.get("champion_share", 0.0) > self._limit(tolerance):
                return True
        return False
