"""The workers that run, as far as they have said: pure, times are in seconds on one clock."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from serve_app.calls.channel import Address

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


class Fleet:
    """Leases of workers."""

    def __init__(self) -> None:
        self._reports: dict[str, Report] = {}
        self._until: dict[str, float] = {}

    def note(self, worker: str, report: Report, now: float) -> bool:
        """Renew a worker's lease; return whether it says anything new."""
        is_new = self._reports.get(worker) != report
        self._reports[worker] = report
        self._until[worker] = now + LEASE_S
        return is_new

    def expire(self, now: float) -> bool:
        """Forget the workers whose lease has run out; return whether there were any."""
        gone = [worker for worker, until in self._until.items() if until <= now]
        for worker in gone:
            del self._reports[worker], self._until[worker]
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
        reasons = (report.failed.get(version) for report in self._reports.values())
        return next((reason for reason in reasons if reason is not None), None)

    def addresses(self, versions: Iterable[str]) -> tuple[Address, ...]:
        """Return where the workers that hold all these versions are reached."""
        wanted = frozenset(versions)
        return tuple(report.address for report in self._reports.values() if wanted <= report.held)
