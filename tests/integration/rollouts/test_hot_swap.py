"""Versions are swapped under traffic, and one that can't be served gets none of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from contract import names
from tests.integration.rollouts.conftest import PAUSE_S
from tests.odd_models import (
    AlwaysMissing,
    AlwaysRaising,
    Coded,
    Crashing,
    Forgetful,
    Hanging,
    Line,
)
from tests.stage import CALM_PER_S, LOAD_TIMEOUT_S, SOONER_S, Stage

REFUSED_S = LOAD_TIMEOUT_S + 10.0
LEASE_S = 10.0
"""What a worker holds, as the docs promise: one that has not asked for so long is not waited for.
"""


def test_a_champion_moved_by_hand_is_followed_and_nothing_is_lost(staged: Stage) -> None:
    """There and back again, each within 10 s, by the same replicas as before."""
    first = staged.standing()["champion"]
    second = staged.add(Line(2.0, PAUSE_S))
    replicas = staged.replicas()
    with staged.traffic(CALM_PER_S) as traffic:
        staged.name_as(names.CHAMPION, second)
        staged.await_champion(second, SOONER_S)
        assert staged.standing()["previous"] == first
        staged.name_as(names.CHAMPION, first)
        staged.await_champion(first, SOONER_S)
        time.sleep(1.0)
        ledger = traffic.stop().check()
    assert set(ledger.right) == {f"{first} champion", f"{second} champion"}
    assert staged.replicas() >= replicas  # load may have started more of them


@pytest.mark.system
def test_a_worker_that_stands_still_holds_a_new_version_up_for_its_lease_only(
    staged: Stage,
) -> None:
    """The others have it, and are named while the worker that was stopped is still there."""
    new = staged.add(Line(1.7, PAUSE_S))
    stopped = psutil.Process(staged.service.replicas("ModelWorker")[0]["pid"])
    with staged.traffic(CALM_PER_S) as traffic:
        stopped.suspend()
        began = time.monotonic()
        try:
            staged.name_as(names.CHAMPION, new)
            staged.await_champion(new, LEASE_S + SOONER_S)
            took_s = time.monotonic() - began
            was_there = stopped.is_running() and stopped.status() == psutil.STATUS_STOPPED
        finally:
            with suppress(psutil.NoSuchProcess):
                stopped.resume()
        ledger = traffic.stop().check()
    print(f"\nwith a worker that stands still, a new version is named after {took_s:.1f} s")
    assert was_there
    assert f"{new} champion" in ledger.right


def flip_a_bit(directory: Path) -> None:
    """Spoil the model's file."""
    file = directory / names.MODEL_FILE
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def lose_the_model(directory: Path) -> None:
    """Leave the file out."""
    (directory / names.MODEL_FILE).unlink()


def nothing(directory: Path) -> None:
    """Leave all as it is."""


@pytest.mark.parametrize(
    ("estimator", "change", "column", "why"),
    [
        (Line(3.0), flip_a_bit, "x", "not a readable skops file"),
        pytest.param(Line(3.0), lose_the_model, "x", names.MODEL_FILE, marks=pytest.mark.system),
        pytest.param(AlwaysRaising(3.0), nothing, "x", "never", marks=pytest.mark.system),
        (AlwaysMissing(3.0), nothing, "x", "no finite number"),
        (Line(3.0), nothing, "other", "signature"),
        (Crashing(3.0), nothing, "x", "SIGSEGV"),
        pytest.param(
            Coded(3.0, code="import time; time.sleep(3600)"),
            nothing,
            "x",
            f"within {LOAD_TIMEOUT_S:g} s",
            marks=pytest.mark.system,
        ),
        pytest.param(
            Hanging(3.0), nothing, "x", f"within {LOAD_TIMEOUT_S:g} s", marks=pytest.mark.system
        ),
    ],
)
def test_a_version_that_cannot_be_served_never_gets_traffic(
    staged: Stage, estimator: Line, change: Callable[[Path], None], column: str, why: str
) -> None:
    """The old champion goes on; `/model` and the version's tags say why."""
    champion = staged.standing()["champion"]
    version = staged.add(estimator, change, column)
    with staged.traffic(CALM_PER_S) as traffic:
        staged.name_as(names.CHAMPION, version)
        standing = staged.await_standing(lambda one: version in one["refused"], REFUSED_S)
        ledger = traffic.stop().check()
    assert set(ledger.right) == {f"{champion} champion"}
    assert why in standing["refused"][version]
    assert staged.service.get("/model").json()["refused"] == standing["refused"]
    staged.await_standing(lambda one: not one["unrecorded"], 10)
    assert staged.tags(version)[names.TAG_REFUSED] == standing["refused"][version]


def test_a_version_that_predicts_otherwise_than_in_training_is_refused(staged: Stage) -> None:
    """Its input example is replayed, and compared with what training recorded."""
    version = staged.add(Forgetful(3.0), tags={names.TAG_EXAMPLE_PREDICTION: "[1.5]"})
    staged.name_as(names.CHAMPION, version)
    standing = staged.await_standing(lambda one: version in one["refused"], REFUSED_S)
    assert "training recorded [1.5]" in standing["refused"][version]
