"""Jobs that die, wait or find nobody: the next one ends right, and none waits for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from contract import names
from contract.lock import PromotionLock
from tests.integration.train.registry import aliases, only_run, versions

ROOT = Path(__file__).parents[3]
Train = Callable[..., subprocess.CompletedProcess[str]]
WriteConfig = Callable[..., Path]
QUICK: dict[str, Any] = {"gate": {"minimum": {}}, "cross_validation": {"folds": 0}}


def boosting(trees: int) -> dict[str, Any]:
    """Settings of a small estimator."""
    path = "sklearn.ensemble.GradientBoostingRegressor"
    return {"path": path, "parameters": {"n_estimators": trees, "max_depth": 1}}


@pytest.fixture(scope="module")
def small(train: Train, write_config: WriteConfig) -> Path:
    """The config of a quick job, which has been run once: its version 1 is champion."""
    config = write_config("small", estimator=boosting(1), **QUICK)
    done = train("--config", config)
    assert done.returncode == 0, done.stderr
    return config


@pytest.mark.system
def test_job_that_died_before_the_promotion_is_finished_by_the_next(
    small: Path, train: Train, mlflow_client: MlflowClient
) -> None:
    """A version that was registered and never promoted is promoted, not registered again."""
    # Take back what comes after the registration.
    mlflow_client.delete_registered_model_alias("small", names.CHAMPION)
    for tag in mlflow_client.get_model_version("small", "1").tags:
        if tag.startswith(names.TAG_PROMOTION):
            mlflow_client.delete_model_version_tag("small", "1", tag)
    again = train("--config", small)
    assert again.returncode == 0, again.stderr
    assert "small version 1 is champion now" in again.stdout
    assert versions(mlflow_client, "small") == ["1"]
    assert aliases(mlflow_client, "small") == {names.CHAMPION: "1"}


@pytest.mark.system
def test_job_is_judged_again_when_the_champion_moved_meanwhile(
    small: Path,
    ray_environment: dict[str, str],
    mlflow_server: str,
    write_config: WriteConfig,
    mlflow_client: MlflowClient,
) -> None:
    """A job that waits for the lock while another promotes is held against the new champion."""
    second = write_config("small", experiment="race", estimator=boosting(2), **QUICK)
    with subprocess.Popen(
        [sys.executable, "-m", "train", "--config", str(second)],
        cwd=ROOT,
        env={**os.environ, **ray_environment, "MLFLOW_TRACKING_URI": mlflow_server},
        stdout=subprocess.PIPE,
        text=True,
    ) as waiting:
        with PromotionLock(mlflow_client, "small").hold():
            assert waiting.stdout is not None
            while not waiting.stdout.readline().startswith("[6/7]"):
                assert waiting.poll() is None
            # Another job, while this one waits: the same model again, as version 2.
            source = str(mlflow_client.get_model_version("small", "1").source)
            model_id = source.removeprefix("models:/")
            mlflow_client.create_model_version("small", source, model_id=model_id)
            mlflow_client.set_registered_model_alias("small", names.CHAMPION, "2")
        waiting.communicate(timeout=150)
    assert waiting.returncode == 0
    assert aliases(mlflow_client, "small") == {names.CHAMPION: "3", names.PREVIOUS: "2"}
    run = only_run(mlflow_client, "race")
    assert run.data.tags[names.TAG_JUDGED_AGAINST] == "2"
    assert mlflow_client.get_model_version("small", "3").tags[names.TAG_JUDGED_AGAINST] == "2"


@pytest.mark.system
def test_job_waits_for_a_free_cpu_only_so_long(
    ray_environment: dict[str, str],
    train: Train,
    write_config: WriteConfig,
    mlflow_client: MlflowClient,
) -> None:
    """When others hold every CPU, the job ends with exit code 4 and says what it lacked."""
    code = (
        "import ray, sys\n"
        "ray.init(log_to_driver=False)\n"
        "@ray.remote(num_cpus=2)\n"
        "class Holder:\n"
        "    def here(self): pass\n"
        "holder = Holder.remote(); ray.get(holder.here.remote())\n"
        "print('held', flush=True); sys.stdin.read()\n"
    )
    config = write_config("starved", deadlines={"compute_s": 2})
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, **ray_environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        done = train("--config", config)
        holder.communicate("")
    assert done.returncode == 4
    assert "error: no free CPU on the Ray cluster within 2 s" in done.stderr
    assert mlflow_client.get_experiment_by_name("starved") is None


@pytest.mark.system
def test_dead_ray_address_ends_the_job_in_time(
    train: Train, write_config: WriteConfig, free_port: Callable[[], int]
) -> None:
    """Exit code 4 within 30 s, where Ray itself would try for two minutes."""
    address = f"127.0.0.1:{free_port()}"
    started = time.monotonic()
    done = train("--config", write_config("dead-ray"), environment={"RAY_ADDRESS": address})
    assert done.returncode == 4
    assert f"error: no Ray cluster answers at {address}" in done.stderr
    assert time.monotonic() - started < 30
