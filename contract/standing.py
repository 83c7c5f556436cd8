"""What a registered model's aliases and tags say of its versions: pure functions of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import Field, TypeAdapter

from contract import names

Standing = Literal["unfinished", "challenger", "aborted", "promoted"]
"""How far a version has come. `unfinished`: registered, but no alias ever named it; or what named
it was cut off half-way; or it was a challenger that a newer one displaced before its rollout began.
`challenger`: a rollout decides on it, or will. `aborted`: a rollout has decided against it.
`promoted`: it is champion, or was."""


HIGHEST: Final = 10**9
"""Number that a recorded move may have: the next one's must fit into the name of a tag."""

_Version = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]


@dataclass(frozen=True)
class Promotion:
    """One move of the alias, as it is recorded on both versions; numbers only grow.

    A move that was cut off before the alias moved stays `started` until another move to the same
    version is made, which marks it `abandoned`.
    """

    number: Annotated[int, Field(ge=0, le=HIGHEST)]
    from_version: _Version | None
    to_version: _Version
    reason: str
    who: str
    at: str
    state: Literal["started", "done", "abandoned"] = "started"
    is_rollback: bool = False


_RECORD: Final = TypeAdapter(Promotion)


def moves(tags: Mapping[str, str]) -> list[Promotion]:
    """Return the moves recorded in a version's tags, oldest first; what is no move is left out."""
    found = []
    for key in sorted(key for key in tags if key.startswith(f"{names.TAG_PROMOTION}.")):
        with suppress(ValueError):  # not ours
            found.append(_RECORD.validate_json(tags[key], strict=True))
    return found


def started_moves(version: str, tags: Mapping[str, str]) -> list[Promotion]:
    """Return the moves to a version whose end isn't on its record."""
    return [m for m in moves(tags) if m.to_version == version and m.state == "started"]


@dataclass(frozen=True)
class Registered:
    """A registered model at one moment: version by alias, and its own tags."""

    aliases: Mapping[str, str]
    tags: Mapping[str, str]

    @property
    def champion(self) -> str | None:
        """The version that the alias `champion` names."""
        return self.aliases.get(names.CHAMPION)

    @property
    def takes_challengers(self) -> bool:
        """Whether the next version becomes challenger: the first of all becomes champion."""
        return self.tags.get(names.TAG_ROLLOUTS) == names.ON and self.champion is not None

    @property
    def challengers(self) -> frozenset[str]:
        """The versions on which a rollout decides or will: the one under way, the one next.

        None if there are no rollouts, or there's no champion to compare with.
        """
        return self.named_challengers if self.takes_challengers else frozenset()

    @property
    def named_challengers(self) -> frozenset[str]:
        """The versions that alias and record name so, whether or not there are rollouts."""
        named = {self.aliases.get(names.CHALLENGER), self.under_way}
        return frozenset(version for version in named if version is not None)

    @property
    def under_way(self) -> str | None:
        """The version whose rollout is under way, by the record of whoever runs it."""
        try:
            state = json.loads(self.tags.get(names.TAG_ROLLOUT_STATE) or "{}")
        except (ValueError, RecursionError):  # not ours
            return None
        version = state.get("challenger") if isinstance(state, dict) else None
        return version if isinstance(version, str) else None


def standing(version: str, tags: Mapping[str, str], registered: Registered) -> Standing:
    """Say how far a version has come, by its tags and its model's.

    A champion with no move on record was made champion on MLflow's page; it counts as promoted.
    """
    if registered.champion == version:
        return "unfinished" if started_moves(version, tags) else "promoted"
    if version in registered.challengers:
        return "challenger"
    if any(move.to_version == version and move.state == "done" for move in moves(tags)):
        return "promoted"
    if tags.get(names.TAG_ROLLOUT_OUTCOME) == names.ABORTED:
        return "aborted"
    return "unfinished"
