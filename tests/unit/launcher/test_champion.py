"""What a start makes of a registry that names no champion."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher import mlflow_server, training
from launcher.errors import LaunchError, SettingError
from launcher.layout import Layout
from launcher.system import Options, System
from serve_app.control import memory
from serve_app.models.served import ServedVersion
from serve_app.settings import Settings

URI = "http://127.0.0.1:5000"
TRAINS_BY = "train_config.yaml"


class Registry:
    """MLflow's answers, one after the other, and the training job's exit code."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, champions: list[bool], code: int) -> None:
        self.jobs: list[list[str]] = []
        answers: Iterator[bool] = iter(champions)
        monkeypatch.setattr(mlflow_server, "has_champion", lambda *asked: next(answers))

        def run(cluster: object, root: Path, arguments: list[str], environ: object) -> int:
            self.jobs.append(arguments)
            return code

        monkeypatch.setattr(training, "run", run)


def ensure(root: Path, trains_by: str | None = TRAINS_BY, name: str = "diabetes") -> None:
    """Look for the champion as a start in `root` does."""
    (root / TRAINS_BY).write_text("model_name: diabetes\n")
    layout = Layout(root, root / "var" / "ray_token")
    layout.make()
    system = System(layout, Options(trains_by=trains_by), {})
    system._needs_mlflow = True
    system._ensure_champion(URI, Settings(model_name=name), "http://127.0.0.1:8265")


@pytest.fixture
def remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the node have served a version of whatever was at the launcher's own MLflow."""

    def recall(settings: Settings) -> memory.Remembered | None:
        assert settings.mlflow_tracking_uri == URI
        assert settings.cache_dir.parts[-2:] == ("var", "cache")
        return memory.Remembered(1, ServedVersion("diabetes", "1", None, "models:/d/1", "x"), ())

    monkeypatch.setattr(memory, "recall", recall)


def test_a_first_model_is_trained_and_the_start_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job makes it champion."""
    registry = Registry(monkeypatch, [False, True], 0)
    ensure(tmp_path)
    assert registry.jobs == [["--config", TRAINS_BY]]


def test_a_job_that_names_no_champion_is_not_taken_for_one_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names a command that works while nothing runs."""
    Registry(monkeypatch, [False, False], 0)
    with pytest.raises(SettingError) as refused:
        ensure(tmp_path)
    store = f"MLFLOW_TRACKING_URI=sqlite:///{tmp_path}/var/mlflow/mlflow.db"
    assert store in str(refused.value)
    assert "-m train promote --config train_config.yaml --version N" in str(refused.value)
    assert "make train" not in str(refused.value)


@pytest.mark.usefixtures("remembers")
@pytest.mark.parametrize(
    ("trains_by", "name", "code"),
    [
        (TRAINS_BY, "diabetes", 0),
        (TRAINS_BY, "diabetes", 3),
        (TRAINS_BY, "other", 0),
        (None, "", 0),
    ],
)
def test_what_was_served_here_last_goes_on_without_a_champion(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trains_by: str | None,
    name: str,
    code: int,
) -> None:
    """Whatever becomes of training, and with the command that names one."""
    Registry(monkeypatch, [False, False], code)
    ensure(tmp_path, trains_by, name or "diabetes")
    said = capsys.readouterr().out
    assert "starting with what was served here last" in said
    assert "make promote VERSION=N" in said


def test_without_anything_to_serve_a_job_that_fails_ends_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code is named."""
    Registry(monkeypatch, [False, False], 3)
    with pytest.raises(LaunchError, match="ended with code 3"):
        ensure(tmp_path)
