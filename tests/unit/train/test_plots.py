"""Pictures that fit the task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from train import plots
from train.data import load
from train.evaluate import evaluate
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
    settings = make_settings(table, **sections)
    dataset = load(settings)
    fitted = fit(settings, dataset.train.features, dataset.train.target)
    measured = evaluate(fitted.model, dataset.test.features, dataset.test.target, settings.task)
    figures = plots.draw(settings, dataset, fitted, measured)
    assert set(figures) == names
    for name, figure in figures.items():
        plots.save(figure, str(tmp_path / name))
        content = (tmp_path / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert int.from_bytes(content[16:20]) >= 800
