"""A start begins with the champion, and with what was decided before and isn't on record."""

import errno
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from contract import names
from contract.tracking import MlflowUnreachableError
from serve_app.control import memory
from serve_app.control.seed import seed
from serve_app.model_errors import ModelError, NoSuchModelError, UnservableModelError
from serve_app.models import model_files, registry
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


def test_a_full_disk_serves_what_was_served_last(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new champion can't be kept; the copy of the last one is there."""

    def resolve(_: Settings) -> ServedVersion:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(registry, "resolve", resolve)
    settings = Settings(cache_dir=directory.parent / "cache")
    with pytest.raises(OSError, match="No space left"):
        seed(settings)
    memory.remember(settings, last_of(directory))
    table = seed(settings)
    assert (table.champion.version.version, table.is_from_cache) == ("5", True)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RecursionError("too deep"), "RecursionError: too deep"),
        (UnservableModelError("a\x1b[2J"), "a?[2J"),
    ],
)
def test_whatever_the_champion_holds_what_was_served_last_is_served(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    says: str,
) -> None:
    """The log says why; a start that has nothing else to serve fails with the reason."""

    def resolve(_: Settings) -> ServedVersion:
        raise error

    monkeypatch.setattr(registry, "resolve", resolve)
    settings = Settings(cache_dir=directory.parent / "cache")
    with pytest.raises(UnservableModelError):
        seed(settings)
    memory.remember(settings, last_of(directory))
    table = seed(settings)
    assert (table.champion.version.version, table.is_from_cache) == ("5", True)
    assert f"{says}; version 5, which was served last, is served" in caplog.messages


def test_without_a_champion_what_was_served_last_is_served(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The alias was removed: until one is named again, a start must be possible."""

    def resolve(_: Settings) -> ServedVersion:
        raise NoSuchModelError("no champion")

    monkeypatch.setattr(registry, "resolve", resolve)
    settings = Settings(cache_dir=directory.parent / "cache")
    with pytest.raises(NoSuchModelError, match="no champion"):
        seed(settings)
    last = last_of(directory)
    memory.remember(settings, last)
    table = seed(settings)
    assert (table.champion.version.version, table.is_from_cache) == ("5", True)
    assert table.unrecorded == ABORTED
    assert "no champion; version 5, which was served last, is served" in caplog.messages


def test_a_directory_that_is_gone_is_named(directory: Path) -> None:
    """Nothing else has its files, and the way out is to write it again."""
    settings = Settings(
        model_served="local", model_dir=directory, cache_dir=directory.parent / "cache"
    )
    memory.remember(settings, last_of(directory))
    directory.rename(directory.parent / "elsewhere")
    with pytest.raises(NoSuchModelError, match="make export"):
        seed(settings)


def test_a_fault_of_the_settings_is_none_of_the_champions(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Public keys that can't be read say nothing good of what was served last."""

    def resolve(_: Settings) -> ServedVersion:
        raise ModelError("no keys")

    monkeypatch.setattr(registry, "resolve", resolve)
    settings = Settings(cache_dir=directory.parent / "cache")
    memory.remember(settings, last_of(directory))
    with pytest.raises(ModelError, match="no keys"):
        seed(settings)
