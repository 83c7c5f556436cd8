"""The arithmetic of linear models gives what scikit-learn gives, bit for bit."""

from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.linear_model import (
    ElasticNet,
    Lasso,
    LinearRegression,
    LogisticRegression,
    Ridge,
    SGDRegressor,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from serve_app.models.linear import arithmetic

RANDOM = np.random.default_rng(0)
KNOWN = {
    "least squares": LinearRegression(),
    "no intercept": LinearRegression(fit_intercept=False),
    "ridge": Ridge(),
    "lasso": Lasso(alpha=0.01),
    "elastic net": ElasticNet(alpha=0.01),
    "gradient descent": SGDRegressor(random_state=0),
    "the default": make_pipeline(StandardScaler(), SGDRegressor(random_state=0, average=True)),
    "scaled in part": make_pipeline(
        StandardScaler(with_mean=False), StandardScaler(with_std=False), Ridge()
    ),
}


class OwnRegression(LinearRegression):  # type: ignore[misc]
    """Predicts something else."""

    def predict(self, rows: Any) -> Any:
        """Twice."""
        return super().predict(rows) * 2


OTHERS = {
    "a subclass": OwnRegression(),
    "classes": LogisticRegression(),
    "other steps": make_pipeline(PolynomialFeatures(), LinearRegression()),
    "a step left out": Pipeline([("scale", "passthrough"), ("fit", LinearRegression())]),
    "many targets": LinearRegression(),
}


def fitted(estimator: BaseEstimator, features: int, targets: int = 1) -> Any:
    """The estimator, fitted on random rows."""
    rows = RANDOM.normal(2.0, 3.0, (50, features))
    wanted = rows @ RANDOM.normal(size=(features, targets)) + RANDOM.normal(size=(50, targets))
    if isinstance(estimator, LogisticRegression):
        wanted = wanted > wanted.mean()
    return estimator.fit(rows, wanted[:, 0] if targets == 1 else wanted)


@pytest.mark.parametrize("features", [1, 10])
@pytest.mark.parametrize("name", KNOWN)
def test_a_linear_model_predicts_as_it_would_itself(name: str, features: int) -> None:
    """For any number of rows, and without touching them."""
    estimator = fitted(KNOWN[name], features)
    predict = arithmetic(estimator)
    assert predict is not None
    for count in (1, 2, 7, 64, 1000, 4096):
        rows = RANDOM.normal(0, 10.0 ** RANDOM.integers(-5, 5), (count, features))
        before = rows.copy()
        found, expected = predict(rows), estimator.predict(rows)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected, strict=True)
        np.testing.assert_array_equal(rows, before)


@pytest.mark.parametrize("name", OTHERS)
def test_what_may_do_anything_else_is_not_known(name: str) -> None:
    """It predicts by itself."""
    targets = 2 if name == "many targets" else 1
    assert arithmetic(fitted(OTHERS[name], 3, targets)) is None
