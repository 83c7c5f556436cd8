"""What happens next in a rollout: pure functions of the policy, the state, what was seen, and now.

Whoever carries it out begins each step with `Evidence.at_next_step`, counts only what that step's
traffic has shown, and asks again as often as it likes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field

from contract import strict
from serve_app.rollouts.evidence import Evidence
from serve_app.rollouts.policy import Policy
from serve_app.rollouts.verdicts import Outcome, Verdict, judge, required

Action = Literal["hold", "advance", "promote", "abort"]


class CommandError(Exception):
    """A command that makes no sense in the rollout's state; the message says why."""


@dataclass(frozen=True, slots=True)
class State:
    """Where a rollout is. Times are in seconds since the epoch; `step` counts from 0.

    While it is paused, its clock stands still: at the resumption, `step_began` moves on by as long
    as the pause was.
    """

    number: int
    champion: str
    challenger: str
    step: int
    step_began: float
    paused_at: float | None = None

    @property
    def is_paused(self) -> bool:
        """Whether someone has stopped the clock."""
        return self.paused_at is not None

    def elapsed_s(self, now: float) -> float:
        """Return how long the step has run, without pauses; a clock set back makes it 0."""
        until = now if self.paused_at is None else self.paused_at
        return max(0.0, until - self.step_began)

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """Return what `to_json` was called on; raises ValueError on other content."""
        return cls(**_Content.model_validate(content).model_dump())


class _Content(strict.Strict):
    """A `State` as JSON has it."""

    model_config = ConfigDict(strict=True)

    number: int
    champion: str
    challenger: str
    step: int = Field(ge=0)
    step_began: float
    paused_at: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and why; the verdicts stand behind it, unless a person has decided."""

    action: Action
    reasons: tuple[str, ...]
    verdicts: tuple[Verdict, ...] = ()


def decide(policy: Policy, state: State, evidence: Evidence, now: float) -> Decision:
    """Return what happens next, on all that was seen since the step began, one of the policy's.

    A fail aborts at once, even while paused; then a pause holds. A step is done when its least
    time and number and all required metrics are there; past its deadline it aborts.
    """
    verdicts = judge(policy, evidence)
    if failed := _reasons(verdicts, "fail"):
        return Decision("abort", failed, verdicts)
    if state.is_paused:
        return Decision("hold", ("paused: the step's clock stands still",), verdicts)
    open_points = _open_points(policy, state, evidence, verdicts, now)
    if not open_points:
        is_last = state.step == len(policy.steps) - 1
        return Decision("promote" if is_last else "advance", _reasons(verdicts, "pass"), verdicts)
    if state.elapsed_s(now) > policy.max_step_s:
        return Decision("abort", (_late(policy, state, evidence), *open_points), verdicts)
    return Decision("hold", open_points, verdicts)


def advanced(state: State, now: float) -> State:
    """Return the state at the beginning of the next step."""
    return replace(state, step=state.step + 1, step_began=now)


def begun_anew(state: State, now: float) -> State:
    """Return the state at the beginning of the same step, for whoever has seen nothing of it."""
    return replace(state, step_began=now, paused_at=now if state.is_paused else None)


def at_weight(policy: Policy, state: State, weight: float | None) -> State:
    """Return the state at the step of a policy that may have changed since it began.

    That is its own step if that has the weight which was reached, else the last one that has no
    more; the first if that isn't known.
    """
    weights = [step.weight for step in policy.steps]
    if weight is not None and weights[state.step : state.step + 1] == [weight]:
        return state
    fitting = [at for at, one in enumerate(weights) if weight is not None and one <= weight]
    return replace(state, step=max(fitting, default=0))


def pause(state: State | None, now: float) -> State:
    """Return the state with its clock stopped; raises CommandError if it is already."""
    state = _under_way(state)
    if state.is_paused:
        raise CommandError(f"rollout {state.number} is paused already")
    return replace(state, paused_at=now)


def resume(state: State | None, now: float) -> State:
    """Return the state with its clock running on; raises CommandError if it was not stopped."""
    state = _under_way(state)
    if state.paused_at is None:
        raise CommandError(f"rollout {state.number} is not paused")
    pause_s = max(0.0, now - state.paused_at)
    return replace(state, step_began=state.step_began + pause_s, paused_at=None)


def promote(state: State | None, reason: str) -> Decision:
    """Return a person's decision to skip the steps left; raises CommandError without a rollout."""
    _under_way(state)
    return Decision("promote", (f"by hand: {reason}",))


def abort(state: State | None, reason: str) -> Decision:
    """Return a person's decision to go back; raises CommandError without a rollout."""
    _under_way(state)
    return Decision("abort", (f"by hand: {reason}",))


def _under_way(state: State | None) -> State:
    if state is None:
        raise CommandError("no rollout is under way")
    return state


def _reasons(verdicts: tuple[Verdict, ...], outcome: Outcome) -> tuple[str, ...]:
    return tuple(verdict.reason for verdict in verdicts if verdict.outcome == outcome)


def _open_points(
    policy: Policy, state: State, evidence: Evidence, verdicts: tuple[Verdict, ...], now: float
) -> tuple[str, ...]:
    """What the step still lacks, a sentence for each; empty when it is done."""
    step, judged = policy.steps[state.step], evidence.challenger.requests
    points = []
    if (elapsed_s := state.elapsed_s(now)) < step.min_s:
        points.append(f"{elapsed_s:.0f} s of at least {step.min_s:g} s have passed")
    if judged < step.min_requests:
        points.append(f"{judged} of at least {step.min_requests} requests have been judged")
    wanted = (verdict for verdict in verdicts if verdict.metric in required(policy))
    return (*points, *(one.reason for one in wanted if one.outcome == "inconclusive"))


def _late(policy: Policy, state: State, evidence: Evidence) -> str:
    is_enough = evidence.challenger.requests >= policy.steps[state.step].min_requests
    why = "still inconclusive" if is_enough else "too little traffic"
    return f"step {state.step + 1} is past its deadline of {policy.max_step_s:g} s: {why}"
