"""Moves of the alias `champion`, each under the lock and each on record."""

from __future__ import annotations

import getpass
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from mlflow.entities.model_registry import ModelVersion

from contract import names
from train.errors import BadSettingsError
from train.lock import Lease, PromotionLock
from train.registry import Candidate, Registry


class ChampionMovedError(Exception):
    """The champion is no longer the one that the gate compared with."""


@dataclass(frozen=True)
class Promotion:
    """One move of the alias, as it is recorded on both versions; numbers only grow."""

    number: int
    from_version: str | None
    to_version: str
    reason: str
    who: str
    at: str
    state: Literal["started", "done"] = "started"


@dataclass(frozen=True)
class Promoter:
    """Moves `champion` and `previous`, for jobs and for people alike."""

    registry: Registry
    lock: PromotionLock

    def promote_candidate(
        self, candidate: Candidate, judged_against: str | None, reason: str
    ) -> tuple[str, bool]:
        """Register the candidate and make it champion; return its version and whether it moved.

        A version of the same fingerprint that another job has promoted meanwhile is returned as
        it is. Raises ChampionMovedError, with nothing written, if the champion isn't the one
        that the gate judged against.
        """
        with self.lock.hold() as lease:
            existing = self.registry.find(candidate.fingerprint)
            if existing is not None and self.was_promoted(existing):
                return existing.version, False
            if self.registry.champion() != judged_against:
                raise ChampionMovedError
            lease.check()
            version = self.registry.register(candidate).version
            return version, self._move(lease, version, reason)

    def promote_version(self, version: str, reason: str) -> bool:
        """Make a version champion by hand; return whether it was not champion already."""
        with self.lock.hold() as lease:
            self.registry.get(version)
            return self._move(lease, version, reason)

    def roll_back(self, reason: str) -> str:
        """Make `previous` champion again and return its version; the two aliases swap."""
        with self.lock.hold() as lease:
            aliases = self.registry.aliases()
            version = aliases.get(names.PREVIOUS)
            if version is None or version == aliases.get(names.CHAMPION):
                raise BadSettingsError(
                    f"model {self.registry.model_name!r} has no previous champion to roll back to; "
                    "name a version with: python -m train promote --version N --reason TEXT"
                )
            self._move(lease, version, reason)
            return version

    def was_promoted(self, version: ModelVersion) -> bool:
        """Say whether a version is champion, or was: no move to it may be cut off half-way.

        A champion with no move on record was made champion on MLflow's page.
        """
        states = [m.state for m in moves(version.tags) if m.to_version == version.version]
        if self.registry.champion() == version.version:
            return "started" not in states
        return "done" in states

    def _move(self, lease: Lease, version: str, reason: str) -> bool:
        """Point the aliases, in an order from which any crash can be recovered.

        First the intent is put on the new version, then `previous` on the old champion, then
        `champion` on the new one. A crash before the last step leaves the old champion, which the
        gate let pass, in its place, and the same command finishes the rest. The other order could
        leave a `previous` from before the old champion, and a rollback would go too far.
        """
        champion = self.registry.champion()
        if champion == version:
            self._settle(lease, version)
            return False
        move = Promotion(
            number=lease.number,
            from_version=champion,
            to_version=version,
            reason=reason,
            who=user(),
            at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self._record(lease, version, move)
        if champion is not None:
            self._point(lease, names.PREVIOUS, champion)
        self._point(lease, names.CHAMPION, version)
        self._conclude(lease, move)
        return True

    def _settle(self, lease: Lease, champion: str) -> None:
        """Finish the record of a move that was cut off after the alias had moved."""
        for move in moves(self.registry.get(champion).tags):
            if move.state == "started" and move.to_version == champion:
                self._conclude(lease, move)

    def _conclude(self, lease: Lease, move: Promotion) -> None:
        """Put the finished move on both versions, last on that where `was_promoted` looks."""
        done = replace(move, state="done")
        if move.from_version is not None:
            self._record(lease, move.from_version, done)
        self._record(lease, move.to_version, done)

    def _point(self, lease: Lease, alias: str, version: str) -> None:
        lease.check()
        self.registry.client.set_registered_model_alias(self.registry.model_name, alias, version)

    def _record(self, lease: Lease, version: str, move: Promotion) -> None:
        lease.check()
        key = f"{names.TAG_PROMOTION}.{move.number:06d}"
        value = json.dumps(asdict(move), ensure_ascii=False)
        self.registry.client.set_model_version_tag(self.registry.model_name, version, key, value)


def moves(tags: Mapping[str, str]) -> list[Promotion]:
    """Return the moves recorded in a version's tags, oldest first."""
    keys = sorted(key for key in tags if key.startswith(f"{names.TAG_PROMOTION}."))
    return [Promotion(**json.loads(tags[key])) for key in keys]


def user() -> str:
    """Return who runs this, as far as the system knows."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run as a number that has no name
        return "unknown"
