"""The controller is killed, MLflow is away: traffic goes on, and rollouts end as they would."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path

import psutil
import pytest

from contract import names
from tests import mlflow_relay, running, stage
from tests.integration.rollouts.conftest import PAUSE_S, RESTARTED_S, ROLLED_BACK_S, ask_as
from tests.integration.serving.conftest import deploy
from tests.mlflow_relay import Mood
from tests.odd_models import RARE, Line, Raising, RaisingForOne, SometimesHanging
from tests.stage import WEIGHTS, Stage
from tests.traffic import report

AWAY_S = 4.0
"""How long MLflow is away: more than a step takes."""
ABORTED_S = 60.0
SOON_S = 1.0
"""The 99th percentile of answers stays below it, whatever MLflow does: nobody waits for that."""


def kill_controller(
    stage: Stage, meanwhile: Callable[[], AbstractContextManager[None]] = nullcontext
) -> None:
    """End its process, and return when another runs; the block of `meanwhile` lasts until then."""
    (before,) = stage.service.replicas("RolloutController")
    psutil.Process(before["pid"]).send_signal(signal.SIGKILL)

    def is_replaced() -> bool:
        now = [one["replica_id"] for one in stage.service.replicas("RolloutController")]
        return len(now) == 1 and before["replica_id"] not in now

    with meanwhile():
        running.wait_for(is_replaced, RESTARTED_S)


def await_step(stage: Stage, version: str, step: int) -> None:
    """Return when a rollout has come to a step."""
    standing = stage.await_standing(
        lambda one: (
            version in (one["challenger"], one["champion"])
            and (one["rollout"] is None or one["rollout"]["step"] >= step)
        ),
        90,
    )
    assert standing["rollout"] is not None
    assert standing["rollout"]["step"] == step


def check_record(stage: Stage, version: str, outcome: str) -> None:
    """See that MLflow has each step of a rollout on record, in order and once."""
    stage.await_standing(lambda one: not one["unrecorded"], 30)
    steps = [(one["action"], one["step"]) for one in stage.decisions(version)]
    last = len(WEIGHTS) - 1
    walked = [("begin", 0), *[("advance", step) for step in range(1, last + 1)]]
    if outcome == names.PROMOTED:
        assert steps == [*walked, (names.PROMOTED, last)]
    else:
        assert steps[:-1] == walked[: len(steps) - 1]
        assert steps[-1][0] == names.ABORTED
    assert stage.tags(version)[names.TAG_ROLLOUT_OUTCOME] == outcome


def walk(stage: Stage, troubles: Mapping[int, Callable[[Stage], None]], title: str) -> None:
    """Walk a good challenger to the end, with some trouble at each of these steps.

    The champion's slope is near 1: a challenger of other predictions would be aborted.
    Nothing is lost, each client goes over once, at most, and never back. What stands on record is
    what the controller goes on with: no step is skipped.
    """
    first = stage.standing()["champion"]
    version = stage.add(Line(1.0 if stage.slopes[first] != 1.0 else 1.002, PAUSE_S))
    with stage.traffic() as traffic:
        stage.name_as(names.CHALLENGER, version)
        for step, trouble in sorted(troubles.items()):
            await_step(stage, version, step)
            trouble(stage)
        stage.await_champion(version, 120)
        assert stage.alias(names.CHAMPION) == version  # the alias goes first
        ledger = report(title, traffic.stop()).check()
    assert set(ledger.right) == {
        f"{first} champion",
        f"{version} challenger",
        f"{version} champion",
    }
    orders = ([first], [first, version], [version])
    assert all(moves in orders for moves in ledger.moves.values())
    check_record(stage, version, names.PROMOTED)
    assert stage.standing()["previous"] == stage.alias(names.PREVIOUS) == first
    assert stage.alias(names.CHALLENGER) is None


def keep_mlflow_away(stage: Stage, mood: Mood) -> None:
    """Let MLflow answer nobody for longer than a step takes."""
    stage.relay.turn(mood)
    time.sleep(AWAY_S)
    stage.relay.turn("well")


@pytest.mark.system
def test_a_good_challenger_becomes_champion(staged: Stage) -> None:
    """Without any trouble."""
    walk(staged, {}, "a rollout")


def test_a_rollout_survives_its_controller_and_mlflow(staged: Stage) -> None:
    """Traffic goes on by the last table, and the rollout goes on where it was."""
    away = partial(keep_mlflow_away, mood="refusing")
    walk(staged, {1: kill_controller, 2: away}, "the controller killed, then MLflow refusing")


@pytest.mark.system
@pytest.mark.timeout(900)
@pytest.mark.parametrize("step", range(len(WEIGHTS)))
def test_a_rollout_survives_its_controller_at_each_step(staged: Stage, step: int) -> None:
    """The next controller goes on where this one was."""
    walk(staged, {step: kill_controller}, f"the controller killed at step {step}")


@pytest.mark.system
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mood", ["refusing", "hanging"])
@pytest.mark.parametrize("step", range(len(WEIGHTS)))
def test_a_rollout_survives_mlflow_at_each_step(staged: Stage, step: int, mood: Mood) -> None:
    """Steps are taken meanwhile; only the promotion waits."""
    walk(staged, {step: partial(keep_mlflow_away, mood=mood)}, f"MLflow {mood} at step {step}")


@pytest.mark.system
@pytest.mark.timeout(400)
@pytest.mark.parametrize("step", range(len(WEIGHTS)))
def test_a_bad_rollout_is_aborted_though_its_controller_was_killed(
    staged: Stage, step: int
) -> None:
    """It fails for clients from then on, and for nobody before; MLflow is away meanwhile."""
    version = staged.add(RaisingForOne(1.0, PAUSE_S))
    champion = staged.standing()["champion"]
    with staged.traffic(may_fail=[version]) as traffic:
        staged.name_as(names.CHALLENGER, version)
        await_step(staged, version, step)
        staged.relay.turn("refusing")
        kill_controller(staged, partial(failing_for_clients, staged, version))
        staged.relay.turn("well")
        last_at = fail_for_clients(staged, version)
        staged.await_end(version)
        ledger = traffic.stop().check()
    if WEIGHTS[step]:
        assert ledger.touched(version) > 0
        assert ledger.last_at[f"{version} challenger"] < last_at + ROLLED_BACK_S
    else:
        assert ledger.touched(version) == 0
    check_record(staged, version, names.ABORTED)
    assert staged.alias(names.CHALLENGER) is None
    assert staged.standing()["champion"] == champion


@contextmanager
def failing_for_clients(stage: Stage, version: str) -> Iterator[None]:
    """Let ever new clients ask what a challenger fails at, inside the `with` block."""
    is_over = threading.Event()

    def ask() -> None:
        numbers = itertools.count()
        while not is_over.is_set():
            ask_as(stage, f"{version}-early-{next(numbers)}", RARE)

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            yield
        finally:
            is_over.set()
            asking.result()


def fail_for_clients(stage: Stage, version: str) -> float:
    """Ask as ever new clients what a challenger fails at until it is taken back; return when."""
    for number in range(3000):
        if stage.standing()["rollout"] is None:
            return time.time()
        ask_as(stage, f"{version}-{number}", RARE)
    raise AssertionError(f"not taken back: {stage.standing()}")


@pytest.mark.system
@pytest.mark.parametrize("mood", ["refusing", "hanging"])
def test_a_rollback_from_clients_does_not_wait_for_mlflow(staged: Stage, mood: Mood) -> None:
    """Nobody is answered by it 5 s after the verdict, whatever MLflow does."""
    version = staged.add(RaisingForOne(1.0, PAUSE_S))
    with staged.traffic(may_fail=[version]) as traffic:
        staged.name_as(names.CHALLENGER, version)
        staged.await_standing(lambda one: one["weight"] > 0, 60)
        staged.relay.turn(mood)
        last_at = fail_for_clients(staged, version)
        time.sleep(ROLLED_BACK_S)
        assert staged.standing()["unrecorded"] > 0
        staged.relay.turn("well")
        staged.await_end(version)
        ledger = report(f"a rollback with MLflow {mood}", traffic.stop()).check()
    assert ledger.touched(version) > 0
    assert ledger.last_at[f"{version} challenger"] < last_at + ROLLED_BACK_S
    check_record(staged, version, names.ABORTED)


@pytest.mark.parametrize("mood", ["refusing", pytest.param("hanging", marks=pytest.mark.system)])
def test_a_rollback_does_not_wait_for_mlflow(staged: Stage, mood: Mood) -> None:
    """It is applied first, and recorded when MLflow answers."""
    version = staged.add(Raising(1.0, PAUSE_S))
    with staged.traffic(may_fail=[version]) as traffic:
        staged.name_as(names.CHALLENGER, version)
        staged.await_standing(lambda one: one["challenger"] == version, 30)
        staged.relay.turn(mood)
        standing = staged.await_standing(lambda one: one["rollout"] is None, ABORTED_S)
        assert (standing["challenger"], standing["weight"]) == (None, 0.0)
        assert standing["last_rollout"]["outcome"] == names.ABORTED
        assert standing["unrecorded"] > 0
        assert staged.alias(names.CHALLENGER) == version
        staged.relay.turn("well")
        staged.await_end(version)
        traffic.stop().check()
    assert staged.alias(names.CHALLENGER) is None
    assert staged.tags(version)[names.TAG_ROLLOUT_OUTCOME] == names.ABORTED


@pytest.mark.system
@pytest.mark.timeout(400)
def test_all_ingresses_and_the_controller_may_end_at_once(staged: Stage) -> None:
    """The champion takes the traffic again, and the rollout goes on to its end."""
    version = staged.add(Line(1.0, PAUSE_S))
    first = staged.standing()["champion"]
    staged.name_as(names.CHALLENGER, version)
    with staged.traffic():
        await_step(staged, version, 1)
    for deployment in ("Ingress", "RolloutController"):
        for replica in staged.service.replicas(deployment):
            psutil.Process(replica["pid"]).send_signal(signal.SIGKILL)
    running.wait_for(staged.service.is_ready, RESTARTED_S)
    with staged.traffic() as traffic:
        staged.await_champion(version, 120)
        ledger = traffic.stop().check()
    assert set(ledger.right) <= {
        f"{first} champion",
        f"{version} challenger",
        f"{version} champion",
    }
    assert staged.alias(names.CHAMPION) == version


@pytest.mark.system
@pytest.mark.timeout(400)
def test_a_challenger_that_hangs_for_some_records_is_taken_back(staged: Stage) -> None:
    """Its workers are replaced, and the champion's clients never wait for it."""
    workers = {replica["replica_id"] for replica in staged.service.replicas("ModelWorker")}
    version = staged.add(SometimesHanging(1.0, PAUSE_S))
    with staged.traffic() as traffic:
        staged.name_as(names.CHALLENGER, version)
        end = staged.await_end(version, 120)

        def are_replaced() -> bool:
            now = {one["replica_id"] for one in staged.service.replicas("ModelWorker")}
            return len(now) >= 2 and bool(now - workers)

        running.wait_for(are_replaced, 120)
        ledger = traffic.stop()
    assert end["outcome"] == names.ABORTED
    print(f"\na challenger that hangs: {ledger.lost_count} of {ledger.sent} lost: {ledger.lost}")
    assert ledger.lost_count < 50
    assert all(f" of {version} challenger: " in lost for lost in ledger.lost)
    assert ledger.answered + ledger.lost_count == ledger.sent


