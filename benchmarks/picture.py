"""The pictures of `RESULTS.md`, made from the results alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks import report, results
from benchmarks.formats import ALL as FORMATS
from benchmarks.formats import JSON_LIST
from benchmarks.results import Results, Spread, Value, per_s
from benchmarks.servers import OURS, STARLETTE, TITLE

OURS_COLOUR, LIMIT_COLOUR, PEER_COLOUR = "#d1495b", "#2b2f36", "#9aa5b1"
INK, FAINT = "#2b2f36", "#dde2e7"
FORMAT_COLOURS: Final = ("#d1495b", "#e8a33d", "#1f6fb4", "#3a9d7c", "#7a5ab5")
DOTS_PER_INCH: Final = 150
_SMALL: Final = 0.1
_THOUSAND: Final = 1_000
_MILLION: Final = 1_000_000


def draw(found: Results, folder: Path) -> None:
    """Write the pictures into `folder`, those for which there are measurements."""
    if found.of(STARLETTE, results.STREAM_64):
        _save(_relative(found), folder / report.RELATIVE_PICTURE)
    if report.rows_measured(found):
        _save(_rows(found), folder / report.ROWS_PICTURE)


def _relative(found: Results) -> Figure:
    figure = Figure(figsize=(12.0, 4.4), layout="constrained")
    panels: tuple[tuple[str, str, Value], ...] = (
        (results.STREAM_64, "/stream, 64 connections\nrequests per second", per_s),
        (results.STREAM_1, "/stream, 1 connection\nspeed at the median (1 / p50)", _speed),
        (results.BATCH_1000, "/batch of 1,000 rows, 4 connections\nrequests per second", per_s),
    )
    for number, (case, title, value) in enumerate(panels):
        _bars(figure.add_subplot(1, len(panels), number + 1), found, case, title, value)
    figure.suptitle(
        "Relative to one bare Starlette process in the same round", color=INK, fontsize=13, x=0.5
    )
    return figure


def _speed(one: results.Measurement) -> float:
    return 1.0 / one.p50_ms


def _bars(axes: Axes, found: Results, case: str, title: str, value: Value) -> None:
    spreads: dict[str, Spread] = {}
    for name in found.facts.titles:
        if ratio := found.ratio(value, case, name, STARLETTE):
            spreads[name] = ratio
    names = sorted(spreads, key=lambda name: spreads[name].median)
    colours = {OURS: OURS_COLOUR, STARLETTE: LIMIT_COLOUR}
    medians = [spreads[name].median for name in names]
    axes.barh(
        [found.facts.titles[name] for name in names],
        medians,
        color=[colours.get(name, PEER_COLOUR) for name in names],
        height=0.68,
        xerr=[
            [spreads[name].median - spreads[name].low for name in names],
            [spreads[name].high - spreads[name].median for name in names],
        ],
        error_kw={"ecolor": INK, "elinewidth": 1.0, "capsize": 2.5},
    )
    axes.axvline(1.0, color=LIMIT_COLOUR, linewidth=1.0, linestyle=(0, (4, 3)), zorder=0)
    widest = max(spreads[name].high for name in names)
    for row, name in enumerate(names):
        text = f"{spreads[name].median:.3f}" if medians[row] < _SMALL else f"{medians[row]:.2f}"
        axes.text(
            spreads[name].high + widest * 0.025,
            row,
            text,
            va="center",
            color=colours.get(name, INK),
            fontweight="bold" if name == OURS else "normal",
            fontsize=9,
        )
    axes.set_xlim(0, widest * 1.18)
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    _clean(axes)
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        if name == OURS:
            label.set_fontweight("bold")
            label.set_color(OURS_COLOUR)


def _rows(found: Results) -> Figure:
    figure = Figure(figsize=(8.4, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for form, colour in zip(FORMATS, FORMAT_COLOURS, strict=True):
        _line(axes, found, OURS, form, color=colour, label=f"{TITLE}, {form}")
    _line(
        axes,
        found,
        STARLETTE,
        JSON_LIST,
        color=LIMIT_COLOUR,
        linestyle=(0, (4, 3)),
        label=f"bare Starlette, {JSON_LIST}",
    )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("rows per request", color=INK)
    axes.set_title(
        "Records per second, /batch and its relatives", fontsize=12, color=INK, loc="left"
    )
    axes.xaxis.set_major_formatter(FuncFormatter(_short))
    axes.yaxis.set_major_formatter(FuncFormatter(_short))
    axes.yaxis.set_minor_formatter(NullFormatter())
    _clean(axes)
    axes.grid(axis="y", color=FAINT, linewidth=0.8)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return figure


def _line(axes: Axes, found: Results, server: str, form: str, **style: Any) -> None:
    points: list[tuple[int, Spread]] = []
    for rows in report.rows_measured(found):
        case = results.by_rows(form, rows)
        if spread := found.spread(lambda one: one.rows_per_s, server, case):
            points.append((rows, spread))
    if not points:
        return
    sizes = [rows for rows, _ in points]
    axes.plot(
        sizes, [one.median for _, one in points], marker="o", markersize=4, linewidth=1.8, **style
    )
    axes.fill_between(
        sizes,
        [one.low for _, one in points],
        [one.high for _, one in points],
        color=style["color"],
        alpha=0.12,
        linewidth=0,
    )


def _short(value: float, position: int) -> str:
    if value >= _MILLION:
        return f"{value / _MILLION:g} M"
    return f"{value / _THOUSAND:g} k" if value >= _THOUSAND else f"{value:g}"


def _clean(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.set_axisbelow(True)


def _save(figure: Figure, file: Path) -> None:
    figure.savefig(file, dpi=DOTS_PER_INCH, facecolor="white")
