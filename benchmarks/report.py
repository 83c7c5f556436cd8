"""`RESULTS.md`, made from the results alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from benchmarks import floors, results
from benchmarks.formats import ALL as FORMATS
from benchmarks.formats import JSON_LIST
from benchmarks.loads import SHARES
from benchmarks.measure import WORKERS
from benchmarks.model import BOOSTING, LINEAR
from benchmarks.results import CLOSED, SHIPPED, Results, Spread, Value, p50_ms, per_s
from benchmarks.running import Setup
from benchmarks.servers import OURS, STARLETTE

RELATIVE_PICTURE: Final = "relative.png"
ROWS_PICTURE: Final = "rows.png"
_MEGABYTE: Final = 2**20
_MODELS: Final = {LINEAR: "linear", BOOSTING: "gradient boosting, 100 trees, 10 features"}
_BUSY_ELSEWHERE: Final = 0.05


def write(found: Results) -> str:
    """Return the report in Markdown."""
    parts = [
        _head(found),
        _section("Floors", _floors(found)),
        _section("Closed loop", _closed(found), _RELATIVE),
        _section("This service against each peer", _ratios(found), _ABOUT_RATIOS),
        _section("Latency at a fixed rate", _open_loop(found), _ABOUT_OPEN_LOOP),
        _section("CPU time and memory", _costs(found), _ABOUT_COSTS),
        _section("Rows per request, and formats", _rows(found), _ABOUT_ROWS),
        _section("Workers and models", _variants(found), _ABOUT_VARIANTS),
        _section("Versions", _table(["", ""], found.facts.versions.items())),
        _failures(found),
    ]
    return "\n".join(part for part in parts if part)


_RELATIVE: Final = f"![Every server relative to bare Starlette]({RELATIVE_PICTURE})"
_ABOUT_RATIOS: Final = (
    "Formed within one round, then the median over the rounds (least to greatest). Above 1 this "
    "service is ahead: more requests per second, or a lower p50."
)
_ABOUT_OPEN_LOOP: Final = (
    "Requests to `/stream` at times fixed in advance, over 64 connections, whether or not the "
    "server keeps up; latency counts from the time when a request was due. 100% is what this "
    "service answers in the same round when the generator offers more: the generator takes several "
    "times what `wrk` does of the same cores, so that is less than `wrk` sees. `constant`: evenly "
    "spaced; `poisson`: independent of each other. The last column is how late the generator "
    "itself was."
)
_ABOUT_COSTS: Final = (
    "CPU seconds of everything that a server has started, for a million records; memory with "
    "shared pages counted once, after the last of these loads. Ray's own processes count too."
)
_ABOUT_ROWS: Final = (
    "Records per second by records per request, on 4 connections (2 for 100,000 rows, as four "
    "would wait beyond the bound on queued rows).\n\n"
    f"![Records per second by rows per request and format]({ROWS_PICTURE})"
)
_ABOUT_VARIANTS: Final = (
    "This service with its number of workers fixed, and bare Starlette, with two models."
)


def _head(found: Results) -> str:
    facts = found.facts
    machine = "; ".join(f"{name}: {value}" for name, value in facts.machine.items())
    lines = [
        "# Results\n",
        f"`{facts.command}`, {facts.date}, commit {facts.commit}: {facts.rounds} rounds over all "
        f"servers, {facts.seconds} s a load, each server alone. Median of the rounds (least to "
        "greatest). `docs/performance.md` says how it is measured.\n",
        f"Machine: {machine}.\n",
        _elsewhere(found),
    ]
    if not facts.is_whole:
        lines.insert(1, "**Not a whole measurement: the loads were short or servers left out.**\n")
    return "\n".join(lines)


def _elsewhere(found: Results) -> str:
    shares = [one.elsewhere for one in found.measurements]
    spread = results.spread(shares)
    if spread is None:
        return ""
    disturbed = sum(share > _BUSY_ELSEWHERE for share in shares)
    return (
        f"CPU time that neither server nor load has used: {spread.median:.1%} in the median, at "
        f"most {spread.high:.1%}; over {_BUSY_ELSEWHERE:.0%} in {disturbed} of {len(shares)} "
        "loads.\n"
    )


def _floors(found: Results) -> str:
    words = {True: "met", False: "**missed**", None: "not measured"}
    rows = [(one.row, one.wanted, one.measured, words[one.met]) for one in floors.check(found)]
    return _table(["", "wanted", "measured", ""], rows)


def _closed(found: Results) -> str:
    rows = []
    for name, title in found.facts.titles.items():
        cells = [_figure(found.spread(per_s, name, case), "{:,.0f}") for case in CLOSED]
        cells.insert(2, _figure(found.spread(p50_ms, name, results.STREAM_1), "{:.2f}"))
        errors = sum(one.errors for one in found.measurements if one.server == name)
        rows.append([_strong(name, title), *cells, f"{errors:,}"])
    heads = [
        "requests per second",
        "`/stream`, 64 connections",
        "`/stream`, 1 connection",
        "its p50, ms",
        "`/batch` of 1,000 rows, 4 connections",
        "errors",
    ]
    return _table(heads, rows)


def _ratios(found: Results) -> str:
    rows = []
    for name, title in found.facts.titles.items():
        if name == OURS:
            continue
        stream, batch = (
            found.ratio(per_s, case, OURS, name) for case in (results.STREAM_64, results.BATCH_1000)
        )
        p50 = found.ratio(p50_ms, results.STREAM_1, name, OURS)
        rows.append([title, *(_figure(one, "{:.2f}x") for one in (stream, p50, batch))])
    heads = ["against", "`/stream`, 64", "`/stream`, 1, p50", "`/batch` of 1,000, 4"]
    return _table(heads, rows)


def _open_loop(found: Results) -> str:
    values: tuple[tuple[Value, str], ...] = (
        (lambda one: one.wanted_per_s, "{:,.0f}"),
        (per_s, "{:,.0f}"),
        (p50_ms, "{:.2f}"),
        (lambda one: one.p90_ms, "{:.2f}"),
        (lambda one: one.p99_ms, "{:.2f}"),
        (lambda one: one.max_ms, "{:.1f}"),
        (lambda one: one.p99_ms / one.p50_ms, "{:.1f}x"),
        (lambda one: one.errors, "{:,.0f}"),
        (lambda one: one.late_p99_ms, "{:.2f}"),
    )
    rows = []
    if found.of(OURS, results.OPEN_CAPACITY):
        most = [_median(found.spread(per_s, OURS, results.OPEN_CAPACITY), "{:,.0f}")]
        rows.append(["100%, offered more", _title(found, OURS), "", *most, *[""] * 7])
    for percent, arrivals in SHARES:
        for name in (OURS, STARLETTE):
            case = results.open_loop(percent, arrivals)
            if found.of(name, case):
                cells = [_median(found.spread(value, name, case), form) for value, form in values]
                rows.append([f"{percent}%, {arrivals}", _title(found, name), *cells])
    heads = ["of capacity", "", "due/s", "answered/s", "p50, ms", "p90", "p99", "max"]
    return _table([*heads, "p99 / p50", "errors", "late p99"], rows)


def _costs(found: Results) -> str:
    def cpu(one: results.Measurement) -> float:
        return one.cpu_s_per_million

    def memory(one: results.Measurement) -> float:
        return one.memory_bytes / _MEGABYTE

    rows = [
        [
            _strong(name, title),
            _figure(found.spread(cpu, name, results.STREAM_64), "{:,.0f}"),
            _figure(found.spread(cpu, name, results.BATCH_1000), "{:,.2f}"),
            _figure(found.spread(memory, name, results.BATCH_1000), "{:,.0f}"),
        ]
        for name, title in found.facts.titles.items()
    ]
    heads = ["for a million records", "by `/stream`, CPU s", "by `/batch` of 1,000, CPU s"]
    return _table([*heads, "memory, MiB"], rows)


def _rows(found: Results) -> str:
    sizes = rows_measured(found)
    lines = []
    for name in (OURS, STARLETTE):
        for form in FORMATS:
            cells = [
                _median(found.spread(_rows_per_s, name, results.by_rows(form, size)), "{:,.0f}")
                for size in sizes
            ]
            if any(found.of(name, results.by_rows(form, size)) for size in sizes):
                lines.append([f"{_title(found, name)}, {form}", *cells])
    return _table(["records per second", *(f"{size:,}" for size in sizes)], lines)


def rows_measured(found: Results) -> list[int]:
    """Return the numbers of rows per request that were measured in a sweep."""
    sizes = {one.rows for one in found.measurements}
    cases = {one.case for one in found.measurements}
    return sorted(size for size in sizes if results.by_rows(JSON_LIST, size) in cases)


def _variants(found: Results) -> str:
    rows = []
    for model, words in _MODELS.items():
        which = [(OURS, Setup(workers).name) for workers in WORKERS] + [(STARLETTE, SHIPPED)]
        for name, setup in which:
            if not found.of(name, results.STREAM_64, setup, model):
                continue
            cells = [
                _median(found.spread(per_s, name, case, setup, model), "{:,.0f}") for case in CLOSED
            ]
            shown = _title(found, name) + (f", {setup}" if name == OURS else "")
            rows.append([words, shown, *cells])
    heads = ["model", "requests per second", "`/stream`, 64", "`/stream`, 1"]
    return _table([*heads, "`/batch` of 1,000, 4"], rows)


def _failures(found: Results) -> str:
    if not found.failures:
        return ""
    rows = [(one.round, one.server, one.reason.splitlines()[0]) for one in found.failures]
    return _section("Not measured", _table(["round", "server", "why"], rows))


def _rows_per_s(one: results.Measurement) -> float:
    return one.rows_per_s


def _title(found: Results, name: str) -> str:
    return found.facts.titles.get(name, name)


def _strong(name: str, title: str) -> str:
    return f"**{title}**" if name == OURS else title


def _median(spread: Spread | None, form: str) -> str:
    return "" if spread is None else form.format(spread.median)


def _figure(spread: Spread | None, form: str) -> str:
    """Return the median, and least and greatest if there are several rounds."""
    if spread is None:
        return ""
    if spread.low == spread.high:
        return form.format(spread.median)
    low, high = form.format(spread.low), form.format(spread.high)
    return f"{form.format(spread.median)} ({low} to {high})"


def _section(title: str, table: str, about: str = "") -> str:
    if not table:
        return ""
    return "\n".join([f"## {title}\n", *([f"{about}\n"] if about else []), table])


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    if not lines:
        return ""
    head = "| " + " | ".join(heads) + " |"
    rule = "|---|" + "---:|" * (len(heads) - 1)
    return "\n".join([head, rule, *lines, ""])
