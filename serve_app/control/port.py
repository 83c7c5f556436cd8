"""What the conductor asks of MLflow, whatever answers it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from serve_app.models.served import ServedVersion
from serve_app.rollouts.rollout import State
from serve_app.routing import Write


@dataclass(frozen=True)
class Seen:
    """What MLflow says at one moment: versions by alias, and the rollout that it knows of."""

    champion: str | None
    challenger: str | None
    rollout: State | None = None
    previous: str | None = None
    weight: float | None = None
    """Share of the clients that the rollout had reached; None if that isn't known."""


class ChampionMovedError(Exception):
    """The promotion makes no sense any more: somebody was quicker; the message says with what."""


class RejectedError(Exception):
    """MLflow has refused something that it will refuse again; the message says why."""


class Tracker(Protocol):
    """MLflow; each method blocks for a bounded time and raises MlflowUnreachableError.

    What MLflow refuses for good raises RejectedError.
    """

    def look(self) -> Seen:
        """Return the aliases and the rollout under way."""

    def resolve(self, version: str) -> tuple[ServedVersion, Path]:
        """Return a version and its verified copy on this node. Raises ModelError too."""

    def write(self, write: Write) -> None:
        """Record something; doing it twice is as good as once."""

    def promote(self, version: str, judged_against: str, reason: str) -> None:
        """Move the alias `champion`. Raises ChampionMovedError."""
