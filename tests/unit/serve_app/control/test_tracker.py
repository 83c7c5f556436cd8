"""What others have written into MLflow's tags stops nobody from looking at the aliases."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from contract import names
from serve_app.control import record
from serve_app.control.port import Seen
from serve_app.control.tracker import MlflowTracker
from serve_app.rollouts.rollout import State
from serve_app.settings import Settings

STATE = State(number=7, champion="5", challenger="4", step=0, step_began=0.0)


class Client:
    """MLflow's client, for a model with this tag."""

    def __init__(self, state: str) -> None:
        self._tags = {names.TAG_ROLLOUT_STATE: state, names.TAG_ROLLOUTS: names.ON}

    def get_registered_model(self, name: str) -> Any:
        """Return the model."""
        aliases = {names.CHAMPION: "5", names.CHALLENGER: "4"}
        return SimpleNamespace(aliases=aliases, tags=self._tags)


def look(monkeypatch: pytest.MonkeyPatch, state: str) -> Seen:
    """Return what is seen of a model with this tag."""
    monkeypatch.setattr("contract.tracking.connect", lambda uri, *, writes: Client(state))
    return MlflowTracker(Settings()).look()


def test_the_rollout_under_way_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was recorded; an empty tag is none."""
    assert look(monkeypatch, record.state_text(STATE, 0.5)) == Seen("5", "4", STATE, None, 0.5)
    assert look(monkeypatch, json.dumps(STATE.to_json())) == Seen("5", "4", STATE)
    assert look(monkeypatch, "") == Seen("5", "4", None)


@pytest.mark.parametrize(
    "state",
    [
        "x",
        "[]",
        "null",
        "[" * 4_900,
        '{"a":' * 900,
        json.dumps({**STATE.to_json(), "number": "\ud800"}),
        json.dumps({**STATE.to_json(), "step": 1.5}),
        json.dumps({**STATE.to_json(), "more": 1}),
        "1" * 4_900,
    ],
)
def test_a_rollout_that_is_none_is_not_seen(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    """The aliases are, and are followed."""
    assert look(monkeypatch, state) == Seen("5", "4", None)
