"""How far a version has come, told from tags and aliases alone."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Literal

import pytest

from contract import names
from contract.standing import Promotion, Registered, Standing, moves, standing, started_moves

ON = {names.TAG_ROLLOUTS: names.ON}
ABORTED = {names.TAG_ROLLOUT_OUTCOME: names.ABORTED}


def moved(
    to_version: str, state: Literal["started", "done", "abandoned"] = "done", number: int = 1
) -> dict[str, str]:
    """Return the tag of a move."""
    move = Promotion(number, None, to_version, "passed", "me", "2026-01-01T00:00:00+00:00", state)
    return {f"{names.TAG_PROMOTION}.{number:06d}": json.dumps(asdict(move))}


def under_way(version: str) -> dict[str, str]:
    """Return the tags of a model with a rollout under way."""
    return {**ON, names.TAG_ROLLOUT_STATE: json.dumps({"number": 7, "challenger": version})}


@pytest.mark.parametrize(
    ("aliases", "model_tags", "tags", "expected"),
    [
        ({}, {}, {}, "unfinished"),
        ({names.CHAMPION: "1"}, ON, {}, "unfinished"),
        ({names.CHAMPION: "2"}, {}, {}, "promoted"),
        ({names.CHAMPION: "2"}, ON, moved("2"), "promoted"),
        ({names.CHAMPION: "2"}, ON, ABORTED, "promoted"),
        ({names.CHAMPION: "2"}, ON, moved("2", "started"), "unfinished"),
        ({names.CHAMPION: "2", names.CHALLENGER: "2"}, ON, moved("2", "started"), "unfinished"),
        ({names.CHAMPION: "2"}, ON, moved("2", "abandoned"), "promoted"),
        ({names.CHAMPION: "1"}, ON, moved("2", "abandoned"), "unfinished"),
        ({names.CHAMPION: "1"}, {}, moved("2", "started"), "unfinished"),
        ({names.CHAMPION: "1"}, ON, moved("2"), "promoted"),
        # A move away from it is no promotion of it.
        ({names.CHAMPION: "3"}, ON, moved("3"), "unfinished"),
        ({names.CHAMPION: "1", names.CHALLENGER: "2"}, ON, {}, "challenger"),
        ({names.CHAMPION: "1", names.CHALLENGER: "2"}, ON, moved("2", "started"), "challenger"),
        ({names.CHAMPION: "1", names.CHALLENGER: "2"}, ON, ABORTED, "challenger"),
        ({names.CHAMPION: "1", names.CHALLENGER: "3"}, ON, {}, "unfinished"),
        ({names.CHAMPION: "1", names.CHALLENGER: "3"}, under_way("2"), {}, "challenger"),
        ({names.CHAMPION: "1"}, ON, ABORTED, "aborted"),
        ({names.CHAMPION: "1"}, {}, ABORTED, "aborted"),
        ({names.CHAMPION: "1"}, ON, {**ABORTED, **moved("2")}, "promoted"),
        # Nobody decides on it: no rollouts, or no champion to compare with.
        ({names.CHAMPION: "1", names.CHALLENGER: "2"}, {}, {}, "unfinished"),
        ({names.CHALLENGER: "2"}, ON, {}, "unfinished"),
    ],
)
def test_standing_of_version_2(
    aliases: dict[str, str], model_tags: dict[str, str], tags: dict[str, str], expected: Standing
) -> None:
    """What is champion or in a rollout comes before what a version has been."""
    assert standing("2", tags, Registered(aliases, model_tags)) == expected


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", '{"challenger": null}', '{"challenger": [2]}', "[" * 4_900],
)
def test_state_of_a_rollout_that_says_nothing_names_no_challenger(text: str) -> None:
    """It is empty when none is under way; what others wrote there is passed over."""
    registered = Registered({names.CHAMPION: "1"}, {**ON, names.TAG_ROLLOUT_STATE: text})
    assert registered.challengers == frozenset()


@pytest.mark.parametrize(
    ("aliases", "tags", "expected"),
    [
        ({names.CHAMPION: "1"}, ON, True),
        ({}, ON, False),
        ({names.CHAMPION: "1"}, {}, False),
        ({names.CHAMPION: "1"}, {names.TAG_ROLLOUTS: names.OFF}, False),
        ({names.CHAMPION: "1"}, {names.TAG_ROLLOUTS: "perhaps"}, False),
    ],
)
def test_next_version_is_challenger_only_beside_a_champion_with_rollouts_on(
    aliases: dict[str, str], tags: dict[str, str], expected: bool
) -> None:
    """The first of all is champion, and so is every one while nobody runs rollouts."""
    assert Registered(aliases, tags).takes_challengers == expected


def test_moves_are_told_oldest_first() -> None:
    """By their numbers, whatever the order of the tags."""
    tags = {**moved("3", number=12), **moved("2", number=9), "other": "tag"}
    assert [move.number for move in moves(tags)] == [9, 12]


RECORD = json.loads(moved("2")[f"{names.TAG_PROMOTION}.000001"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "{}",
        "[]",
        "null",
        "[" * 4_900,
        "\ud800",
        json.dumps({**RECORD, "number": "1"}),
        json.dumps({**RECORD, "number": 1.5}),
        json.dumps({**RECORD, "number": -1}),
        json.dumps({**RECORD, "number": 10**220}),
        json.dumps({**RECORD, "from_version": "../1"}),
        json.dumps({**RECORD, "to_version": 2}),
        json.dumps({**RECORD, "reason": "\ud800"}),
        json.dumps({**RECORD, "state": "odd"}),
        json.dumps({**RECORD, "is_rollback": "no"}),
    ],
)
def test_a_tag_that_records_no_move_is_passed_over(text: str) -> None:
    """Whoever wrote it: no promotion and no rollback fails by it."""
    tags = {f"{names.TAG_PROMOTION}.000000": text, **moved("2", "started", number=9)}
    assert [move.number for move in moves(tags)] == [9]
    assert [move.number for move in started_moves("2", tags)] == [9]
    assert standing("2", tags, Registered({names.CHAMPION: "2"}, {})) == "unfinished"
