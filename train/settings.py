"""The settings of one training job: strict, frozen, read once from `train_config.yaml`."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from contract import names
from contract.strict import SettingsError, Strict, parse, read_yaml
from train.errors import BadSettingsError
from train.gate import Policy

Task = Literal["regression", "classification"]

METRICS: dict[str, tuple[str, ...]] = {
    "regression": ("r2", "mse", "rmse", "mae"),
    "classification": ("accuracy", "balanced_accuracy", "f1_macro", "log_loss"),
}
ERRORS = ("mse", "rmse", "mae", "log_loss")
"""The metrics of which less is better."""

DEFAULT_MINIMUM = {"regression": {"r2": 0.4}, "classification": {"accuracy": 0.7}}

Size = Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)]
"""A number of rows, or a share of them."""


class DataSettings(Strict):
    """Where the rows come from, and which columns are used."""

    source: str = Field(default="sklearn://diabetes", min_length=1)
    format: Literal["csv", "parquet"] | None = None
    target: str = "target"
    features: Literal["all"] | Annotated[tuple[str, ...], Field(min_length=1)] = ("bmi",)
    minimum_train_rows: int = Field(default=20, ge=2)
    minimum_test_rows: int = Field(default=10, ge=2)


class LastSplit(Strict):
    """The last rows of the source are held out."""

    by: Literal["last"]
    test_size: Size


class RandomSplit(Strict):
    """Rows drawn with the job's seed are held out (stratified by label in classification)."""

    by: Literal["random"]
    test_size: Size


class TimeSplit(Strict):
    """The latest rows by a column of numbers or ISO 8601 dates are held out."""

    by: Literal["time"]
    column: str
    test_size: Size


Split = Annotated[LastSplit | RandomSplit | TimeSplit, Field(discriminator="by")]


class EstimatorSettings(Strict):
    """A scikit-learn estimator by its import path."""

    path: str = "sklearn.linear_model.SGDRegressor"
    parameters: dict[str, Any] = Field(default_factory=dict)
    standardize: bool = False
    epochs: int | None = Field(default=None, ge=1, le=100_000)


class CrossValidation(Strict):
    """How often the estimator is fitted on a part of the training rows and tested on the rest."""

    folds: int = Field(default=5, ge=0, le=100)

    @model_validator(mode="after")
    def _one_fold_is_none(self) -> Self:
        if self.folds == 1:
            raise ValueError("folds must be 0 (no cross-validation) or at least 2")
        return self


class Deadlines(Strict):
    """How long the job waits, in seconds, before it gives up."""

    read_s: float = Field(default=120, gt=0)
    ray_connect_s: float = Field(default=60, gt=0)
    compute_s: float = Field(default=300, gt=0)


class TrainSettings(Strict):
    """Everything that decides what a training job does, except where MLflow and Ray are."""

    model_name: str = Field(default=names.MODEL_NAME, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    experiment: str = Field(default=names.MODEL_NAME, min_length=1, max_length=200)
    task: Task = "regression"
    seed: int = Field(default=42, ge=0, lt=2**32)
    data: DataSettings = DataSettings()
    split: Split = LastSplit(by="last", test_size=20)
    estimator: EstimatorSettings = EstimatorSettings()
    cross_validation: CrossValidation = CrossValidation()
    gate: Policy = Policy()
    deadlines: Deadlines = Deadlines()
    extra_trusted_types: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _gate_names_known_metrics(self) -> Self:
        known = METRICS[self.task]
        for metric in (*(self.gate.minimum or {}), *self.gate.maximum):
            if metric not in known:
                raise ValueError(f"gate: no metric {metric!r} in {self.task}; there are {known}")
        for metric in self.gate.minimum or {}:
            if metric in ERRORS:
                raise ValueError(f"gate.minimum: of {metric} less is better; bound it in maximum")
        return self

    @property
    def policy(self) -> Policy:
        """The gate's policy, with the task's own thresholds where none are given."""
        if self.gate.minimum is not None:
            return self.gate
        return self.gate.model_copy(update={"minimum": DEFAULT_MINIMUM[self.task]})


def read(path: Path) -> TrainSettings:
    """Return the settings in a YAML file. Raises BadSettingsError naming the key and the value."""
    try:
        return parse(TrainSettings, read_yaml(path), str(path))
    except SettingsError as error:
        raise BadSettingsError(str(error)) from error
