"""The estimator is named by its import path, and checked before anything runs."""

from __future__ import annotations

from typing import Any

import pytest
from sklearn.base import is_regressor
from sklearn.pipeline import Pipeline

from train.errors import BadSettingsError
from train.estimator import build, last_step
from train.settings import TrainSettings


def settings(estimator: dict[str, Any], task: str = "regression") -> TrainSettings:
    """Settings of that estimator."""
    return TrainSettings.model_validate({"estimator": estimator, "task": task})


def test_seed_becomes_the_random_state_unless_one_is_given() -> None:
    """The job's seed reaches the estimator; a parameter goes before it."""
    path = "sklearn.linear_model.SGDRegressor"
    assert build(settings({"path": path})).random_state == 42
    assert build(settings({"path": path, "parameters": {"random_state": 1}})).random_state == 1


def test_standardize_puts_a_scaler_before_it() -> None:
    """The model is then a pipeline, and stays a regressor."""
    made = build(settings({"path": "sklearn.linear_model.Ridge", "standardize": True}))
    assert isinstance(made, Pipeline)
    assert is_regressor(made)
    assert type(last_step(made)).__name__ == "Ridge"


@pytest.mark.parametrize(
    ("estimator", "text"),
    [
        ({"path": "nosuch.module.Model"}, "'nosuch.module.Model' can't be imported"),
        ({"path": "Model"}, "'Model' can't be imported"),
        ({"path": "sklearn.linear_model.Nothing"}, "can't be imported"),
        ({"path": "pathlib.Path"}, "is no scikit-learn estimator class"),
        ({"path": "sklearn.metrics.r2_score"}, "is no scikit-learn estimator class"),
        ({"path": "sklearn.linear_model.LogisticRegression"}, "is not made for regression"),
        ({"path": "sklearn.preprocessing.StandardScaler"}, "is not made for regression"),
        ({"path": "sklearn.linear_model.Ridge", "parameters": {"alfa": 1}}, "takes ['alpha'"),
        ({"path": "sklearn.linear_model.Ridge", "epochs": 3}, "has no partial_fit"),
    ],
)
def test_estimator_that_cannot_be_used_is_refused(estimator: dict[str, Any], text: str) -> None:
    """Each fault has exit code 2 and says what would do."""
    with pytest.raises(BadSettingsError) as caught:
        build(settings(estimator))
    assert text in str(caught.value)
