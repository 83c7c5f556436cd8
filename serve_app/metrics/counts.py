"""What one ingress has counted since its start: plain numbers, cheap to add to and to send."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from serve_app.models.predictions import Predictions

BOUNDS_S: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)
"""Upper bounds of the buckets of durations; one more has no bound."""

GONE: Final = 499
"""Stands for the status of a request whose client hung up before its answer, as nginx has it."""

SHOWN: Final = (200, GONE, 500, 503, 504)
"""Statuses that are there from the start, as 0: what a series begins with is no increase of it."""

SHOWN_UNLET: Final = (401, 403, 429)
"""And those of requests that aren't let in."""

MOST_VERSIONS: Final = 4
"""That are counted for: those that take traffic, and the last that did."""


@dataclass(slots=True)
class Requests:
    """Requests of one kind."""

    statuses: Counter[int] = field(default_factory=lambda: Counter(dict.fromkeys(SHOWN, 0)))
    durations: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    """How many were answered within each of BOUNDS_S and not the one before; 200 only."""
    seconds: float = 0.0
    """Sum of these durations."""
    records: int = 0
    """Records of requests that were answered."""

    def copy(self) -> "Requests":
        """Return them as they are now."""
        return Requests(self.statuses.copy(), self.durations.copy(), self.seconds, self.records)

    def answered(self, records: int, seconds: float) -> None:
        """Count one that was answered, so long after all of its body had come."""
        self.statuses[200] += 1
        self.durations[bisect_left(BOUNDS_S, seconds)] += 1
        self.seconds += seconds
        self.records += records

    def refused(self, status: int) -> None:
        """Count one that wasn't."""
        self.statuses[status] += 1


@dataclass(slots=True)
class Calls:
    """Calls to the workers, by each of which several requests may be answered."""

    calls: int = 0
    records: int = 0
    seconds: float = 0.0
    """That the model took; of a call that several workers shared, the slowest."""

    def add(self, found: Predictions) -> None:
        """Count one that was answered; of a batch with other calls in it, its share of the time."""
        records = len(found.values)
        self.calls += 1
        self.records += records
        is_joined = found.model_rows > records
        self.seconds += found.model_s * (records / found.model_rows if is_joined else 1.0)


@dataclass(slots=True)
class VersionCounts:
    """What was counted for one version."""

    requests: dict[tuple[str, str], Requests] = field(default_factory=dict)
    """By route and role."""
    calls: Calls = field(default_factory=Calls)

    def copy(self) -> "VersionCounts":
        """Return them as they are now."""
        # A list, at once: another thread makes the routes of a version, and adds their kinds.
        requests = {kind: one.copy() for kind, one in list(self.requests.items())}
        return VersionCounts(requests, replace(self.calls))

    def requests_of(self, route: str, role: str) -> Requests:
        """Return where requests of this kind are counted."""
        return self.requests.setdefault((route, role), Requests())


@dataclass(slots=True)
class Counts:
    """All of it."""

    versions: dict[str, VersionCounts] = field(default_factory=dict)
    not_let_in: Requests = field(
        default_factory=lambda: Requests(Counter(dict.fromkeys(SHOWN_UNLET, 0)))
    )
    """Requests that were refused for their API key, before there was a version to answer them."""

    def copy(self) -> "Counts":
        """Return them as they are now."""
        versions = {version: one.copy() for version, one in self.versions.items()}
        return Counts(versions, self.not_let_in.copy())

    def of(self, version: str) -> VersionCounts:
        """Return where is counted for this version."""
        return self.versions.setdefault(version, VersionCounts())

    def keep(self, versions: Iterable[str]) -> None:
        """Forget all but these and the last that were kept, MOST_VERSIONS in all."""
        for version in versions:
            self.versions[version] = self.versions.pop(version, VersionCounts())
        for version in list(self.versions)[:-MOST_VERSIONS]:
            del self.versions[version]


@dataclass(frozen=True, slots=True)
class UnderWay:
    """What a gate has let in."""

    requests: int
    content_bytes: int
    """Of bodies that came, and of large answers that go."""


@dataclass(frozen=True, slots=True)
class Report:
    """What an ingress says of itself."""

    counts: Counts
    under_way: Mapping[str, UnderWay]
    """By the gate: `single` or `batch`."""
    processor_s: float
    """Processor time that its process has used."""
