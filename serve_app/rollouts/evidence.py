"""What was seen at one step: sums over requests, which add up whoever has seen them.

The unit is a request with a value from 0 to 1: the share of its records that failed, are missing,
or have shifted. Records of one request aren't independent of each other, so they don't count
one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self


class _Sums:
    """Dataclasses of numbers, or of such dataclasses, that are added field by field."""

    __slots__ = ()

    def __add__(self, other: Self) -> Self:
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]
        return type(self)(*(getattr(self, name) + getattr(other, name) for name in names))


@dataclass(frozen=True, slots=True)
class Arm(_Sums):
    """One version's requests, live and shadow: their number, and their shares summed up."""

    requests: int = 0
    errors: float = 0.0
    missing: float = 0.0


@dataclass(frozen=True, slots=True)
class Pairs(_Sums):
    """Requests that both versions ran on the same rows: their number, and their values' sum."""

    count: int = 0
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class Evidence(_Sums):
    """All that was seen since the step began, and of quality, since the rollout began.

    `live`: requests that the challenger answered to clients. `time`: calls timed, 1 for each that
    took the challenger longer. `shift`: requests compared, the share of their records predicted
    otherwise. `quality`: requests with a true value, 1 where the challenger is worse, 0.5 for a
    tie. Whichever version answers, the other runs a share of the requests too, so there are
    pairs at every weight.
    """

    champion: Arm = Arm()
    challenger: Arm = Arm()
    live: int = 0
    time: Pairs = Pairs()
    shift: Pairs = Pairs()
    quality: Pairs = Pairs()

    def at_next_step(self) -> Evidence:
        """Return what the next step begins with: true values come late, so quality goes on."""
        return Evidence(quality=self.quality)

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts and numbers."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return what `to_json` was called on; raises TypeError or KeyError on other content."""
        return cls(
            champion=Arm(**content["champion"]),
            challenger=Arm(**content["challenger"]),
            live=content["live"],
            time=Pairs(**content["time"]),
            shift=Pairs(**content["shift"]),
            quality=Pairs(**content["quality"]),
        )
