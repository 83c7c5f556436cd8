"""A bad challenger is taken back, and people have their say; test_faults.py has the good ones."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import datetime

import pytest

from contract import names
from tests import running
from tests.integration.rollouts.conftest import MOST_LIVE_STEP, PAUSE_S, ROLLED_BACK_S, ask_as
from tests.odd_models import RARE, Crashing, Line, Missing, Raising, RaisingForOne, Shifted
from tests.stage import Stage


@pytest.mark.parametrize(
    ("challenger", "metric", "most_touched"),
    [
        pytest.param(Raising(1.0, PAUSE_S), "errors", 300, marks=pytest.mark.system),
        (Missing(1.0, PAUSE_S), "missing", 300),
        (Line(1.0, 3 * PAUSE_S), "time", 300),
        (Shifted(1.0, PAUSE_S), "shift", 0),
    ],
)
def test_a_bad_challenger_is_rolled_back(
    staged: Stage, challenger: Line, metric: str, most_touched: int
) -> None:
    """Whatever is wrong with it, by 5% of the clients at the latest, with the reason on record."""
    champion = staged.standing()["champion"]
    version = staged.add(challenger)
    with staged.traffic(may_fail=[version]) as traffic:
        staged.name_as(names.CHALLENGER, version)
        end = staged.await_end(version)
        ledger = traffic.stop().check()
    assert end["outcome"] == names.ABORTED
    assert any(reason.startswith(f"{metric}: ") for reason in end["reasons"]), end
    print(f"\n{metric}: the version touched {ledger.touched(version)} of {ledger.sent} requests")
    assert ledger.touched(version) <= most_touched
    last = staged.decisions(version)[-1]
    assert last["action"] == names.ABORTED
    assert last["step"] in range(MOST_LIVE_STEP + 1)
    assert staged.tags(version)[names.TAG_ROLLOUT_REASONS] == "\n".join(end["reasons"])
    assert staged.alias(names.CHALLENGER) is None
    assert staged.alias(names.CHAMPION) == champion


@pytest.mark.system
def test_a_challenger_that_clients_have_already_is_taken_back_in_time(staged: Stage) -> None:
    """Nobody is answered by it 5 s after the verdict, though it failed for none in the shadow."""
    version = staged.add(RaisingForOne(1.0, PAUSE_S))
    with staged.traffic(may_fail=[version]) as traffic:
        staged.name_as(names.CHALLENGER, version)
        standing = staged.await_standing(lambda one: one["weight"] > 0, 60)
        for number in range(2000):
            if standing["rollout"] is None:
                break
            ask_as(staged, f"{version}-{number}", RARE)
            standing = staged.standing()
        time.sleep(ROLLED_BACK_S + 1.0)
        end = staged.await_end(version)
        ledger = traffic.stop().check()
    assert (end["outcome"], end["reasons"][0].split(":")[0]) == (names.ABORTED, "errors"), end
    assert ledger.touched(version) > 0
    decided_at = datetime.fromisoformat(str(staged.decisions(version)[-1]["at"])).timestamp()
    assert ledger.last_at[f"{version} challenger"] < decided_at + ROLLED_BACK_S


def test_a_challenger_that_crashes_while_it_is_loaded_touches_nobody(staged: Stage) -> None:
    """It loses its alias, and its tags say why."""
    version = staged.add(Crashing(3.0))
    with staged.traffic() as traffic:
        staged.name_as(names.CHALLENGER, version)
        running.wait_for(lambda: staged.alias(names.CHALLENGER) is None, 30)
        ledger = traffic.stop().check()
    print(f"\na crash while loading: touched {ledger.touched(version)} of {ledger.sent} requests")
    assert ledger.touched(version) == 0
    tags = staged.tags(version)
    assert tags[names.TAG_ROLLOUT_OUTCOME] == names.ABORTED
    assert "SIGSEGV" in tags[names.TAG_ROLLOUT_REASONS]


def command(stage: Stage, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m serve_app rollout ...`."""
    return subprocess.run(
        [sys.executable, "-m", "serve_app", "rollout", *arguments, "--url", stage.service.url],
        cwd=running.ROOT,
        env={**os.environ, "ENDEAVOUR_API_KEY": stage.service.key},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def seconds_seen(stage: Stage, version: str, seconds: float) -> float:
    """Ask as ever new clients for so long; return when, in seconds, a version answered last."""
    began = time.monotonic()
    last, number = 0.0, 0
    while (now := time.monotonic() - began) < seconds + 1.0:
        number += 1
        answer = ask_as(stage, f"{version}-{number}", 0.5)
        if answer.headers["x-model-version"] == version:
            last = now
    return last


def test_people_pause_resume_and_abort(staged: Stage) -> None:
    """By the command line; what makes no sense ends with 3 and says why."""
    nothing = command(staged, "pause")
    assert (nothing.returncode, "no rollout is under way" in nothing.stderr) == (3, True)
    version = staged.add(Line(1.0, PAUSE_S))
    staged.name_as(names.CHALLENGER, version)
    staged.await_standing(lambda one: one["challenger"] == version, 30)
    assert command(staged, "pause", "--reason", "to look").returncode == 0
    staged.await_standing(lambda one: one["rollout"]["paused_at"] is not None, 5)
    running.wait_for(
        lambda: "endeavour_rollout_paused 1.0" in staged.service.get("/metrics").text, 5
    )
    shown = command(staged, "status").stdout
    assert f"challenger: version {version}, paused" in shown
    assert "paused already" in command(staged, "pause").stderr
    assert command(staged, "resume").returncode == 0
    staged.await_standing(lambda one: one["rollout"]["paused_at"] is None, 5)
    assert command(staged, "abort", "--reason", "no more").returncode == 0
    end = staged.await_end(version)
    assert (end["outcome"], end["reasons"]) == (names.ABORTED, ["by hand: no more"])
    assert f"last rollout: version {version} aborted" in command(staged, "status").stdout


@pytest.mark.system
def test_people_take_a_challenger_back_from_clients(staged: Stage) -> None:
    """Nobody is answered by it any more in time."""
    version = staged.add(Line(1.0, PAUSE_S))
    with staged.traffic():
        staged.name_as(names.CHALLENGER, version)
        staged.await_standing(lambda one: one["weight"] > 0, 60)
    assert command(staged, "abort").returncode == 0
    assert seconds_seen(staged, version, ROLLED_BACK_S) < ROLLED_BACK_S
    assert staged.await_end(version)["outcome"] == names.ABORTED


@pytest.mark.system
def test_people_promote_without_the_steps_left(staged: Stage) -> None:
    """Nobody has to wait."""
    first = staged.standing()["champion"]
    version = staged.add(Line(1.0, PAUSE_S))
    staged.name_as(names.CHALLENGER, version)
    staged.await_standing(lambda one: one["challenger"] == version, 30)
    assert command(staged, "promote", "--reason", "we know it").returncode == 0
    staged.await_champion(version)
    assert staged.alias(names.CHAMPION) == version
    staged.name_as(names.CHAMPION, first)
    staged.await_champion(first)


@pytest.mark.system
def test_a_champion_moved_by_hand_aborts_the_rollout(staged: Stage) -> None:
    """What the challenger was compared with is gone."""
    first = staged.standing()["champion"]
    by_hand, challenger = staged.add(Line(1.0, PAUSE_S)), staged.add(Line(1.0, PAUSE_S))
    staged.name_as(names.CHALLENGER, challenger)
    staged.await_standing(lambda one: one["challenger"] == challenger, 30)
    staged.name_as(names.CHAMPION, by_hand)
    end = staged.await_end(challenger)
    assert end["reasons"] == [f"the champion was moved by hand to version {by_hand}"]
    assert staged.standing()["champion"] == by_hand
    staged.name_as(names.CHAMPION, first)
    staged.await_champion(first)


@pytest.mark.system
def test_the_newest_version_that_waits_is_next(staged: Stage) -> None:
    """A rollout that is under way goes on meanwhile."""
    under_way, passed_over, newest = (staged.add(Line(1.0, PAUSE_S)) for _ in range(3))
    staged.name_as(names.CHALLENGER, under_way)
    staged.await_standing(lambda one: one["challenger"] == under_way, 30)
    for version in (passed_over, newest):
        staged.name_as(names.CHALLENGER, version)
        staged.await_standing(lambda one: one["waiting"] in (passed_over, newest), 10)
    assert staged.standing()["challenger"] == under_way
    assert command(staged, "abort").returncode == 0
    staged.await_standing(lambda one: one["challenger"] == newest, 30)
    assert names.TAG_ROLLOUT_OUTCOME not in staged.tags(passed_over)
    assert command(staged, "abort").returncode == 0
    staged.await_end(newest)


LABELS = 60
NEAR = 1.1
"""Of the champion's slope: near enough for its predictions not to count as shifted."""


@pytest.mark.system
def test_labels_that_come_back_are_compared(staged: Stage) -> None:
    """All, by whatever ingress, the first of each request; a version that is further off fails."""
    slope = staged.slopes[staged.standing()["champion"]]
    version = staged.add(Line(NEAR * slope, PAUSE_S))

    def label(number: int, factor: float) -> list[str]:
        x = 0.6 + number / (2 * LABELS)
        answer = staged.service.post("/stream", {"X": x})
        label = {"request_id": answer.headers["x-request-id"], "value": factor * slope * x}
        labels = [label, {**label, "value": 100.0}]
        return [staged.service.post("/feedback", one).json()["state"] for one in labels]

    with staged.traffic(per_s=20):
        staged.name_as(names.CHALLENGER, version)
        staged.await_standing(lambda one: one["challenger"] == version, 30)
        command(staged, "pause")
        # Each ingress must have seen how far predictions are apart, to say what is a tie.
        staged.await_standing(
            lambda one: one["rollout"]["evidence"]["shift"]["count"] >= LABELS, 30
        )
        for number in range(LABELS):  # either version is as often the nearer one
            states = label(number, 1.0 if number % 2 else NEAR)
            assert states == ["accepted", "duplicate"]
        staged.await_standing(
            lambda one: one["rollout"]["evidence"]["quality"]["count"] == LABELS, 20
        )
        for number in range(LABELS):
            if staged.standing()["rollout"] is None:  # these were enough
                break
            label(number, 1.0)
        end = staged.await_end(version)
    assert [reason.split(":")[0] for reason in end["reasons"]] == ["quality"], end
    unused = {"request_id": "never", "value": 1.0}
    assert staged.service.post("/feedback", unused).json() == {"state": "unused"}
