"""The long form: twenty swaps and ten rollouts, one after another, at half of capacity."""

from __future__ import annotations

import statistics
import time
from functools import partial

import pytest

from contract import names
from tests.integration.rollouts.conftest import MOST_LIVE_STEP, PAUSE_S
from tests.odd_models import Line, Missing, Raising, Shifted
from tests.stage import SOONER_S, Config, Stage

SWAPS = 20
ROUNDS = 3
ALMOST = 0.85
"""Of what is answered; the same service differs by as much from one time to the next."""


@pytest.mark.system
@pytest.mark.timeout(900)
def test_twenty_swaps_at_half_of_capacity_lose_nothing(staged: Stage) -> None:
    """Each answer is what its version predicts."""
    versions = [staged.add(Line(1.0 + number / 100, PAUSE_S)) for number in range(4)]
    rate = staged.capacity() / 2
    replicas = staged.replicas()
    took_s = []
    with staged.traffic(rate) as traffic:
        for number in range(SWAPS):
            version = versions[number % len(versions)]
            begun = time.monotonic()
            staged.name_as(names.CHAMPION, version)
            staged.await_champion(version, SOONER_S)
            took_s.append(time.monotonic() - begun)
        ledger = traffic.stop().check()
    print(
        f"{SWAPS} swaps, {ledger.answered} requests at {rate:.0f}/s answered right; "
        f"longest swap to a new version {max(took_s[: len(versions)]):.1f} s, "
        f"to one seen before {max(took_s[len(versions) :]):.1f} s"
    )
    assert {key.split()[0] for key in ledger.right} >= set(versions)
    assert staged.replicas() >= replicas  # load may have started more of them


@pytest.mark.system
@pytest.mark.timeout(1800)
def test_ten_rollouts_at_half_of_capacity_lose_nothing(staged: Stage) -> None:
    """Good ones to the end, bad ones back, and nobody but their few clients sees the bad ones."""
    good = [staged.add(Line(1.0 + number / 1000, PAUSE_S)) for number in range(6)]
    bad = [
        staged.add(one)
        for one in (
            Raising(1.0, PAUSE_S),
            Missing(1.0, PAUSE_S),
            Line(1.0, 3 * PAUSE_S),
            Shifted(1.0, PAUSE_S),
        )
    ]
    order = [
        version for pair in zip(good, [*bad, "", ""], strict=True) for version in pair if version
    ]
    rate = staged.capacity() / 2
    replicas = staged.replicas()
    with staged.traffic(rate, may_fail=bad) as traffic:
        for version in order:
            staged.name_as(names.CHALLENGER, version)
            end = staged.await_end(version, 180)
            expected = names.PROMOTED if version in good else names.ABORTED
            assert end["outcome"] == expected, end
        ledger = traffic.stop().check()
    touched = {version: ledger.touched(version) for version in bad}
    print(f"{len(order)} rollouts, {ledger.answered} requests at {rate:.0f}/s, bad ones: {touched}")
    assert max(touched.values()) < 0.01 * ledger.answered
    stopped_at = {version: staged.decisions(version)[-1]["step"] for version in bad}
    assert max(stopped_at.values()) <= MOST_LIVE_STEP, stopped_at
    assert staged.replicas() >= replicas  # load may have started more of them


@pytest.mark.system
@pytest.mark.timeout(600)
def test_a_shadow_takes_nothing_from_a_service_that_is_full(staged: Stage) -> None:
    """As many requests are answered beside it as without it, in turns."""
    alone, beside, shadowed = [], [], []
    for _ in range(ROUNDS):
        alone.append(staged.capacity())
        version = staged.add(Line(1.0, PAUSE_S))
        staged.name_as(names.CHALLENGER, version)
        staged.await_standing(partial(is_challenger, version), 30)
        act(staged, "pause")
        beside.append(staged.capacity())
        standing = staged.standing()
        assert standing["weight"] == 0
        shadowed.append(standing["rollout"]["evidence"]["challenger"]["requests"])
        act(staged, "abort")
        staged.await_end(version)
    print(f"\nrequests/s alone {alone}, beside a shadow {beside}, which had {shadowed} of them")
    assert min(shadowed) > 0
    assert statistics.median(beside) > ALMOST * statistics.median(alone)


def is_challenger(version: str, standing: Config) -> bool:
    """Whether a version's rollout is under way."""
    return bool(standing["challenger"] == version)


def act(stage: Stage, action: str) -> None:
    """Pause, resume or abort a rollout."""
    answer = stage.service.post("/admin/rollout", {"action": action, "reason": "a test"})
    assert answer.status_code == 202, answer.text
