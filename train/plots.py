"""Pictures of a model for MLflow's page. They use no global state of matplotlib's pyplot."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
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
MOST_LABELS_WITH_NUMBERS = 20
LONGEST_LEVEL_LABEL = 8


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
        figures["loss.png"] = _loss(fitted.losses)
    return figures


def save(figure: Figure, file: str) -> None:
    """Write a figure as PNG."""
    figure.savefig(file, dpi=DOTS_PER_INCH, facecolor="white")


def _fit(dataset: Dataset, model: BaseEstimator, evaluation: Evaluation) -> Figure:
    figure, axes = _figure(SIZE_INCHES)
    train, test = dataset.train, dataset.test
    axes.scatter(train.features[:, 0], train.target, **_dots(SEEN), label="trained on")
    axes.scatter(test.features[:, 0], test.target, **_dots(HELD_OUT, 34), label="held out")
    ends = np.concatenate([train.features[:, 0], test.features[:, 0]])
    grid = np.linspace(ends.min(), ends.max(), 400)
    axes.plot(
        grid,
        model.predict(grid[:, None]),
        color=MODEL,
        linewidth=2.2,
        label=_equation(dataset, model),
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
    return f"model: {slope:.4g} {feature} {'-' if intercept < 0 else '+'} {abs(intercept):.4g}"


def _predicted(dataset: Dataset, evaluation: Evaluation) -> Figure:
    figure, axes = _figure((5.6, 5.4))
    actual, predicted = dataset.test.target, evaluation.predictions
    low, high = _range(actual, predicted)
    axes.plot([low, high], [low, high], color=MODEL, linewidth=1.6, label="perfect", zorder=1)
    axes.scatter(actual, predicted, **_dots(HELD_OUT, 34), label="held-out row")
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    _label(
        axes,
        f"Predicted against actual (R² {evaluation.metrics['r2']:.3f})",
        f"actual {dataset.target_name}",
        f"predicted {dataset.target_name}",
    )
    _legend(axes)
    return figure


def _residuals(dataset: Dataset, evaluation: Evaluation) -> Figure:
    figure = Figure(figsize=WIDE_INCHES, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    residuals = dataset.test.target - evaluation.predictions
    left.scatter(evaluation.predictions, residuals, **_dots(HELD_OUT, 34))
    right.hist(
        residuals, bins=_bins(residuals), orientation="horizontal", color=HELD_OUT, rwidth=0.9
    )
    for axes in (left, right):
        _clean(axes)
        axes.axhline(0, color=MODEL, linewidth=1.6, zorder=1)
    name = dataset.target_name
    rmse = evaluation.metrics["rmse"]
    _label(left, f"Residuals (RMSE {rmse:.4g})", f"predicted {name}", "actual - predicted")
    _label(right, "", "rows", "")
    right.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _loss(losses: tuple[float, ...]) -> Figure:
    figure, axes = _figure(SIZE_INCHES)
    epochs = np.arange(1, len(losses) + 1)
    axes.plot(epochs, losses, color=HELD_OUT, linewidth=2.2)
    axes.scatter(epochs[-1:], losses[-1:], color=MODEL, zorder=3, s=36)
    axes.annotate(
        f"{losses[-1]:.6g}",
        (epochs[-1], losses[-1]),
        xytext=(0, 10),
        textcoords="offset points",
        ha="right",
        color=MODEL,
    )
    if len(losses) > 1 and min(losses) > 0 and max(losses) / min(losses) > 5:  # noqa: PLR2004
        axes.set_yscale("log")
    _label(axes, "Loss on the rows trained on", "epoch", "loss")
    return figure


def _confusion(dataset: Dataset, evaluation: Evaluation) -> Figure:
    labels = np.unique(np.concatenate([dataset.test.target, evaluation.predictions]))
    counts = confusion_matrix(dataset.test.target, evaluation.predictions, labels=labels)
    figure = Figure(figsize=(6.0, 5.2), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(counts, cmap="Blues", vmin=0)
    texts = [str(label) for label in labels]
    tilt: dict[str, Any] = (
        {"rotation": 30, "ha": "right"} if max(map(len, texts)) > LONGEST_LEVEL_LABEL else {}
    )
    axes.set_xticks(range(len(labels)), texts, **tilt)
    axes.set_yticks(range(len(labels)), texts)
    axes.tick_params(length=0)
    if len(labels) <= MOST_LABELS_WITH_NUMBERS:
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if count > counts.max() / 2 else INK
            axes.text(column, row, f"{count}", ha="center", va="center", color=color)
    else:
        figure.colorbar(image, ax=axes, label="rows", shrink=0.85)
    accuracy = evaluation.metrics["accuracy"]
    _label(axes, f"Held-out rows (accuracy {accuracy:.3f})", "predicted", "actual")
    axes.spines[:].set_visible(False)
    return figure


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


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, color=INK, pad=10)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=9, loc="upper left")


def _dots(color: str, size: int = 18) -> dict[str, Any]:
    return {"color": color, "s": size, "alpha": 0.85, "edgecolors": "white", "linewidths": 0.5}


def _range(*values: NDArray[Any]) -> tuple[float, float]:
    every = np.concatenate(values)
    low, high = float(every.min()), float(every.max())
    edge = 0.05 * (high - low or 1.0)
    return low - edge, high + edge


def _bins(values: NDArray[Any]) -> int:
    return int(np.clip(np.sqrt(len(values)) * 2, 8, 40))
