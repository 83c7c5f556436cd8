"""Weights as JSON reproduce the predictions by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.cross_decomposition import PLSRegression
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from train.weights import describe

GENERATOR = np.random.default_rng(5)
X = GENERATOR.normal([3, -20], [1, 9], (50, 2))
Y = X @ [2.0, 0.5] + 7


@pytest.mark.parametrize("model", [Ridge(), make_pipeline(StandardScaler(), Ridge())])
def test_slope_and_intercept_are_in_the_features_own_units(model: Ridge) -> None:
    """With a scaler or without, intercept + slope x feature is the prediction."""
    own = json.loads(json.dumps(describe(model.fit(X, Y), ("a", "b"))))["own_units"]
    by_hand = own["intercept"] + X[:, 0] * own["slope"]["a"] + X[:, 1] * own["slope"]["b"]
    np.testing.assert_allclose(by_hand, model.predict(X))


def test_several_classes_have_one_equation_each() -> None:
    """Three labels make three equations, in the order of `classes`."""
    labels = np.digitize(Y, np.quantile(Y, [0.3, 0.6])).astype(str)
    described = describe(LogisticRegression(max_iter=1000).fit(X, labels), ("a", "b"))
    assert described["classes"] == ["0", "1", "2"]
    assert len(described["own_units"]) == 3


@pytest.mark.parametrize("model", [PoissonRegressor(), PLSRegression(n_components=1)])
def test_weights_that_are_no_sum_have_no_equation(model: Ridge) -> None:
    """A model whose prediction is something else than intercept + slope x feature claims none."""
    described = describe(model.fit(X / 20, np.abs(Y)), ("a", "b"))
    assert {"coef", "intercept"} <= set(described)
    assert "own_units" not in described


def test_trees_have_importances_and_neighbours_nothing() -> None:
    """What a model doesn't have is left out."""
    forest = describe(RandomForestRegressor(5, random_state=0).fit(X, Y), ("a", "b"))
    assert sum(forest["feature_importances"].values()) == pytest.approx(1)
    assert set(describe(KNeighborsRegressor().fit(X, Y), ("a", "b"))) == {"estimator", "features"}
