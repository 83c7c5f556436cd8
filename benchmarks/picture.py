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
COLOURS: Final = {OURS: OURS_COLOUR, STARLETTE: LIMIT_COLOUR}
DASHES: Final = (0, (4, 3))
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
    figure = Figure(figsize=(12.0, 4.2), layout="constrained")
    panels: tuple[tuple[str, str, Value], ...] = (
        (results.STREAM_64, "/stream, 64 connections\nrequests per second", per_s),
        (results.STREAM_1, "/stream, 1 connection\nspeed at the median (1 / p50)", _speed),
        (results.BATCH_1000, "/batch of 1,000 rows, 4 connections\nrequests per second", per_s),
    )
    names = _slowest_first(found)
    for number, (axes, panel) in enumerate(
        zip(figure.subplots(1, len(panels), sharey=True), panels, strict=True)
    ):
        _bars(axes, found, names, *panel)
        if number == 0:
            axes.set_yticks(range(len(names)), [found.facts.titles[name] for name in names])
            for label, name in zip(axes.get_yticklabels(), names, strict=True):
                label.set_fontweight("bold" if name == OURS else "normal")
                label.set_color(COLOURS.get(name, INK))
    figure.suptitle(
        f"{TITLE} and its peers, relative to one bare Starlette process in the same round",
        color=INK,
        fontsize=13,
        x=0.01,
        ha="left",
    )
    return figure


def _slowest_first(found: Results) -> list[str]:
    """Return the servers by their rate on 64 connections."""
    rates = {name: found.spread(per_s, name, results.STREAM_64) for name in found.facts.titles}
    return sorted(rates, key=lambda name: rate.median if (rate := rates[name]) else 0.0)


def _speed(one: results.Measurement) -> float:
    return 1.0 / one.p50_ms


def _bars(
    axes: Axes, found: Results, names: list[str], case: str, title: str, value: Value
) -> None:
    """Draw one panel; a server without this case has an empty line."""
    ratios = {name: found.ratio(value, case, name, STARLETTE) for name in names}
    widest = max((ratio.high for ratio in ratios.values() if ratio), default=1.0)
    axes.axvline(1.0, color=LIMIT_COLOUR, linewidth=1.0, linestyle=DASHES, zorder=0)
    for row, (name, ratio) in enumerate(ratios.items()):
        if ratio is None:
            continue
        axes.barh(
            row,
            ratio.median,
            color=COLOURS.get(name, PEER_COLOUR),
            height=0.68,
            xerr=[[ratio.median - ratio.low], [ratio.high - ratio.median]],
            error_kw={"ecolor": INK, "elinewidth": 1.0, "capsize": 2.5},
        )
        axes.text(
            ratio.high + widest * 0.025,
            row,
            f"{ratio.median:.3f}" if ratio.median < _SMALL else f"{ratio.median:.2f}",
            va="center",
            color=COLOURS.get(name, INK),
            fontweight="bold" if name == OURS else "normal",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
        )
    axes.set_xlim(0, widest * 1.18)
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    _clean(axes)


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
        linestyle=DASHES,
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
    axes.tick_params(which="both", length=0, labelsize=9)
    axes.tick_params(axis="x", colors=INK)
    axes.set_axisbelow(True)


def _save(figure: Figure, file: Path) -> None:
    figure.savefig(file, dpi=DOTS_PER_INCH, facecolor="white")
