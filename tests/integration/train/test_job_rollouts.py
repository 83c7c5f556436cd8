"""Jobs where the serving side runs rollouts: the champion stays, and the output says so."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from contract import names
from serve_app.control.tracker import MlflowTracker
from serve_app.rollouts.policy import Policy
from serve_app.settings import Settings
from tests.integration.train.promoting import promoter
from tests.integration.train.registry import aliases, versions
from train.__main__ import main

MODEL = "walked"
Train = Callable[..., subprocess.CompletedProcess[str]]
WriteConfig = Callable[..., Path]
QUICK: dict[str, Any] = {"gate": {"minimum": {}}, "cross_validation": {"folds": 0}}


def boosting(trees: int) -> dict[str, Any]:
    """Settings of a small estimator."""
    path = "sklearn.ensemble.GradientBoostingRegressor"
    return {"path": path, "parameters": {"n_estimators": trees, "max_depth": 1}}


@pytest.fixture(scope="module")
def walked(train: Train, write_config: WriteConfig, mlflow_client: MlflowClient) -> Path:
    """The config of a job that has made version 2 challenger, beside version 1, the champion."""
    mlflow_client.create_registered_model(MODEL, {names.TAG_ROLLOUTS: names.ON})
    first = write_config(MODEL, estimator=boosting(1), **QUICK)
    done = train("--config", first)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "walked version 1 is champion now"
    second = write_config(MODEL, estimator=boosting(2), **QUICK)
    done = train("--config", second)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == (
        "walked version 2 is challenger now: the rollout decides whether it becomes champion "
        "(python -m serve_app rollout status)"
    )
    return second


@pytest.fixture(autouse=True)
def _address(mlflow_server: str) -> Iterator[None]:
    """Name the MLflow server, and give the environment back as it was."""
    before = dict(os.environ)
    os.environ["MLFLOW_TRACKING_URI"] = mlflow_server
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def again(walked: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Run the second job again, in this process: it ends before it needs Ray."""

    def run() -> str:
        assert main(["--config", str(walked)]) == 0
        return capsys.readouterr().out.splitlines()[-1]

    return run


@pytest.mark.system
def test_job_makes_a_challenger_and_says_so(walked: Path, mlflow_client: MlflowClient) -> None:
    """Exit code 0 for either; the version carries the gate's word, and no promotion."""
    assert aliases(mlflow_client, MODEL) == {names.CHAMPION: "1", names.CHALLENGER: "2"}
    tags = mlflow_client.get_model_version(MODEL, "2").tags
    assert tags[names.TAG_DECISION] == "passed"
    assert tags[names.TAG_JUDGED_AGAINST] == "1"
    assert not any(key.startswith(names.TAG_PROMOTION) for key in tags)


@pytest.mark.system
def test_same_job_again_says_that_its_version_is_challenger(
    again: Callable[[], str], mlflow_client: MlflowClient
) -> None:
    """Nothing is fitted or registered."""
    said = again()
    assert said.startswith("nothing changed since walked version 2 was trained")
    assert "and it is challenger: nothing registered" in said
    assert versions(mlflow_client, MODEL) == ["2", "1"]


@pytest.mark.system
def test_same_job_again_says_why_its_rollout_was_aborted(
    walked: Path, again: Callable[[], str], mlflow_client: MlflowClient
) -> None:
    """With the first reason, and the command that brings it back, which works."""
    promoter(mlflow_client, MODEL).drop_challenger("2", names.ABORTED, ["5% errors", "slow"])
    assert again() == (
        "nothing changed since walked version 2 was trained; its rollout was aborted (5% errors), "
        "and that stands: nothing registered. To make it champion all the same: "
        "python -m train promote --version 2 --reason TEXT"
    )
    assert versions(mlflow_client, MODEL) == ["2", "1"]
    assert aliases(mlflow_client, MODEL) == {names.CHAMPION: "1"}
    command = ["promote", "--version", "2", "--reason", "checked by hand"]
    assert main([*command, "--config", str(walked)]) == 0
    assert again().endswith("and it is champion: nothing registered")


@pytest.mark.system
def test_same_job_again_leaves_a_model_without_champion_so(
    again: Callable[[], str], mlflow_client: MlflowClient
) -> None:
    """Who removed the alias on MLflow's page is respected, and told how to bring it back."""
    promoter(mlflow_client, MODEL).promote_version("2", "by hand")
    mlflow_client.delete_registered_model_alias(MODEL, names.CHAMPION)
    assert again().endswith(
        "; no champion now: nothing registered. To bring it back: "
        "python -m train promote --version 2 --reason TEXT"
    )


@pytest.mark.parametrize(("enabled", "said"), [(True, names.ON), (False, names.OFF)])
def test_jobs_go_by_what_the_service_says(
    mlflow_server: str, mlflow_client: MlflowClient, enabled: bool, said: str
) -> None:
    """It says so when it looks at the registry, by the one setting that turns rollouts off."""
    model = f"said-{said}"
    mlflow_client.create_registered_model(model)
    settings = Settings(
        model_name=model, mlflow_tracking_uri=mlflow_server, rollout=Policy(enabled=enabled)
    )
    MlflowTracker(settings).look()
    assert mlflow_client.get_registered_model(model).tags[names.TAG_ROLLOUTS] == said
