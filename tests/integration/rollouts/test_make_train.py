"""From changed settings to champion: what a user does, with `make train` under traffic."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
import yaml

from tests import running, stage, traffic
from tests.running import Running
from tests.traffic import Task

TRAIN_S = 240.0


def standing(service: Running) -> dict[str, object]:
    """What the service says of its rollout."""
    found: dict[str, object] = service.get("/admin/rollout").json()
    return found


@pytest.mark.system
@pytest.mark.timeout(900)
def test_make_train_walks_a_new_version_from_the_shadow_to_champion(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """Each answer is what its version says, before and after, and none is lost."""
    root = running.copy_project(tmp_path / "project")
    running.change_config(root, stage.with_rollouts())
    with running.system(root, running.environ(free_port)) as service:
        config = yaml.safe_load((root / "train_config.yaml").read_text())
        config["estimator"]["epochs"] = 120
        (root / "changed.yaml").write_text(yaml.safe_dump(config))
        with traffic.traffic(Task(service.url, 100.0, {})) as under_way:
            done = subprocess.run(
                [sys.executable, "-m", "launcher", "train", "--config", "changed.yaml"],
                cwd=root,
                env=dict(service.environ),
                capture_output=True,
                text=True,
                check=False,
                timeout=TRAIN_S,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            assert "diabetes version 2 is challenger now" in done.stdout
            running.wait_for(lambda: standing(service)["champion"] == "2", 120)
            ledger = under_way.stop().check()
        assert set(ledger.right) == {"1 champion", "2 challenger", "2 champion"}
        answers = {version: known_answers(service, version) for version in ("2", "1")}
        for version, xs, results in ledger.unchecked:
            assert answers[version](xs) == pytest.approx(results, rel=1e-9), version


def known_answers(service: Running, version: str) -> Callable[[list[float]], list[float]]:
    """Return what a version answers, asked alone: a line through two of its answers."""
    reason = ["--reason", "the test asks it alone"]
    if standing(service)["champion"] != version:
        promote = ["promote", "--version", version, *reason]
        subprocess.run(
            [sys.executable, "-m", "launcher", "train", *promote],
            cwd=service.root,
            env=dict(service.environ),
            check=True,
            capture_output=True,
            timeout=TRAIN_S,
        )
        running.wait_for(lambda: standing(service)["champion"] == version, 20)
    low, high = requests.post(f"{service.url}/batch", json={"X": [0.0, 1.0]}, timeout=10).json()[
        "result"
    ]
    return lambda xs: [low + (high - low) * x for x in xs]
