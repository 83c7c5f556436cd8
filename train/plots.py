"""Pictures of a model for MLflow's page. They use no global state of matplotlib's pyplot."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, ScalarFormatter
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.metrics import confusion_matrix

from train import weights
from train.data import Dataset
from train.evaluate import Evaluation
from train.fit import Fitted
from train.settings import TrainSettings

SEEN, HELD_OUT, MODEL, INK = "#9aa5b1", "#1f6fb4", "#d1495b", "#2b2f36"
SIZE_INCHES, WIDE_INCHES = (7.0, 4.6), (9.0, 4.2)
DOTS_PER_INCH = 150
SMALLEST_TEXT_POINTS, LARGEST_TEXT_POINTS = 5.0, 10.0
LONGEST_LEVEL_LABEL = 8
LONGEST_LABEL = 25
MOST_LABELS_WRITTEN = 60
MOST_SOLID_DOTS = 2_000

Floats = NDArray[np.float64]


def draw(
    settings: TrainSettings, dataset: Dataset, fitted: Fitted, evaluation: Evaluation
) -> dict[str, Figure]:
    """Return the figures that fit the task, by file name."""
    figures = {}
    if settings.task == "classification":
        figures["confusion_matrix.png"] = _confusion(dataset, evaluation)
    else:
        if len(dataset.feature_names) == 1:
            figures["fit.png"] = _fit(dataset, fitted.model, evaluation)
        figures["predicted_against_actual.png"] = _predicted(dataset, evaluation)
        figures["residuals.png"] = _residuals(dataset, evaluation)
    if fitted.losses:
        figures["loss.png"] = _loss(fitted)
    return figures


def save(figure: Figure, file: str) -> None:
    """Write a figure as PNG."""
    figure.savefig(file, dpi=DOTS_PER_INCH, facecolor="white")


def _fit(dataset: Dataset, model: BaseEstimator, evaluation: Evaluation) -> Figure:
    figure, axes = _figure(SIZE_INCHES)
    train, test = dataset.train, dataset.test
    rows = len(train.rows) + len(test.rows)
    axes.scatter(train.features[:, 0], train.target, **_dots(SEEN, rows), label="trained on")
    axes.scatter(test.features[:, 0], test.target, **_dots(HELD_OUT, rows, 34), label="held out")
    ends = np.concatenate([train.features[:, 0], test.features[:, 0]])
    grid = np.linspace(ends.min(), ends.max(), 400)
    axes.plot(
        grid,
        model.predict(grid[:, None]),
        color=MODEL,
        linewidth=2.2,
        label=_plain(_equation(dataset, model)),
    )
    _label(
        axes,
        f"The model over the data (R² {evaluation.metrics['r2']:.3f} held out)",
        dataset.feature_names[0],
        dataset.target_name,
    )
    _legend(axes)
    return figure


def _equation(dataset: Dataset, model: BaseEstimator) -> str:
    own_units = weights.describe(model, dataset.feature_names).get("own_units")
    if own_units is None:
        return "model"
    feature = dataset.feature_names[0]
    slope, intercept = own_units["slope"][feature], own_units["intercept"]
    sign = "-" if intercept < 0 else "+"
    return f"{dataset.target_name} = {slope:.4g} · {feature} {sign} {abs(intercept):.4g}"


def _predicted(dataset: Dataset, evaluation: Evaluation) -> Figure:
    figure, axes = _figure((5.6, 5.4))
    actual, predicted = _finite(dataset.test.target, evaluation.predictions)
    low, high = _range(actual, predicted)
    axes.plot([low, high], [low, high], color=MODEL, linewidth=1.6, label="perfect", zorder=3)
    axes.scatter(actual, predicted, **_dots(HELD_OUT, len(actual), 34), label="held-out row")
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    axes.locator_params(nbins=5)
    _label(
        axes,
        f"Predicted against actual\n{_held_out(dataset)}, R² {evaluation.metrics['r2']:.3f}",
        f"actual {dataset.target_name}",
        f"predicted {dataset.target_name}",
    )
    _legend(axes)
    return figure


def _residuals(dataset: Dataset, evaluation: Evaluation) -> Figure:
    figure = Figure(figsize=WIDE_INCHES, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    actual, predicted = _finite(dataset.test.target, evaluation.predictions)
    residuals = actual - predicted
    left.scatter(predicted, residuals, **_dots(HELD_OUT, len(residuals), 34))
    left.locator_params(axis="x", nbins=7)
    right.hist(
        residuals, bins=_bins(residuals), orientation="horizontal", color=HELD_OUT, rwidth=0.9
    )
    for axes in (left, right):
        _clean(axes)
        axes.axhline(0, color=MODEL, linewidth=1.6, zorder=3)
    name = dataset.target_name
    rmse = evaluation.metrics["rmse"]
    title = f"Residuals of {_held_out(dataset)} (RMSE {_round(rmse)})"
    _label(left, title, f"predicted {name}", "actual - predicted")
    _label(right, "", "rows", "")
    right.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _loss(fitted: Fitted) -> Figure:
    losses = fitted.losses
    figure, axes = _figure(SIZE_INCHES)
    epochs = np.arange(1, len(losses) + 1)
    axes.plot(epochs, losses, color=HELD_OUT, linewidth=2.2)
    axes.scatter(epochs[-1:], losses[-1:], color=MODEL, zorder=3, s=36)
    axes.annotate(
        _round(losses[-1]),
        (epochs[-1], losses[-1]),
        xytext=(0, 10),
        textcoords="offset points",
        ha="right",
        color=MODEL,
    )
    if len(losses) > 1 and min(losses) > 0 and max(losses) / min(losses) > 5:  # noqa: PLR2004
        axes.set_yscale("log")
    _label(axes, "Loss on the rows trained on", fitted.round_name, "loss")
    return figure


def _confusion(dataset: Dataset, evaluation: Evaluation) -> Figure:
    """Count in each cell, colour by the share of the actual label: rare labels are seen, too."""
    labels = np.unique(np.concatenate([dataset.test.target, evaluation.predictions]))
    counts = confusion_matrix(dataset.test.target, evaluation.predictions, labels=labels)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side_inches = float(np.clip(2.0 + 0.34 * len(labels), 5.2, 16))
    figure = Figure(figsize=(side_inches + 0.8, side_inches), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=30, format=PercentFormatter(1))
    bar.set_label("share of the actual label's rows", color=INK)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=9, colors=INK)
    cell_points = 0.7 * side_inches * 72 / len(labels)
    _write_labels(axes, [str(label) for label in labels], cell_points)
    _write_counts(axes, counts, shares, cell_points)
    accuracy = evaluation.metrics["accuracy"]
    _label(axes, f"{_held_out(dataset)} (accuracy {accuracy:.3f})", "predicted", "actual")
    axes.spines[:].set_visible(False)
    return figure


def _write_labels(axes: Axes, labels: list[str], cell_points: float) -> None:
    step = -(-len(labels) // MOST_LABELS_WRITTEN)
    places = range(0, len(labels), step)
    texts = [_plain(_shorten(label)) for label in labels[::step]]
    is_long = max(map(len, texts)) > LONGEST_LEVEL_LABEL
    tilt: dict[str, Any] = (
        {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if is_long else {}
    )
    size = float(np.clip(0.7 * cell_points * step, SMALLEST_TEXT_POINTS, LARGEST_TEXT_POINTS))
    axes.set_xticks(places, texts, fontsize=size, **tilt)
    axes.set_yticks(places, texts, fontsize=size)
    axes.tick_params(length=0, colors=INK)


def _shorten(label: str) -> str:
    """Cut the middle out: long labels often begin alike."""
    end = LONGEST_LABEL // 2
    return label if len(label) <= LONGEST_LABEL else f"{label[:end]}…{label[-end:]}"


def _write_counts(
    axes: Axes, counts: NDArray[Any], shares: NDArray[Any], cell_points: float
) -> None:
    """Write the numbers if they fit into their cells; a digit is about 0.65 of its height wide."""
    digits = len(f"{counts.max():,}")
    size = min(LARGEST_TEXT_POINTS, 0.9 * cell_points / (0.65 * digits))
    if size < SMALLEST_TEXT_POINTS:
        return
    for (row, column), count in np.ndenumerate(counts):
        color = "white" if shares[row, column] > 0.5 else INK if count else SEEN  # noqa: PLR2004
        style: dict[str, Any] = {"color": color, "fontsize": size}
        axes.text(column, row, f"{count:,}", ha="center", va="center", **style)


def _figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    _clean(axes)
    return figure, axes


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#c4cad1")
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.grid(color="#e9ecef", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_formatter(_Thousands())
    axes.yaxis.set_major_formatter(_Thousands())


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, color=INK, pad=10)
    axes.set_xlabel(_plain(x), color=INK)
    axes.set_ylabel(_plain(y), color=INK)


def _plain(text: str) -> str:
    """Return text for matplotlib, which would read what stands between two dollars as TeX."""
    return text.replace("$", r"\$")


def _legend(axes: Axes) -> None:
    for handle in axes.legend(frameon=False, fontsize=9, loc="upper left").legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_alpha(1)
            handle.set_sizes([20])


def _held_out(dataset: Dataset) -> str:
    return f"{len(dataset.test.rows):,} held-out rows"


def _round(value: float) -> str:
    """Return four digits, or all whole ones: no exponent where it can be done without."""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e12 else f"{value:,.4g}"  # noqa: PLR2004


class _Thousands(ScalarFormatter):
    """Plain numbers with separators; exponents for the very small and the very large only."""

    def __init__(self) -> None:
        super().__init__(useOffset=False)
        self.set_powerlimits((-5, 12))

    def __call__(self, x: float, pos: int | None = None) -> str:
        whole, point, fraction = super().__call__(x, pos).partition(".")
        return re.sub(r"(?<=\d)(?=(\d{3})+$)", ",", whole) + point + fraction


def _dots(color: str, rows: int, size: int = 18) -> dict[str, Any]:
    """Many dots are small and translucent, so that where they crowd is where it is dark."""
    if rows > MOST_SOLID_DOTS:
        alpha = float(np.clip(20 / np.sqrt(rows), 0.06, 0.4))
        return {"color": color, "s": 6, "alpha": alpha, "linewidths": 0}
    return {"color": color, "s": size, "alpha": 0.85, "edgecolors": "white", "linewidths": 0.5}


def _finite(actual: Floats, predicted: Floats) -> tuple[Floats, Floats]:
    """Return what can be drawn: the gate refuses a model that predicts anything else."""
    is_finite = np.isfinite(predicted)
    return actual[is_finite], predicted[is_finite]


def _range(*values: NDArray[Any]) -> tuple[float, float]:
    every = np.concatenate(values)
    if not len(every):
        return 0.0, 1.0
    low, high = float(every.min()), float(every.max())
    edge = 0.05 * (high - low or 1.0)
    return low - edge, high + edge


def _bins(values: NDArray[Any]) -> int:
    return int(np.clip(np.sqrt(len(values)) * 2, 8, 40))
