"""From changed settings to champion, or back: what a user does, by `make` under traffic."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from mlflow import MlflowClient

from contract import names
from serve_app.rollouts.policy import Policy
from tests import running, stage, traffic
from tests.running import Running
from tests.stage import SOONER_S
from tests.traffic import Task

TRAIN_S = 240.0
MODEL = "diabetes"

BETTER: Mapping[str, Any] = {"estimator": {"epochs": 120}}

FLAT: Mapping[str, Any] = {
    "estimator": {
        "path": "sklearn.linear_model.Ridge",
        "parameters": {"alpha": 1000.0},
        "epochs": None,
    },
    "gate": {"minimum": {"r2": -10.0}, "margin": 10.0, "inconclusive": "accept"},
}
"""A model that is far off, and a gate that lets it pass."""


def standing(service: Running) -> dict[str, Any]:
    """What the service says of its rollout."""
    found: dict[str, Any] = service.get("/admin/rollout").json()
    return found


def launcher_train(service: Running, *arguments: str) -> str:
    """Do what `make train`, `make promote` or `make rollback` does; return what it says."""
    return said_by(service, "launcher", "train", *arguments)


def train_command(service: Running, *arguments: str) -> str:
    """Run `python -m train` here, and not as a job."""
    return said_by(service, "train", *arguments)


def said_by(service: Running, *command: str) -> str:
    """Run a module, which is to end well; return what it says."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=service.root,
        env={**service.environ, "MLFLOW_TRACKING_URI": service.mlflow_uri},
        capture_output=True,
        text=True,
        check=False,
        timeout=TRAIN_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def train(service: Running, name: str, changes: Mapping[str, Any]) -> str:
    """Train on changed settings; return what it says."""
    config = yaml.safe_load((service.root / "train_config.yaml").read_text())
    for section, values in changes.items():
        config[section].update(values)
    (service.root / name).write_text(yaml.safe_dump(config))
    return launcher_train(service, "--config", name)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long something takes."""
    began = time.monotonic()
    yield
    print(f"\n{what}: {time.monotonic() - began:.1f} s")


@pytest.mark.system
@pytest.mark.timeout(900)
def test_make_train_walks_a_good_version_to_champion_and_a_bad_one_back(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """Each answer is what its version says, none is lost, and the reasons are in MLflow."""
    root = running.copy_project(tmp_path / "project")
    running.change_config(root, stage.with_rollouts())
    with running.system(root, running.environ(free_port)) as service:
        with traffic.traffic(Task(service.url, 100.0, {})) as under_way:
            said = train(service, "better.yaml", BETTER)
            assert f"{MODEL} version 2 is challenger now" in said
            running.wait_for(lambda: standing(service)["champion"] == "2", 120)

            said = train(service, "flat.yaml", FLAT)
            assert f"{MODEL} version 3 is challenger now" in said
            running.wait_for(lambda: has_ended(service, "3"), 120)

            with timed("make rollback, from the command to the traffic"):
                launcher_train(service, "rollback", "--reason", "the test wants it")
                running.wait_for(lambda: standing(service)["champion"] == "1", SOONER_S)
            with timed("the same without a Ray job, which goes forward again"):
                train_command(service, "rollback", "--reason", "the test wants it")
                running.wait_for(lambda: standing(service)["champion"] == "2", SOONER_S)
            ledger = under_way.stop().check()
        assert set(ledger.right) == {"1 champion", "2 challenger", "2 champion"}

        client = MlflowClient(service.mlflow_uri, registry_uri=service.mlflow_uri)
        tags = client.get_model_version(MODEL, "3").tags
        assert tags[names.TAG_ROLLOUT_OUTCOME] == names.ABORTED
        assert tags[names.TAG_ROLLOUT_REASONS].startswith("shift: ")
        assert stage.decisions(client, MODEL, "3")[-1]["evidence"]["shift"]["count"] > 0
        assert client.get_registered_model(MODEL).aliases[names.CHAMPION] == "2"

        answers = {version: known_answers(service, version) for version in ("2", "1")}
        for version, xs, results in ledger.unchecked:
            assert answers[version](xs) == pytest.approx(results, rel=1e-9), version


@pytest.mark.system
@pytest.mark.timeout(1800)
def test_the_shipped_policy_walks_a_good_version_to_champion(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """With all its steps, times and tolerances, and nothing lost."""
    root = running.copy_project(tmp_path / "project")
    with running.system(root, running.environ(free_port)) as service:
        with traffic.traffic(Task(service.url, 100.0, {})) as under_way:
            train(service, "better.yaml", BETTER)
            began = time.monotonic()
            running.wait_for(lambda: standing(service)["champion"] == "2", 1500)
            print(f"\nthe shipped policy: {(time.monotonic() - began) / 60:.1f} minutes")
            ledger = traffic.report("the shipped policy", under_way.stop()).check()
        weights = [step.weight for step in Policy().steps]
        client = MlflowClient(service.mlflow_uri, registry_uri=service.mlflow_uri)
        walked = [
            one["step"] for one in stage.decisions(client, MODEL, "2") if one["action"] == "advance"
        ]
        assert walked == list(range(1, len(weights)))
        assert set(ledger.right) == {"1 champion", "2 challenger", "2 champion"}
        assert all(moves in (["1"], ["1", "2"], ["2"]) for moves in ledger.moves.values())


def has_ended(service: Running, version: str) -> bool:
    """Whether a version's rollout is over, and MLflow knows."""
    now = standing(service)
    last = now["last_rollout"]
    is_over = last is not None and last["challenger"] == version
    return is_over and now["rollout"] is None and not now["unrecorded"]


def known_answers(service: Running, version: str) -> Callable[[list[float]], list[float]]:
    """Return what a version answers, asked alone: a line through two of its answers."""
    if standing(service)["champion"] != version:
        launcher_train(service, "promote", "--version", version, "--reason", "to ask it alone")
        running.wait_for(lambda: standing(service)["champion"] == version, 20)
    low, high = requests.post(f"{service.url}/batch", json={"X": [0.0, 1.0]}, timeout=10).json()[
        "result"
    ]
    return lambda xs: [low + (high - low) * x for x in xs]
