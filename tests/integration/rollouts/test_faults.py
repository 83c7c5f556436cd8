"""The controller is killed, MLflow is away: traffic goes on, and rollouts end as they would."""

from __future__ import annotations

import signal
import time

import psutil
import pytest

from contract import names
from tests import running
from tests.integration.rollouts.conftest import PAUSE_S
from tests.integration.serving.conftest import deploy
from tests.mlflow_relay import Mood
from tests.odd_models import Line, Raising
from tests.stage import WEIGHTS, Stage

RESTARTED_S = 60.0
AWAY_S = 8.0
"""How long MLflow is away: more than a step takes."""
ROLLED_BACK_S = 60.0


def kill_controller(stage: Stage) -> None:
    """End its process, and return when another runs."""
    (before,) = stage.service.replicas("RolloutController")
    psutil.Process(before["pid"]).send_signal(signal.SIGKILL)

    def is_replaced() -> bool:
        now = [one["replica_id"] for one in stage.service.replicas("RolloutController")]
        return len(now) == 1 and before["replica_id"] not in now

    running.wait_for(is_replaced, RESTARTED_S)


def await_step(stage: Stage, version: str, step: int) -> None:
    """Return when a rollout has come to a step, or is over."""
    stage.await_standing(
        lambda one: (
            version in (one["challenger"], one["champion"])
            and (one["rollout"] is None or one["rollout"]["step"] >= step)
        ),
        90,
    )


def walk_with_the_controller_killed(stage: Stage, step: int) -> None:
    """Walk a challenger to the end, with the controller killed at a step."""
    version = stage.add(Line(1.0 + 1e-3 * (step + 1), PAUSE_S))
    with stage.traffic() as traffic:
        stage.name_as(names.CHALLENGER, version)
        await_step(stage, version, step)
        kill_controller(stage)
        # What stands on record is what the new one goes on with: no step is skipped.
        stage.await_champion(version, 120)
        ledger = traffic.stop().check()
    assert all(len(moves) <= 2 for moves in ledger.moves.values())
    stage.await_standing(lambda one: not one["unrecorded"], 30)
    assert stage.tags(version)[names.TAG_ROLLOUT_OUTCOME] == names.PROMOTED
    assert stage.alias(names.CHAMPION) == version


def test_a_rollout_survives_its_controller(staged: Stage) -> None:
    """Traffic goes on by the last table, and the next controller goes on where this one was."""
    walk_with_the_controller_killed(staged, 1)


@pytest.mark.system
@pytest.mark.timeout(900)
@pytest.mark.parametrize("step", range(len(WEIGHTS)))
def test_a_rollout_survives_its_controller_at_each_step(staged: Stage, step: int) -> None:
    """The same, at each."""
    walk_with_the_controller_killed(staged, step)


def walk_with_mlflow_away(stage: Stage, step: int, mood: Mood) -> None:
    """Walk a challenger to the end, with MLflow away for a while at a step."""
    version = stage.add(Line(1.0 + 1e-3 * (step + 11), PAUSE_S))
    with stage.traffic() as traffic:
        stage.name_as(names.CHALLENGER, version)
        await_step(stage, version, step)
        stage.relay.turn(mood)
        time.sleep(AWAY_S)
        stage.relay.turn("well")
        stage.await_champion(version, 120)
        ledger = traffic.stop().check()
    assert all(len(moves) <= 2 for moves in ledger.moves.values())
    running.wait_for(lambda: stage.alias(names.CHAMPION) == version, 10)
    stage.await_standing(lambda one: not one["unrecorded"], 30)
    assert stage.tags(version)[names.TAG_ROLLOUT_OUTCOME] == names.PROMOTED


def test_a_rollout_survives_mlflow(staged: Stage) -> None:
    """Steps are taken meanwhile; only the promotion waits."""
    walk_with_mlflow_away(staged, 2, "refusing")


@pytest.mark.system
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mood", ["refusing", "hanging"])
@pytest.mark.parametrize("step", range(len(WEIGHTS)))
def test_a_rollout_survives_mlflow_at_each_step(staged: Stage, step: int, mood: Mood) -> None:
    """The same, at each, and with a server that takes requests and answers none."""
    walk_with_mlflow_away(staged, step, mood)


@pytest.mark.parametrize("mood", ["refusing", pytest.param("hanging", marks=pytest.mark.system)])
def test_a_rollback_does_not_wait_for_mlflow(staged: Stage, mood: Mood) -> None:
    """It is applied first, and recorded when MLflow answers."""
    version = staged.add(Raising(1.0, PAUSE_S))
    with staged.traffic(may_fail=[version]) as traffic:
        staged.name_as(names.CHALLENGER, version)
        staged.await_standing(lambda one: one["challenger"] == version, 30)
        staged.relay.turn(mood)
        standing = staged.await_standing(lambda one: one["rollout"] is None, ROLLED_BACK_S)
        assert (standing["challenger"], standing["weight"]) == (None, 0.0)
        assert standing["last_rollout"]["outcome"] == names.ABORTED
        assert standing["unrecorded"] > 0
        assert staged.alias(names.CHALLENGER) == version
        staged.relay.turn("well")
        staged.await_end(version)
        traffic.stop().check()
    assert staged.alias(names.CHALLENGER) is None
    assert staged.tags(version)[names.TAG_ROLLOUT_OUTCOME] == names.ABORTED


def test_a_cold_start_without_mlflow_serves_from_the_cache(staged: Stage) -> None:
    """It says so, and follows MLflow again once that answers."""
    champion = staged.standing()["champion"]
    slope = staged.slopes[champion]
    staged.relay.turn("refusing")
    deploy(staged.service)
    standing = staged.standing()
    assert (standing["champion"], standing["is_from_cache"]) == (champion, True)
    answer = staged.service.post("/stream", {"X": 2.0})
    assert answer.json()["result"] == pytest.approx(2.0 * slope)
    staged.relay.turn("well")
    staged.await_standing(lambda one: not one["is_from_cache"], 20)
