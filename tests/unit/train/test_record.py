"""What the run and the version say of the model, checked on the model as serving reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import skops.io

from contract import names
from contract.model_types import TRUSTED_TYPES
from train import data
from train.fit import fit
from train.record import example_prediction, flatten
from train.settings import TrainSettings

MakeSettings = Callable[..., TrainSettings]
LABELS = {
    "task": "classification",
    "split": {"by": "random", "test_size": 0.3},
}


@pytest.mark.parametrize(
    ("estimator", "target", "kind"),
    [
        ("sklearn.linear_model.LinearRegression", "y", float),
        ("sklearn.ensemble.GradientBoostingRegressor", "y", float),
        ("sklearn.ensemble.HistGradientBoostingRegressor", "y", float),
        ("sklearn.ensemble.RandomForestRegressor", "y", float),
        ("sklearn.neighbors.KNeighborsRegressor", "y", float),
        ("sklearn.linear_model.LogisticRegression", "kind", str),
        ("sklearn.ensemble.RandomForestClassifier", "kind", str),
        ("sklearn.ensemble.RandomForestClassifier", "number", int),
        # Training knows truth values as whole numbers.
        ("sklearn.ensemble.RandomForestClassifier", "truth", int),
    ],
)
def test_example_prediction_is_what_the_model_read_anew_predicts(
    estimator: str,
    target: str,
    kind: type,
    table: pd.DataFrame,
    make_settings: MakeSettings,
    tmp_path: Path,
) -> None:
    """To the last bit, as a JSON list of one number or label."""
    table = table.assign(truth=table["kind"] == "high")
    table = table.assign(number=table["truth"] + 4)
    sections: dict[str, Any] = {} if target == "y" else LABELS | {"data": {"target": target}}
    settings = make_settings(table, estimator={"path": estimator, "standardize": True}, **sections)
    part = data.load(settings).train
    fitted = fit(settings, part.features, part.target)
    recorded = json.loads(example_prediction(fitted, part))
    file = tmp_path / names.MODEL_FILE
    skops.io.dump(fitted.model, file)
    read = skops.io.load(file, trusted=list(TRUSTED_TYPES))
    assert recorded == read.predict(part.features[:1]).tolist()
    assert type(recorded[0]) is kind


def test_example_prediction_is_of_the_first_row(
    table: pd.DataFrame, make_settings: MakeSettings
) -> None:
    """Rows differ, so that another one's prediction isn't the same."""
    settings = make_settings(table)
    part = data.load(settings).train
    fitted = fit(settings, part.features, part.target)
    predicted = fitted.model.predict(part.features)
    assert json.loads(example_prediction(fitted, part)) == pytest.approx([predicted[0]])
    assert predicted[0] != pytest.approx(predicted[1])


def test_example_prediction_that_is_no_number_is_null(
    table: pd.DataFrame, make_settings: MakeSettings
) -> None:
    """JSON has no NaN and no infinity; serving refuses such a model by itself."""
    settings = make_settings(table)
    part = data.load(settings).train
    fitted = fit(settings, part.features, part.target)
    fitted.model.coef_[:] = float("inf")
    assert example_prediction(fitted, part) == "[null]"


def test_settings_are_parameters_by_dotted_name() -> None:
    """Keys that MLflow doesn't take in a name, such as labels, stay together with their values."""
    weights = {"<=50K": 1, ">50K": 3}
    parameters = {"C": 2, "class_weight": weights, "by_number": {0: 1, 1: 5}}
    assert flatten({"estimator": {"parameters": parameters}, "seed": 1}) == {
        "estimator.parameters.C": 2,
        "estimator.parameters.class_weight": weights,
        "estimator.parameters.by_number.0": 1,
        "estimator.parameters.by_number.1": 5,
        "seed": 1,
    }
