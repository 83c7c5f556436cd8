"""What the measurement must show: ratios within one run on two cores shared with the load."""

from __future__ import annotations

from typing import Final, NamedTuple

from benchmarks.results import (
    BATCH_1000,
    STREAM_1,
    STREAM_64,
    Results,
    Value,
    open_loop,
    p50_ms,
    per_s,
)
from benchmarks.servers import OURS, STARLETTE

THROUGHPUT: Final = (
    (STREAM_64, STARLETTE, 0.55),
    (STREAM_64, "ray_docs", 20.0),
    (STREAM_64, "litserve", 1.6),
    (STREAM_64, "bentoml", 8.0),
    (STREAM_64, "flask", 2.5),
    (STREAM_64, "mlflow", 3.5),
    (BATCH_1000, STARLETTE, 0.25),
    (BATCH_1000, "mosec", 1.0),
    (BATCH_1000, "litserve", 1.6),
    (BATCH_1000, "flask", 1.5),
    (BATCH_1000, "ray_docs", 9.0),
)
"""(case, peer, this service's rate by the peer's at least)."""

SLOWER_THAN_STARLETTE: Final = 8.0
QUICKER_THAN_RAY_DOCS: Final = 7.0
TAIL: Final = 4.0
HALF: Final = open_loop(50)


class Floor(NamedTuple):
    """A line of the table; `met` is None if it was not measured."""

    row: str
    wanted: str
    measured: str
    met: bool | None


def check(results: Results) -> list[Floor]:
    """Return every floor, judged by the median over the rounds."""
    titles = results.facts.titles
    floors = [
        _at_least(
            f"{case}: requests/s by {titles.get(peer, peer)}",
            wanted,
            _median(results, per_s, case, OURS, peer),
        )
        for case, peer, wanted in THROUGHPUT
    ]
    floors += [
        _at_most(
            f"{STREAM_1}: p50 by {titles.get(STARLETTE, STARLETTE)}",
            SLOWER_THAN_STARLETTE,
            _median(results, p50_ms, STREAM_1, OURS, STARLETTE),
        ),
        _at_least(
            f"{STREAM_1}: p50 of {titles.get('ray_docs', 'ray_docs')} by ours",
            QUICKER_THAN_RAY_DOCS,
            _median(results, p50_ms, STREAM_1, "ray_docs", OURS),
        ),
        _at_most(f"{HALF}: p99 by p50", TAIL, _tail(results)),
    ]
    return [*floors, _no_errors(results)]


def _median(results: Results, value: Value, case: str, over: str, under: str) -> float | None:
    found = results.ratio(value, case, over, under)
    return found.median if found else None


def _tail(results: Results) -> float | None:
    found = results.spread(lambda one: one.p99_ms / one.p50_ms, OURS, HALF)
    return found.median if found else None


def _at_least(row: str, wanted: float, measured: float | None) -> Floor:
    met = None if measured is None else measured >= wanted
    return Floor(row, f"at least {wanted:g}x", _times(measured), met)


def _at_most(row: str, wanted: float, measured: float | None) -> Floor:
    met = None if measured is None else measured <= wanted
    return Floor(row, f"at most {wanted:g}x", _times(measured), met)


def _times(measured: float | None) -> str:
    return "not measured" if measured is None else f"{measured:.2f}x"


def _no_errors(results: Results) -> Floor:
    ours = [one.errors for one in results.measurements if one.server == OURS]
    failed = sum(one.server.startswith(OURS) for one in results.failures)
    if not ours and not failed:
        return Floor("errors of this service", "none", "not measured", None)
    measured = f"{sum(ours)} in {len(ours)} loads" + (f", {failed} not run" if failed else "")
    return Floor("errors of this service", "none", measured, sum(ours) + failed == 0)
