"""The replicas that run, as far as they have said: pure, times are in seconds on one clock."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from serve_app.calls.connection import Address

LEASE_S = 10.0
"""A worker that hasn't reported for this long no longer counts: it holds up no version."""


@dataclass(frozen=True)
class Report:
    """What a worker says of itself."""

    address: Address
    held: frozenset[str]
    """Versions in its memory, each verified and tried."""
    failed: Mapping[str, str] = field(default_factory=dict)
    """Versions that it could not load, and why."""
    overdue: frozenset[str] = frozenset()
    """Versions that are busy with one batch beyond their deadline."""
    delayed: Mapping[str, str] = field(default_factory=dict)
    """Versions that it could not load yet, as MLflow didn't answer or its node is short of
    something, and why."""


class Leases:
    """Who has asked within the last `lease_s`."""

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._until: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def renew(self, name: str, now: float) -> None:
        """Count this one from now on."""
        self._until[name] = now + self._lease_s

    def expire(self, now: float) -> list[str]:
        """Forget those whose lease has run out, and return them."""
        gone = [name for name, until in self._until.items() if until <= now]
        for name in gone:
            del self._until[name]
        return gone


class Fleet:
    """Workers with a lease, and what they have said."""

    def __init__(self) -> None:
        self._reports: dict[str, Report] = {}
        self._leases = Leases(LEASE_S)

    def note(self, worker: str, report: Report, now: float) -> bool:
        """Renew a worker's lease; return whether it says anything new."""
        is_new = self._reports.get(worker) != report
        self._reports[worker] = report
        self._leases.renew(worker, now)
        return is_new

    def expire(self, now: float) -> bool:
        """Forget the workers whose lease has run out; return whether there were any."""
        gone = self._leases.expire(now)
        for worker in gone:
            del self._reports[worker]
        return bool(gone)

    @property
    def is_empty(self) -> bool:
        """Whether no worker has a lease."""
        return not self._reports

    def holds(self, version: str) -> bool:
        """Whether there are workers, and all of them hold this version."""
        return bool(self._reports) and all(
            version in report.held for report in self._reports.values()
        )

    def failure(self, version: str) -> str | None:
        """Return why a worker could not load this version; None if none has failed."""
        return _first(report.failed.get(version) for report in self._reports.values())

    def delay(self, version: str) -> str | None:
        """Return why a worker could not load this version yet; None if none says so."""
        return _first(report.delayed.get(version) for report in self._reports.values())

    def addresses(self, versions: Iterable[str]) -> tuple[Address, ...]:
        """Return where the workers that hold all these versions are reached."""
        wanted = frozenset(versions)
        return tuple(report.address for report in self._reports.values() if wanted <= report.held)


def _first(reasons: Iterable[str | None]) -> str | None:
    return next((reason for reason in reasons if reason is not None), None)
