"""Fitting: the default model reaches its goal, again and again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from train.data import Dataset, load
from train.errors import BadSettingsError
from train.evaluate import evaluate
from train.fit import Fitted, check_trusted, fit
from train.settings import TrainSettings, read
from train.weights import describe

ROOT = Path(__file__).parents[3]
MakeSettings = Callable[..., TrainSettings]


@pytest.fixture(scope="module")
def default() -> tuple[TrainSettings, Dataset, Fitted]:
    """The shipped settings, their data, and the model fitted once."""
    settings = read(ROOT / "train_config.yaml")
    dataset = load(settings)
    return settings, dataset, fit(settings, dataset.train.features, dataset.train.target)


def test_default_model_is_the_least_squares_line(
    default: tuple[TrainSettings, Dataset, Fitted],
) -> None:
    """Stochastic gradient descent ends within 10 and 2 of the exact solution, in bmi's own unit."""
    _, dataset, fitted = default
    own = describe(fitted.model, dataset.feature_names)["own_units"]
    exact = LinearRegression().fit(dataset.train.features, dataset.train.target)
    assert 920 <= own["slope"]["bmi"] <= 940
    assert 151 <= own["intercept"] <= 153
    assert own["slope"]["bmi"] == pytest.approx(exact.coef_[0], abs=10)
    assert own["intercept"] == pytest.approx(exact.intercept_, abs=2)


def test_default_model_is_good_on_the_held_out_rows(
    default: tuple[TrainSettings, Dataset, Fitted],
) -> None:
    """R² is at least 0.47 and the mean squared error at most 2565."""
    settings, dataset, fitted = default
    test = dataset.test
    measured = evaluate(fitted.model, test.features, test.target, settings.task).metrics
    assert measured["r2"] >= 0.47
    assert measured["mse"] <= 2565


@pytest.mark.parametrize("seed", range(5))
def test_default_model_reaches_its_goal_with_other_seeds(seed: int) -> None:
    """The schedule converges; it's no lucky seed."""
    settings = read(ROOT / "train_config.yaml").model_copy(update={"seed": seed})
    dataset = load(settings)
    fitted = fit(settings, dataset.train.features, dataset.train.target)
    own = describe(fitted.model, dataset.feature_names)["own_units"]
    assert 920 <= own["slope"]["bmi"] <= 940
    assert 151 <= own["intercept"] <= 153


def test_same_seed_gives_the_same_weights_bit_for_bit(
    default: tuple[TrainSettings, Dataset, Fitted],
) -> None:
    """Fitting again changes no bit; another seed does."""
    settings, dataset, fitted = default
    again = fit(settings, dataset.train.features, dataset.train.target)
    other = fit(
        settings.model_copy(update={"seed": 1}), dataset.train.features, dataset.train.target
    )
    bits = [model.model["model"].coef_.tobytes() for model in (fitted, again, other)]
    assert bits[0] == bits[1] != bits[2]
    assert fitted.losses == again.losses


def test_every_epoch_has_its_loss(default: tuple[TrainSettings, Dataset, Fitted]) -> None:
    """The last loss is the training error of the model that is kept."""
    settings, dataset, fitted = default
    train = dataset.train
    assert len(fitted.losses) == settings.estimator.epochs
    assert fitted.losses[0] > fitted.losses[-1]
    mse = np.square(fitted.model.predict(train.features) - train.target).mean()
    assert fitted.losses[-1] == pytest.approx(mse)


def test_progress_hears_of_every_epoch(table: pd.DataFrame, make_settings: MakeSettings) -> None:
    """The bar moves once an epoch."""
    estimator = {"path": "sklearn.linear_model.SGDRegressor", "epochs": 3, "standardize": True}
    settings = make_settings(table, estimator=estimator)
    dataset = load(settings)
    heard: list[tuple[int, int]] = []
    fit(
        settings,
        dataset.train.features,
        dataset.train.target,
        on_epoch=lambda done, total: heard.append((done, total)),
    )
    assert heard == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("loss", ["log_loss", "hinge"])
def test_classifier_is_fitted_by_epochs(
    table: pd.DataFrame, make_settings: MakeSettings, loss: str
) -> None:
    """With and without probabilities, text labels and all."""
    estimator = {
        "path": "sklearn.linear_model.SGDClassifier",
        "parameters": {"loss": loss},
        "epochs": 5,
        "standardize": True,
    }
    settings = make_settings(
        table, task="classification", data={"target": "kind"}, estimator=estimator
    )
    dataset = load(settings)
    fitted = fit(settings, dataset.train.features, dataset.train.target)
    assert len(fitted.losses) == 5
    assert set(fitted.model.predict(dataset.test.features)) <= {"high", "low"}


def test_boosting_brings_its_own_losses(table: pd.DataFrame, make_settings: MakeSettings) -> None:
    """An estimator that records its losses needs no epochs."""
    path = "sklearn.ensemble.GradientBoostingRegressor"
    estimator = {"path": path, "parameters": {"n_estimators": 7}}
    settings = make_settings(table, estimator=estimator)
    dataset = load(settings)
    assert len(fit(settings, dataset.train.features, dataset.train.target).losses) == 7


def test_warnings_are_kept_for_the_reader(table: pd.DataFrame, make_settings: MakeSettings) -> None:
    """A solver that didn't converge says so once."""
    estimator = {
        "path": "sklearn.neural_network.MLPRegressor",
        "parameters": {"max_iter": 2, "hidden_layer_sizes": [3]},
    }
    settings = make_settings(table, estimator=estimator)
    dataset = load(settings)
    (text,) = fit(settings, dataset.train.features, dataset.train.target).warnings
    assert "Maximum iterations (2) reached" in text


def test_parameter_out_of_range_is_a_settings_error(
    table: pd.DataFrame, make_settings: MakeSettings
) -> None:
    """scikit-learn checks values when it fits; that is still exit code 2."""
    estimator = {"path": "sklearn.linear_model.Ridge", "parameters": {"alpha": -1}}
    settings = make_settings(table, estimator=estimator)
    dataset = load(settings)
    with pytest.raises(BadSettingsError, match="can't be fitted: The 'alpha' parameter of Ridge"):
        fit(settings, dataset.train.features, dataset.train.target)


def test_types_that_serving_refuses_are_refused(
    table: pd.DataFrame, make_settings: MakeSettings
) -> None:
    """A model whose file holds a foreign type ends the job, unless the type is allowed."""
    estimator = {
        "path": "sklearn.neighbors.KNeighborsRegressor",
        "parameters": {"algorithm": "ball_tree"},
    }
    settings = make_settings(table, estimator=estimator)
    dataset = load(settings)
    fitted = fit(settings, dataset.train.features, dataset.train.target)
    with pytest.raises(BadSettingsError, match="extra_trusted_types") as caught:
        check_trusted(fitted.model, ())
    assert "sklearn.neighbors._ball_tree.BallTree" in str(caught.value)
    check_trusted(fitted.model, ("sklearn.neighbors._ball_tree.BallTree",))
