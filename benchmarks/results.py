"""What was measured, as it is kept in `results.json`, and the ratios that are formed from it."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

SHIPPED: Final = "shipped"

STREAM_64: Final = "stream, 64 connections"
STREAM_1: Final = "stream, 1 connection"
BATCH_1000: Final = "batch of 1,000 rows, 4 connections"
CLOSED: Final = (STREAM_64, STREAM_1, BATCH_1000)


OPEN_CAPACITY: Final = "open loop, more than is answered"


def open_loop(percent: int, arrivals: str = "constant") -> str:
    """Return the name of the case: a fixed rate, as a share of this service's capacity."""
    return f"open loop, {percent}% of capacity, {arrivals}"


def by_rows(form: str, rows: int) -> str:
    """Return the name of the case: so many rows a request, in a format."""
    return f"{form}, {rows} rows"


@dataclass(frozen=True)
class Measurement:
    """One load on one server in one round."""

    round: int
    server: str
    case: str
    per_s: float
    """Requests answered in a second."""
    requests: int
    errors: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    rows: int
    """Records in one request."""
    cpu_s: float
    """CPU time of everything that the server started, during this load."""
    memory_bytes: int
    """Its memory right after this load, shared pages counted once."""
    elsewhere: float
    """Share of the machine's CPU time that neither the server nor the load has used."""
    setup: str = SHIPPED
    model: str = "linear"
    wanted_per_s: float = 0.0
    """Open loop: the rate asked for."""
    late_p99_ms: float = 0.0
    """Open loop: how late the generator itself was."""

    @property
    def rows_per_s(self) -> float:
        """Records answered in a second."""
        return self.per_s * self.rows

    @property
    def cpu_s_per_million(self) -> float:
        """CPU seconds for a million records."""
        return self.cpu_s / max(1, self.requests * self.rows) * 1e6


Value = Callable[[Measurement], float]
"""A figure of a measurement."""


@dataclass(frozen=True)
class Failure:
    """A server that could not be measured in a round."""

    round: int
    server: str
    reason: str


@dataclass(frozen=True)
class Facts:
    """When, where and how it was measured."""

    date: str
    command: str
    commit: str
    rounds: int
    seconds: int
    is_whole: bool
    """False if servers were left out, or the loads were too short to mean anything."""
    machine: dict[str, str]
    versions: dict[str, str]
    """Of the packages and tools, by title."""
    titles: dict[str, str]
    """Of the servers, by name, in the order of the tables."""


@dataclass
class Results:
    """Everything that one run has found."""

    facts: Facts
    measurements: list[Measurement] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def write(self, file: Path) -> None:
        """Keep the results as JSON."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(self), indent=1) + "\n")

    def of(
        self, server: str, case: str, setup: str = SHIPPED, model: str = "linear"
    ) -> dict[int, Measurement]:
        """Return the measurements of a case, by round."""
        return {
            one.round: one
            for one in self.measurements
            if (one.server, one.case, one.setup, one.model) == (server, case, setup, model)
        }

    def spread(self, value: Value, *which: str) -> Spread | None:
        """Return the spread of a figure over the rounds; `which` as for `of`."""
        return spread([value(one) for one in self.of(*which).values()])

    def ratio(self, value: Value, case: str, over: str, under: str) -> Spread | None:
        """Return `over`'s figure by `under`'s, formed within each round; None without both."""
        return spread(list(self._ratios(value, case, over, under)))

    def _ratios(self, value: Value, case: str, over: str, under: str) -> Iterator[float]:
        divisors = self.of(under, case)
        for number, one in self.of(over, case).items():
            if number in divisors and value(divisors[number]) > 0:
                yield value(one) / value(divisors[number])


@dataclass(frozen=True)
class Spread:
    """A figure over the rounds."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread | None:
    """Return median, least and greatest; None of nothing."""
    if not values:
        return None
    return Spread(statistics.median(values), min(values), max(values))


def per_s(one: Measurement) -> float:
    """Requests in a second."""
    return one.per_s


def p50_ms(one: Measurement) -> float:
    """The median latency."""
    return one.p50_ms


def read(file: Path) -> Results:
    """Read what `write` wrote."""
    content: dict[str, Any] = json.loads(file.read_text())
    return Results(
        Facts(**content["facts"]),
        [Measurement(**one) for one in content["measurements"]],
        [Failure(**one) for one in content["failures"]],
    )
