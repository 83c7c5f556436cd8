"""Moves of the aliases `champion`, `previous` and `challenger`, by jobs, by people, by rollouts.

Each is made under the lock, and each move of `champion` is on record.
"""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple

from mlflow.exceptions import MlflowException

from contract import names
from contract.lock import Lease, PromotionLock
from contract.registry import NOT_FOUND, Candidate, NoSuchVersionError, Registry
from contract.standing import Promotion, Standing, moves, standing, started_moves


class ChampionMovedError(Exception):
    """The champion is no longer the one that the candidate was compared with."""


class ChallengerDroppedError(Exception):
    """No rollout of this version is under way any more: it was aborted, or has ended well."""


class NoPreviousChampionError(Exception):
    """There is no champion before this one to go back to."""


class Placement(NamedTuple):
    """Where a candidate's version stands now, and whether this call moved an alias to it."""

    version: str
    moved: bool
    standing: Standing


@dataclass(frozen=True)
class Promoter:
    """Moves the aliases of one model.

    No two moves of `champion` are under way at once, and any that was cut off is finished by the
    same call again; each method says what is left meanwhile.
    """

    registry: Registry
    lock: PromotionLock

    def promote_candidate(
        self, candidate: Candidate, judged_against: str | None, reason: str
    ) -> Placement:
        """Register the candidate and make it champion; challenger, where rollouts decide on that.

        A version of the same fingerprint that has come further than being registered is returned
        as it is. Raises ChampionMovedError, with nothing written, if the champion isn't the one
        that the gate judged against.

        A crash after the registration leaves a version without an alias, and the same call
        finishes it. `challenger` then moves in one step, to the newest: it names the version
        before or this one. Of a crash while `champion` moves, `_move` tells.
        """
        with self.lock.hold() as lease:
            existing = self.registry.find(candidate.fingerprint)
            registered = self.registry.registered()
            if existing is not None:
                version = str(existing.version)
                where = standing(version, existing.tags, registered)
                if where != "unfinished":
                    return Placement(version, False, where)
            if registered.champion != judged_against:
                raise ChampionMovedError
            lease.check()
            version = str(self.registry.register(candidate).version)
            if registered.takes_challengers and version != registered.champion:
                self._point(lease, names.CHALLENGER, version)
                return Placement(version, True, "challenger")
            return Placement(version, self._move(lease, version, reason), "promoted")

    def promote_version(self, version: str, reason: str) -> bool:
        """Make a version champion by hand; return whether it was not champion already.

        Raises NoSuchVersionError.
        """
        with self.lock.hold() as lease:
            self.registry.get(version)
            return self._move(lease, version, reason)

    def roll_back(self, reason: str) -> str:
        """Make `previous` champion again and return its version; the two aliases swap.

        A rollback that was cut off after `champion` had moved is finished, not taken back. Raises
        NoPreviousChampionError.
        """
        with self.lock.hold() as lease:
            aliases = self.registry.aliases()
            champion, version = aliases.get(names.CHAMPION), aliases.get(names.PREVIOUS)
            if champion is not None and self._is_cut_off_rollback(champion):
                version = champion
            elif version is None or version == champion:
                raise NoPreviousChampionError(
                    f"model {self.registry.model_name!r} has no previous champion to roll back to; "
                    "name a version with: python -m train promote --version N --reason TEXT"
                )
            self._move(lease, version, reason, is_rollback=True)
            return version

    def promote_challenger(
        self, version: str, judged_against: str, reason: str, who: str | None = None
    ) -> bool:
        """Make a version champion that a rollout found good; return whether `champion` moved.

        False if it was champion already, as after a crash, when this finishes the rest. A newer
        version waits under `challenger` as before. Raises, with nothing written,
        ChampionMovedError if the champion isn't `judged_against`, ChallengerDroppedError if the
        rollout has ended while this call waited, NoSuchVersionError.
        """
        with self.lock.hold() as lease:
            self.registry.get(version)
            registered = self.registry.registered()
            if registered.champion not in (judged_against, version):
                raise ChampionMovedError
            # A call that nobody waits for any more must not undo an abort or a rollback.
            if version != registered.champion and version not in registered.named_challengers:
                raise ChallengerDroppedError(version)
            return self._move(lease, version, reason, who=who)

    def take_back(self, version: str, champion: str, reason: str, who: str | None = None) -> bool:
        """Make `champion` champion again if `version` is; return whether that was so.

        For a rollout that was aborted while its promotion was under way. A version that was made
        champion by somebody else meanwhile stays. Nothing is `previous` then: it would be the
        version that is no good. Raises NoSuchVersionError.
        """
        with self.lock.hold() as lease:
            if self.registry.champion() != version:
                return False
            self.registry.get(champion)
            self._move(lease, champion, reason, who=who)
            lease.check()
            model_name = self.registry.model_name
            self.registry.client.delete_registered_model_alias(model_name, names.PREVIOUS)
            return True

    def drop_challenger(self, version: str, outcome: str, reasons: Iterable[str]) -> bool:
        """Put a rollout's end on the version; return whether `challenger` named it, and is gone.

        `outcome` is PROMOTED or ABORTED of contract/names.py. A newer version under the alias
        stays. Of a version that was deleted, nothing is left to do. A crash leaves the reasons, or
        reasons and outcome, on record, and the alias in place, which is the last to go; the same
        call finishes it.
        """
        with self.lock.hold() as lease:
            try:
                tags = self.registry.get(version).tags
            except NoSuchVersionError:
                return False
            if self.registry.champion() == version:
                self._settle(lease, version)
            text = "\n".join(reasons)[: names.LONGEST_TAG]
            for key, value in (
                (names.TAG_ROLLOUT_REASONS, text),
                (names.TAG_ROLLOUT_OUTCOME, outcome),
            ):
                if tags.get(key) != value:
                    self._tag(lease, version, key, value)
            return self._remove_challenger(lease, version)

    def _is_cut_off_rollback(self, champion: str) -> bool:
        tags = self.registry.get(champion).tags
        return any(move.is_rollback for move in started_moves(champion, tags))

    def _move(
        self,
        lease: Lease,
        version: str,
        reason: str,
        *,
        who: str | None = None,
        is_rollback: bool = False,
    ) -> bool:
        """Point the aliases, in an order from which any crash can be recovered.

        First the intent is put on the new version, then `previous` on the old champion, then
        `champion` on the new one. A crash before the last step leaves the old champion, which the
        gate let pass, in its place, and the same command finishes the rest. The other order could
        leave a `previous` from before the old champion, and a rollback would go too far. A
        rollback takes the other order: it finds its version by `previous`.
        """
        champion = self.registry.champion()
        if champion is not None:
            self._settle(lease, champion)
        if champion == version:
            return False
        self._abandon_moves(lease, version)
        move = Promotion(
            number=self._next_number(lease, champion, version),
            from_version=champion,
            to_version=version,
            reason=reason,
            who=who or user(),
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            is_rollback=is_rollback,
        )
        self._record(lease, version, move)
        if champion is not None and not is_rollback:
            self._point(lease, names.PREVIOUS, champion)
        self._point(lease, names.CHAMPION, version)
        self._conclude(lease, move)
        return True

    def _next_number(self, lease: Lease, *versions: str | None) -> int:
        """Return the lock's number, or a higher one if `mlflow gc` has made those begin anew."""
        known = [self.registry.get(version).tags for version in versions if version is not None]
        return max([lease.number, *(move.number + 1 for tags in known for move in moves(tags))])

    def _settle(self, lease: Lease, champion: str) -> None:
        """Finish the record of a move that was cut off after the alias had moved."""
        for move in started_moves(champion, self.registry.get(champion).tags):
            self._conclude(lease, move)

    def _abandon_moves(self, lease: Lease, version: str) -> None:
        """Close the record of a move that was cut off before the alias had moved."""
        for move in started_moves(version, self.registry.get(version).tags):
            self._record(lease, version, replace(move, state="abandoned"))

    def _conclude(self, lease: Lease, move: Promotion) -> None:
        """Do what comes after the move, and put its end on record, last where `standing` looks."""
        done = replace(move, state="done")
        if move.from_version is not None:
            try:
                if move.is_rollback:
                    self._point(lease, names.PREVIOUS, move.from_version)
                self._record(lease, move.from_version, done)
            except MlflowException as error:
                if error.error_code not in NOT_FOUND:
                    raise  # else that version was deleted meanwhile
        # Or else, rolled back one day, it would get another rollout.
        self._remove_challenger(lease, move.to_version)
        self._record(lease, move.to_version, done)

    def _remove_challenger(self, lease: Lease, version: str) -> bool:
        """Remove what names this version as challenger; return whether the alias did."""
        registered, model_name = self.registry.registered(), self.registry.model_name
        if registered.under_way == version:
            lease.check()
            self.registry.client.set_registered_model_tag(model_name, names.TAG_ROLLOUT_STATE, "")
        if registered.aliases.get(names.CHALLENGER) != version:
            return False
        lease.check()
        self.registry.client.delete_registered_model_alias(model_name, names.CHALLENGER)
        return True

    def _point(self, lease: Lease, alias: str, version: str) -> None:
        lease.check()
        self.registry.client.set_registered_model_alias(self.registry.model_name, alias, version)

    def _record(self, lease: Lease, version: str, move: Promotion) -> None:
        key = f"{names.TAG_PROMOTION}.{move.number:06d}"
        self._tag(lease, version, key, json.dumps(asdict(move), ensure_ascii=False))

    def _tag(self, lease: Lease, version: str, key: str, value: str) -> None:
        lease.check()
        self.registry.client.set_model_version_tag(self.registry.model_name, version, key, value)


def user() -> str:
    """Return who runs this, as far as the system knows."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run as a number that has no name
        return "unknown"
