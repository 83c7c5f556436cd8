"""Settings are strict, and the shipped ones explain themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from train.errors import BadSettingsError
from train.settings import TrainSettings, read

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["train_config.yaml", "train_config_boosting.yaml"])
def test_shipped_settings_are_valid(name: str) -> None:
    """Both files in the repository's root can be used as they are."""
    assert read(ROOT / name).task == "regression"


def test_shipped_settings_name_every_key() -> None:
    """Whoever opens train_config.yaml sees all that can be set."""
    shipped = yaml.safe_load((ROOT / "train_config.yaml").read_text())
    assert set(shipped) == set(TrainSettings.model_fields)
    for name, value in read(ROOT / "train_config.yaml"):
        if isinstance(value, BaseModel):
            assert set(shipped[name]) == set(type(value).model_fields), name


def test_unknown_key_is_refused_by_name(tmp_path: Path) -> None:
    """A misspelt key is an error with exit code 2, not a silent default."""
    file = tmp_path / "train_config.yaml"
    file.write_text("estimator: {epoch: 3}\n")
    with pytest.raises(BadSettingsError, match=r"estimator\.epoch: unknown key") as caught:
        read(file)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "values",
    [
        {"model_name": "a/b"},
        {"task": "clustering"},
        {"split": {"by": "time", "test_size": 5}},
        {"split": {"by": "last", "test_size": 0}},
        {"split": {"by": "last", "test_size": 1.5}},
        {"split": {"by": "last", "test_size": 20, "column": "day"}},
        {"cross_validation": {"folds": 1}},
        {"data": {"features": []}},
        {"gate": {"minimum": {"accuracy": 0.5}}},
        {"gate": {"minimum": {"mse": 0.5}}},
        {"task": "classification", "gate": {"minimum": {"log_loss": 0.3}}},
        {"gate": {"margin": float("nan")}},
        {"gate": {"inconclusive": "maybe"}},
        {"seed": -1},
    ],
)
def test_values_that_make_no_sense_are_refused(values: dict[str, Any]) -> None:
    """Each fault is found before anything starts."""
    with pytest.raises(ValidationError):
        TrainSettings.model_validate(values)


def test_thresholds_default_to_those_of_the_task() -> None:
    """A gate that names no minimum has the task's own; an empty one has none."""
    assert TrainSettings().policy.minimum == {"r2": 0.4}
    assert TrainSettings(task="classification").policy.minimum == {"accuracy": 0.7}
    none = TrainSettings.model_validate({"gate": {"minimum": {}}})
    assert none.policy.minimum == {}
