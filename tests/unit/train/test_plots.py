"""Pictures that fit the task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from train import plots
from train.data import load
from train.evaluate import Evaluation, evaluate
from train.fit import fit
from train.settings import TrainSettings

MakeSettings = Callable[..., TrainSettings]
ONE = {"data": {"features": ["a"]}}
EPOCHS = {"estimator": {"path": "sklearn.linear_model.SGDRegressor", "epochs": 3}}
LABELS = {
    "task": "classification",
    "data": {"target": "kind"},
    "estimator": {"path": "sklearn.linear_model.LogisticRegression"},
}


def drawn(settings: TrainSettings) -> dict[str, Figure]:
    """Fit a model and draw it."""
    dataset = load(settings)
    fitted = fit(settings, dataset.train.features, dataset.train.target)
    measured = evaluate(fitted.model, dataset.test.features, dataset.test.target, settings.task)
    return plots.draw(settings, dataset, fitted, measured)


@pytest.mark.parametrize(
    ("sections", "names"),
    [
        ({}, {"predicted_against_actual.png", "residuals.png"}),
        (ONE, {"fit.png", "predicted_against_actual.png", "residuals.png"}),
        (
            ONE | EPOCHS,
            {"fit.png", "predicted_against_actual.png", "residuals.png", "loss.png"},
        ),
        (LABELS, {"confusion_matrix.png"}),
    ],
)
def test_each_task_has_its_pictures(
    tmp_path: Path,
    table: pd.DataFrame,
    make_settings: MakeSettings,
    sections: dict[str, Any],
    names: set[str],
) -> None:
    """Every picture is a PNG of a size that can be read."""
    figures = drawn(make_settings(table, **sections))
    assert set(figures) == names
    for name, figure in figures.items():
        plots.save(figure, str(tmp_path / name))
        content = (tmp_path / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert int.from_bytes(content[16:20]) >= 800


@pytest.mark.parametrize("sections", [ONE, LABELS])
def test_dollars_are_drawn_as_they_are(
    tmp_path: Path, table: pd.DataFrame, make_settings: MakeSettings, sections: dict[str, Any]
) -> None:
    """Two of them in a name or a label aren't taken for TeX, which most names would not be."""
    table = table.rename(columns={"a": "cost_$_per_$_x"}).replace({"kind": {"low": "$0_$50"}})
    sections = sections | {"data": sections["data"] | {"features": ["cost_$_per_$_x"]}}
    for name, figure in drawn(make_settings(table, **sections)).items():
        plots.save(figure, str(tmp_path / name))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("every", [False, True])
def test_predictions_that_are_no_numbers_are_not_drawn(
    tmp_path: Path, table: pd.DataFrame, make_settings: MakeSettings, bad: float, every: bool
) -> None:
    """The gate says what is wrong with them; the pictures have the rest."""
    settings = make_settings(table)
    dataset = load(settings)
    fitted = fit(settings, dataset.train.features, dataset.train.target)
    predictions = dataset.test.target.copy()
    predictions[: len(predictions) if every else 1] = bad
    metrics = dict.fromkeys(("r2", "mse", "rmse", "mae"), float("nan"))
    figures = plots.draw(settings, dataset, fitted, Evaluation(metrics, predictions))
    for name, figure in figures.items():
        plots.save(figure, str(tmp_path / name))


def test_many_labels_have_room_and_their_counts(
    table: pd.DataFrame, make_settings: MakeSettings
) -> None:
    """With 25 labels the figure grows, and every cell still says how many rows it holds."""
    rows = pd.concat([table.assign(a=table["a"] + 0.01 * n) for n in range(10)], ignore_index=True)
    rows["kind"] = [f"category {row % 25:02d}" for row in range(len(rows))]
    few = drawn(make_settings(table, **LABELS))["confusion_matrix.png"]
    many = drawn(make_settings(rows, **LABELS | {"split": {"by": "random", "test_size": 0.25}}))
    figure = many["confusion_matrix.png"]
    assert figure.get_figwidth() > few.get_figwidth()
    assert len(figure.axes[0].texts) == 25 * 25
    assert figure.axes[0].get_xticklabels()[0].get_rotation() == 45
    assert "150 held-out rows" in figure.axes[0].get_title(loc="left")


def test_thousands_are_separated_and_crowds_are_translucent(
    table: pd.DataFrame, make_settings: MakeSettings
) -> None:
    """Eight thousand rows of prices give a picture that can be read."""
    generator = np.random.default_rng(4)
    a = generator.normal(5, 2, 8_000)
    rows = pd.DataFrame({"a": a, "b": -a, "y": 1e6 * a + generator.normal(size=len(a))})
    split = {"by": "random", "test_size": 0.5}
    axes = drawn(make_settings(rows, split=split))["predicted_against_actual.png"].axes[0]
    assert axes.yaxis.get_major_formatter().format_ticks([0.0, 5e6])[1] == "5,000,000"
    (dots,) = axes.collections
    (line,) = axes.lines
    assert (dots.get_alpha() or 1) < 0.5
    assert line.get_zorder() > dots.get_zorder()
    assert "4,000 held-out rows" in axes.get_title(loc="left")
