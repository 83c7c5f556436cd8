"""The versions that aren't served though an alias names them, and which of them are tried again."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from typing import Final, NamedTuple

from contract import names
from serve_app.model_errors import printable

FETCHES: Final = 3
"""How often a version is fetched in vain, with MLflow answering, before it is refused."""

AGAIN_S: Final = 5.0
"""After which a version is tried again that was refused for want of its files, not for them; each
time it takes twice as long, up to LONGEST_S."""

LONGEST_S: Final = 300.0


class _Refusal(NamedTuple):
    reason: str
    again_at: float | None
    wait_s: float


class Refusals:
    """Why versions are refused. One for good stays so until no alias names it any more."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._refused: dict[str, _Refusal] = {}
        self._failed_fetches: dict[str, int] = {}
        self._told: set[str] = set()
        """All of which a refusal was told, to be taken back should one of them be served."""

    def __contains__(self, version: str) -> bool:
        return version in self._refused

    def __iter__(self) -> Iterator[str]:
        return iter(self._refused)

    @property
    def reasons(self) -> dict[str, str]:
        """Why, by version."""
        return {version: refusal.reason for version, refusal in self._refused.items()}

    def is_for_good(self, version: str) -> bool:
        """Whether a version is refused and won't be tried again by itself."""
        refusal = self._refused.get(version)
        return refusal is not None and refusal.again_at is None

    def is_to_be_tried(self, version: str) -> bool:
        """Whether a version that an alias names may be served now, for all that is known."""
        refusal = self._refused.get(version)
        if refusal is None:
            return True
        return refusal.again_at is not None and self._clock() >= refusal.again_at

    def keep(self, named: Container[str]) -> None:
        """Forget all versions but these: whoever names one again wants it tried again."""
        self._refused = {one: why for one, why in self._refused.items() if one in named}
        self._failed_fetches = {one: n for one, n in self._failed_fetches.items() if one in named}

    def try_again(self, version: str) -> None:
        """Have a version tried at once, though it was refused: whoever has named it wants that."""
        self._failed_fetches.pop(version, None)
        if (refusal := self._refused.get(version)) is not None:
            self._refused[version] = refusal._replace(again_at=self._clock())

    def refuse(self, version: str, reason: str, *, for_good: bool) -> bool:
        """Refuse a version; return whether that, or the reason, is new."""
        reason = printable(reason[: names.LONGEST_TAG])
        before = self._refused.get(version)
        self._told.add(version)
        wait_s = AGAIN_S if before is None else min(2 * before.wait_s, LONGEST_S)
        again_at = None if for_good else self._clock() + wait_s
        self._refused[version] = _Refusal(reason, again_at, wait_s)
        return before is None or before.reason != reason

    def is_last_fetch(self, version: str) -> bool:
        """Count a fetch in vain; return whether there were enough of them in a row."""
        failed = self._failed_fetches[version] = self._failed_fetches.get(version, 0) + 1
        return failed >= FETCHES

    def forget(self, version: str) -> bool:
        """Take a version for good, and return whether it was refused."""
        self._failed_fetches.pop(version, None)
        self._refused.pop(version, None)
        was_told = version in self._told
        self._told.discard(version)
        return was_told
