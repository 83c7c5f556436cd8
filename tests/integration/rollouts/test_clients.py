"""Who is answered by a challenger: by name, by API key, or by request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from contract import names
from tests import mlflow_relay, running, stage
from tests.integration.rollouts.conftest import PAUSE_S, ask_as
from tests.odd_models import Line
from tests.stage import Stage

ASKED = 200
HALF = {"weight": 0.5, "min_s": 1, "min_requests": 10_000_000}
"""A step that no traffic of a test ever ends."""
MAX_STEP_S = 20.0


def tell(stage: Stage, action: str) -> None:
    """Do what `python -m serve_app rollout` does."""
    stage.service.post("/admin/rollout", {"action": action, "reason": "a test"}).raise_for_status()


@pytest.mark.system
def test_who_names_no_client_is_known_by_the_api_key(staged: Stage) -> None:
    """All its requests are answered by one version, at a weight that parts clients with names."""
    version = staged.add(Line(1.001, PAUSE_S))
    with staged.traffic():
        staged.name_as(names.CHALLENGER, version)
        staged.await_standing(lambda one: 0 < one["weight"] < 1, 60)
        tell(staged, "pause")
        standing = staged.standing()
        assert 0 < standing["weight"] < 1
        named = Counter(
            ask_as(staged, f"{version}-{number}", 0.5).headers["x-model-version"]
            for number in range(ASKED)
        )
        unnamed = Counter(
            staged.service.post("/stream", {"X": 0.5}).headers["x-model-version"]
            for _ in range(ASKED)
        )
    assert len(named) == 2
    assert len(unnamed) == 1
    tell(staged, "abort")
    staged.await_end(version)


@pytest.mark.system
@pytest.mark.timeout(400)
def test_without_api_keys_each_request_is_a_client_and_no_verdict_is_no_pass(
    tmp_path: Path, mlflow_server: str, free_port: Callable[[], int]
) -> None:
    """The same id is answered by the same version; past the step's deadline all go back."""
    steps = [HALF, {**HALF, "weight": 1.0}]
    with (
        mlflow_relay.relay(mlflow_server) as relay,
        stage.up(
            stage.launch(
                tmp_path / "project",
                running.environ(free_port),
                mlflow_server,
                relay,
                "no-api-keys",
                Line(1.0, PAUSE_S),
                stage.with_rollouts(steps=steps, max_step_s=MAX_STEP_S),
                has_api_keys=False,
            )
        ) as open_to_all,
    ):
        service, first = open_to_all.service, open_to_all.standing()["champion"]
        version = open_to_all.add(Line(1.001, PAUSE_S))

        def asked(request_id: str) -> str:
            headers = {"x-request-id": request_id}
            return service.post("/stream", {"X": 0.5}, headers=headers).headers["x-model-version"]

        with open_to_all.traffic() as traffic:
            open_to_all.name_as(names.CHALLENGER, version)
            open_to_all.await_standing(lambda one: one["weight"] == HALF["weight"], 60)
            once, again = ([asked(f"order {number}") for number in range(ASKED)] for _ in range(2))
            end = open_to_all.await_end(version)
            open_to_all.await_standing(lambda one: one["weight"] == 0, 5)
            assert {asked(f"order {number}") for number in range(ASKED)} == {first}
            ledger = traffic.stop().check()
    assert once == again
    assert ASKED // 4 < once.count(version) < ASKED * 3 // 4
    assert ledger.touched(version) > 0
    assert end["outcome"] == names.ABORTED, end
    assert f"past its deadline of {MAX_STEP_S:g} s" in end["reasons"][0]
