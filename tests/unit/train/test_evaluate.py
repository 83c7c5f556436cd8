"""Metrics on held-out rows and by cross-validation."""

from __future__ import annotations

from collections.abc import Callable

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsRegressor

from train.data import Matrix, load
from train.errors import BadSettingsError
from train.evaluate import cross_validate, evaluate
from train.settings import METRICS, TrainSettings

MakeSettings = Callable[..., TrainSettings]
X = np.arange(6.0)[:, None]


class Broken(BaseEstimator):  # type: ignore[misc]
    """A model that answers infinity."""

    def predict(self, features: Matrix) -> Matrix:
        """Return infinity for each row."""
        return np.full(len(features), np.inf)


def test_regression_metrics_are_those_of_their_definitions() -> None:
    """A constant guess of 2 for 1, 2, 3 errs by 1, 0, 1."""
    model = DummyRegressor(strategy="constant", constant=2.0).fit(X[:3], [1, 2, 3])
    found = evaluate(model, X[:3], np.array([1.0, 2.0, 3.0]), "regression").metrics
    assert tuple(found) == METRICS["regression"]
    assert found == pytest.approx({"r2": 0, "mse": 2 / 3, "rmse": (2 / 3) ** 0.5, "mae": 2 / 3})


def test_classification_metrics_are_those_of_their_definitions() -> None:
    """Always saying 0 is right for four rows of six, and for one label of two."""
    target = np.array([0, 0, 0, 0, 1, 1])
    model = DummyClassifier(strategy="most_frequent").fit(X, target)
    found = evaluate(model, X, target, "classification").metrics
    assert tuple(found) == METRICS["classification"]
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["balanced_accuracy"] == pytest.approx(0.5)


def test_label_never_seen_in_training_counts_as_wrong() -> None:
    """Such a row has no probability, so there is no log loss, and no error either."""
    model = LogisticRegression().fit(X[:4], ["a", "a", "b", "b"])
    found = evaluate(model, X, np.array(["a", "a", "b", "b", "c", "c"]), "classification").metrics
    assert "log_loss" not in found
    assert found["accuracy"] == pytest.approx(4 / 6)


def test_predictions_that_are_no_numbers_have_no_metrics() -> None:
    """NaN predictions give NaN metrics, which the gate refuses."""
    found = evaluate(Broken(), X, np.arange(6.0), "regression").metrics
    assert all(np.isnan(value) for value in found.values())


def test_an_estimator_that_cannot_predict_is_a_bad_setting() -> None:
    """It was fitted, and fails on other rows: one line says so."""
    model = KNeighborsRegressor(n_neighbors=5).fit(X[:3], np.arange(3.0))
    with pytest.raises(BadSettingsError, match=r"KNeighborsRegressor was fitted, but can't pred"):
        evaluate(model, X, np.arange(6.0), "regression")


def test_cross_validation_does_not_depend_on_the_number_of_workers(
    table: pd.DataFrame, make_settings: MakeSettings
) -> None:
    """Each fold has its metrics, whoever computes it."""
    settings = make_settings(table)
    part = load(settings).train
    alone = cross_validate(settings, part)
    with joblib.parallel_config("threading", n_jobs=2):
        assert cross_validate(settings, part) == alone
    assert tuple(alone) == METRICS["regression"]
    assert all(len(values) == 3 for values in alone.values())
    assert min(alone["r2"]) > 0.9
