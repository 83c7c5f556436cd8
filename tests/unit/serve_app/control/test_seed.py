"""A start begins with the champion, and with what was decided before and isn't on record."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from contract import names
from contract.tracking import MlflowUnreachableError
from serve_app.control import memory
from serve_app.control.seed import seed
from serve_app.models import model_files
from serve_app.models.served import ServedVersion, describe
from serve_app.routing import Table, Write
from serve_app.settings import Settings
from tests import models

ABORTED = (Write("end_rollout", "2", names.ABORTED, "worse"),)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A model that can be served."""
    rows = np.arange(6.0).reshape(-1, 1)
    estimator = LinearRegression().fit(rows, rows[:, 0])
    return models.write(tmp_path / "model", estimator, rows, ["x"])


def last_of(directory: Path) -> Table:
    """What a node served last, that MLflow was not told all of."""
    version = ServedVersion("m", "5", None, str(directory), model_files.digest_of(directory))
    return Table(9, describe(version, model_files.read(directory)), unrecorded=ABORTED)


def test_an_abort_that_was_not_recorded_outlives_a_restart(directory: Path) -> None:
    """Else the rollout would be resumed, as MLflow still knows of it."""
    settings = Settings(
        model_served="local", model_dir=directory, cache_dir=directory.parent / "cache"
    )
    assert seed(settings).unrecorded == ()
    memory.remember(settings, last_of(directory))
    table = seed(settings)
    assert table.unrecorded == ABORTED
    assert (table.champion.version.version, table.is_from_cache) == ("local", False)


def test_without_mlflow_a_start_serves_what_was_served_last(directory: Path) -> None:
    """It says so, and has a newer table than that of before."""
    settings = Settings(cache_dir=directory.parent / "cache")
    with pytest.raises(MlflowUnreachableError):
        seed(settings)
    last = last_of(directory)
    memory.remember(settings, last)
    table = seed(settings)
    assert asdict(table.champion.version) == asdict(last.champion.version)
    assert table.epoch > last.epoch
    assert (table.unrecorded, table.is_from_cache) == (ABORTED, True)
