"""Which versions there are, and which share of the requests each answers: the routing table."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final, Literal

from serve_app.models.served import ServedModel
from serve_app.rollouts.rollout import State

Role = Literal["champion", "challenger"]

CHAMPION: Final[Role] = "champion"
CHALLENGER: Final[Role] = "challenger"


@dataclass(frozen=True, slots=True)
class Write:
    """Something that MLflow is to hold, as plain values; applied once MLflow answers."""

    kind: Literal["model_tag", "version_tag", "end_rollout", "take_back"]
    version: str = ""
    key: str = ""
    """The tag's name, the rollout's outcome, or the version to go back to."""
    value: str = ""
    """The tag's value, or the reasons, one a line."""


@dataclass(frozen=True)
class Table:
    """What takes the traffic. A table with a greater epoch is newer."""

    epoch: int
    champion: ServedModel
    challenger: ServedModel | None = None
    weight: float = 0.0
    """Share of the requests that the challenger answers, 0 to 1."""
    shadow: float = 0.0
    """Share of the calls to one of the two that are also made to the other."""
    previous: ServedModel | None = None
    """The champion before this one, kept warm."""
    is_from_cache: bool = False
    """Whether the champion is what this node served last, which MLflow has not confirmed."""
    rollout: State | None = None
    unrecorded: tuple[Write, ...] = ()
    """What MLflow could not be told yet; whoever takes over tells it."""

    @property
    def routed(self) -> tuple[tuple[ServedModel, Role], ...]:
        """The versions that requests may be sent to, with their roles."""
        found: list[tuple[ServedModel, Role]] = [(self.champion, CHAMPION)]
        if self.challenger is not None:
            found.append((self.challenger, CHALLENGER))
        return tuple(found)

    @property
    def held(self) -> tuple[ServedModel, ...]:
        """The versions that every worker must hold."""
        warm = [self.previous] if self.previous is not None else []
        return (*(model for model, _ in self.routed), *warm)

    @property
    def salt(self) -> bytes:
        """What makes the clients of one rollout others than those of the next."""
        number = self.rollout.number if self.rollout is not None else 0
        named = f"{self.champion.version.name}:{number}".encode()
        return blake2b(named, digest_size=16).digest()


def window_of(table: Table) -> tuple[int, int] | None:
    """Return which step of which rollout a table belongs to; None if there's no rollout."""
    return (table.rollout.number, table.rollout.step) if table.rollout is not None else None


ANSWERS: Final = "answers"
"""What the status says of an MLflow that does."""

STATUS_UNKNOWN: Final[Mapping[str, Any]] = {
    "rollout": None,
    "last_rollout": None,
    "waiting": None,
    "refused": {},
    "mlflow": "not asked yet",
    "unrecorded": 0,
}


@dataclass(frozen=True)
class Published:
    """What ingresses are told."""

    table: Table
    workers: tuple[tuple[str, int, str], ...] = ()
    """Host, port and secret of each worker that holds all versions of the table; none if it isn't
    known yet."""
    status: Mapping[str, Any] = field(default_factory=lambda: STATUS_UNKNOWN)
    """What `/model` and `/admin/rollout` show beside the table, as JSON."""
    ingresses: int = 1
    """How many ingresses there are: each lets through its part of a key's rate."""