@pytest.mark.system
@pytest.mark.timeout(600)
def test_make_run_without_its_mlflow_serves_what_it_served_last(
    tmp_path: Path, mlflow_server: str, free_port: Callable[[], int]
) -> None:
    """A server of one's own that is down, or well but of no use, is no reason not to start."""
    with mlflow_relay.relay(mlflow_server) as relay:
        with stage.up(
            stage.launch(
                tmp_path / "project",
                running.environ(free_port),
                mlflow_server,
                relay,
                "own-server",
                Line(2.0),
                stage.with_rollouts(),
            )
        ) as before:
            assert before.service.post("/stream", {"X": 2.0}).json() == {"result": 4.0}
            root, own = before.service.root, before.service.environ
        moods: tuple[Mood, ...] = ("refusing", "ailing")
        for mood in moods:
            relay.turn(mood)
            with running.system(root, own) as after:
                assert "starting with what was served here last" in after.output()
                assert after.post("/stream", {"X": 2.0}).json() == {"result": 4.0}
                assert after.get("/model").json()["is_from_cache"] is True


@pytest.mark.parametrize(
    "moods",
    [
        ("failing", "limiting", "halving"),
        pytest.param(("failing",), marks=pytest.mark.system),
        pytest.param(("limiting",), marks=pytest.mark.system),
        pytest.param(("halving",), marks=pytest.mark.system),
    ],
    ids="-".join,
)
def test_an_mlflow_that_answers_wrong_changes_nothing(staged: Stage, moods: Sequence[Mood]) -> None:
    """The last good version goes on, and the new one is served once it can be had whole."""
    first = staged.standing()["champion"]
    version = staged.add(Line(1.5, PAUSE_S))
    with staged.traffic() as traffic:
        staged.relay.turn(moods[0])
        staged.name_as(names.CHAMPION, version)
        for mood in moods:
            staged.relay.turn(mood)
            time.sleep(AWAY_S / len(moods))
            assert staged.standing()["champion"] == first
        staged.relay.turn("well")
        staged.await_champion(version, 30)
        ledger = report(f"MLflow {', then '.join(moods)}", traffic.stop()).check()
    assert not staged.standing()["refused"]
    assert ledger.p99_s < SOON_S


@pytest.mark.system
@pytest.mark.parametrize("mood", ["refusing", "hanging", "failing", "limiting", "halving"])
def test_a_cold_start_without_mlflow_serves_from_the_cache(staged: Stage, mood: Mood) -> None:
    """It says so, and follows MLflow again once that answers; the way back is loaded then."""
    champion = staged.standing()["champion"]
    previous = staged.add(Line(1.25, PAUSE_S))
    staged.name_as(names.PREVIOUS, previous)
    slope = staged.slopes[champion]
    staged.relay.turn(mood)
    began = time.monotonic()
    deploy(staged.service)
    standing = staged.standing()
    print(f"\na cold start with MLflow {mood}: {time.monotonic() - began:.0f} s")
    assert (standing["champion"], standing["is_from_cache"]) == (champion, True)
    assert staged.service.get("/model").json()["is_from_cache"] is True
    answer = staged.service.post("/stream", {"X": 2.0})
    assert answer.json()["result"] == pytest.approx(2.0 * slope)
    staged.relay.turn("well")
    staged.await_standing(lambda one: not one["is_from_cache"], 20)
    staged.await_standing(lambda one: one["previous"] == previous, 20)
    staged.client.delete_registered_model_alias(staged.name, names.PREVIOUS)
