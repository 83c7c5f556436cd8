"""What MLflow is told of a rollout, as entries that can wait: pure."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from contract import names
from serve_app.rollouts.evidence import Evidence
from serve_app.rollouts.rollout import Decision, State
from serve_app.rollouts.verdicts import Verdict
from serve_app.routing import Write

_MOST_OF_A_REASON: Final = 400
"""Characters: the ten that a step may have fit into one tag."""

Writes = tuple[Write, ...]


@dataclass(frozen=True)
class Moment:
    """When something is decided, on what, and at which share of the clients."""

    at: float
    """In seconds since the epoch."""
    number: int
    """Greater than that of any entry before."""
    weight: float
    evidence: Evidence


def step(
    state: State,
    action: str,
    reasons: Sequence[str],
    moment: Moment,
    decision: Decision | None = None,
) -> Writes:
    """Return the entries of a rollout that goes on in another state."""
    return (
        _decided(state, action, reasons, moment, decision),
        Write("model_tag", key=names.TAG_ROLLOUT_STATE, value=state_text(state, moment.weight)),
    )


def state_text(state: State, weight: float) -> str:
    """Return what a tag of the model holds while a rollout is under way."""
    return json.dumps({**state.to_json(), "weight": weight})


def state_of(text: str) -> tuple[State | None, float | None]:
    """Return the rollout in such a tag, and which share of the clients it had, if it says so.

    None of both if it is none of ours.
    """
    with suppress(ValueError, RecursionError):
        content = json.loads(text)
        weight = content.pop("weight", None) if isinstance(content, dict) else None
        return State.from_json(content), weight if isinstance(weight, float) else None
    return None, None


def ending(
    state: State, outcome: str, reasons: Sequence[str], moment: Moment, decision: Decision | None
) -> Writes:
    """Return the entries of a rollout's end; `outcome` is PROMOTED or ABORTED."""
    return (
        _decided(state, outcome, reasons, moment, decision),
        end(state.challenger, outcome, reasons),
        Write("model_tag", key=names.TAG_ROLLOUT_STATE, value=""),
    )


def end(version: str, outcome: str, reasons: Sequence[str]) -> Write:
    """Return the entry that takes the alias from a version, and says why."""
    return Write("end_rollout", version, outcome, "\n".join(reasons))


def refusal(version: str, reason: str) -> Write:
    """Return the entry that says why a version isn't served."""
    return Write("version_tag", version, names.TAG_REFUSED, reason[: names.LONGEST_TAG])


def taking_back(state: State) -> Write:
    """Return the entry that makes the champion champion again."""
    why = "its rollout was aborted while it was promoted"
    return Write("take_back", state.challenger, state.champion, why)


def without(done: Sequence[Write], writes: Writes) -> Writes:
    """Return what is left to do; a table that was adopted meanwhile may lack what is done."""
    at = 0
    for write in done:
        if writes[at : at + 1] == (write,):
            at += 1
    return writes[at:]


def time_text(at: float) -> str:
    """Return a time in UTC (ISO 8601)."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


def _decided(
    state: State, action: str, reasons: Sequence[str], moment: Moment, decision: Decision | None
) -> Write:
    entry = {
        "at": time_text(moment.at),
        "action": action,
        "champion": state.champion,
        "step": state.step,
        "weight": moment.weight,
        "reasons": [reason[:_MOST_OF_A_REASON] for reason in reasons],
        "verdicts": [_numbers(verdict) for verdict in decision.verdicts] if decision else [],
        "evidence": moment.evidence.to_json(),
    }
    if len(text := json.dumps(entry)) > names.LONGEST_TAG:
        text = json.dumps({**entry, "verdicts": []})
    key = f"{names.TAG_ROLLOUT_DECISION}.{moment.number}"
    return Write("version_tag", state.challenger, key, text)


def _numbers(verdict: Verdict) -> Mapping[str, Any]:
    """Return a verdict without its sentence: those that count are among the reasons."""
    return {"metric": verdict.metric, "outcome": verdict.outcome, **verdict.numbers}
