"""What an ingress sees of a rollout: counted by version, compared on the same rows."""

import asyncio
import contextlib
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from serve_app import observer as observing
from serve_app.calls.ask import Ask
from serve_app.calls.workers import Workers
from serve_app.errors import NotReadyError, OverloadedError
from serve_app.models.model import NO_FINITE_ANSWER
from serve_app.models.predictions import Predictions
from serve_app.models.served import ServedModel, ServedVersion
from serve_app.observer import (
    BUSY_PAUSE_S,
    IDLE_FACTOR,
    Observer,
    arm_of,
    sampled,
    shifted,
    timed,
)
from serve_app.records.rows import Rows
from serve_app.records.signature import Column, Signature
from serve_app.rollouts.evidence import Arm, Evidence, Pairs
from serve_app.rollouts.policy import Policy
from serve_app.rollouts.rollout import State
from serve_app.rollouts.spread import MIN_VALUES, Spread
from serve_app.routing import Table

SOON_S = 5.0
MANY = 30
ROWS = np.arange(float(MANY)).reshape(-1, 1)
SIZES = (10, MANY - 10)
SEEN = (1,) * MIN_VALUES, Predictions(np.arange(float(MIN_VALUES)) % MANY)
"""From which the spread is known."""
CHAMPION, CHALLENGER = Ask("1"), Ask("2")
WINDOW = (7, 0)
Outcome = Predictions | Exception


def model_of(version: str, **changes: Any) -> ServedModel:
    """A version of numbers."""
    served = ServedVersion("m", version, None, f"models:/m/{version}", "ab" * 32)
    defaults: dict[str, Any] = {"classes": None, "labels": None}
    signature = Signature((Column("x", "double"),))
    return ServedModel(served, signature, np.zeros((1, 1)), **{**defaults, **changes})


def table(step: int = 0, shadow: float = 1.0, **changes: Any) -> Table:
    """A rollout of version 2, each of whose calls is made to both versions."""
    state = State(WINDOW[0], "1", "2", step, 0.0)
    pair = model_of("1", **changes), model_of("2", **changes)
    return Table(9, *pair, weight=0.5, shadow=shadow, rollout=state)


QUIET = Table(10, model_of("1"))


class FakeWorkers(Workers):
    """Answers by version; a version whose gate is closed waits."""

    def __init__(self, **outcomes: Outcome) -> None:
        self.outcomes = {name[1:]: outcome for name, outcome in outcomes.items()}
        self.asked: list[str] = []
        self.asks: list[Ask] = []
        self.gates: dict[str, asyncio.Event] = {}

    async def predict(self, rows: Rows, sizes: tuple[int, ...], ask: Ask) -> Predictions:
        """Give a version's outcome."""
        self.asked.append(ask.version)
        self.asks.append(ask)
        if gate := self.gates.get(ask.version):
            await gate.wait()
        outcome = self.outcomes.get(ask.version, numbers())
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def numbers(shift: float = 0.0, model_s: float = 0.002, **changes: Any) -> Predictions:
    """One number a row, as a model gives them that was asked for these rows alone."""
    return Predictions(ROWS[:, 0] + shift, {}, model_s, MANY)._replace(**changes)


async def idle(observer: Observer) -> None:
    """Return once no shadow call is under way, and the next may come."""
    await done(observer)
    await asyncio.sleep(observer._idle_until - asyncio.get_running_loop().time())


async def done(observer: Observer) -> None:
    """Return once no shadow call is under way."""
    async with asyncio.timeout(SOON_S):
        while observer._shadow is not None:
            await asyncio.sleep(0)


def seen(observer: Observer) -> Evidence:
    """What was counted since the last time."""
    taken = observer.take()
    return taken[1] if taken is not None else Evidence()


def observed(
    workers: FakeWorkers,
    ask: Ask = CHAMPION,
    present: Table | None = None,
    before: Predictions = SEEN[1],
) -> Evidence:
    """What is seen of one call, and of its shadow, once the spread is known."""

    async def scenario() -> Evidence:
        observer = Observer(workers, Policy())
        observer.turn(present or table())
        observer.quality_margin(SEEN[0], before)
        with contextlib.suppress(NotReadyError, OverloadedError):
            await observer.call(ask, ROWS, SIZES)
        await idle(observer)
        return seen(observer)

    return asyncio.run(scenario())


def test_outside_a_rollout_nothing_is_counted_or_doubled() -> None:
    """A call costs what it cost without us."""

    async def scenario() -> None:
        workers = FakeWorkers()
        observer = Observer(workers, Policy())
        observer.turn(QUIET)
        assert (await observer.call(CHAMPION, ROWS, SIZES)).values.tolist() == ROWS[:, 0].tolist()
        await idle(observer)
        assert workers.asked == ["1"]
        assert observer.take() is None

    asyncio.run(scenario())


@pytest.mark.parametrize(("ask", "live"), [(CHAMPION, 0), (CHALLENGER, 2)])
def test_requests_are_counted_by_version(ask: Ask, live: int) -> None:
    """Both have run them; the challenger has answered clients only where it was asked."""
    found = observed(FakeWorkers(), ask)
    assert (found.champion, found.challenger, found.live) == (Arm(2), Arm(2), live)


def test_without_a_shadow_only_the_version_asked_is_counted() -> None:
    """The other has seen nothing."""
    found = observed(FakeWorkers(), CHALLENGER, table(shadow=0.0))
    assert found == Evidence(challenger=Arm(2), live=2)


def test_a_version_of_no_rollout_is_not_counted() -> None:
    """An older table's requests may still come in."""
    workers = FakeWorkers()
    assert observed(workers, Ask("9")) == Evidence()
    assert workers.asked == ["9"]


def test_full_queues_are_no_versions_fault() -> None:
    """Neither live nor in the shadow."""
    full = OverloadedError("full")
    assert observed(FakeWorkers(v1=full)) == Evidence()
    assert observed(FakeWorkers(v2=full)) == Evidence(champion=Arm(2))


def test_nobody_waits_for_a_shadow_but_for_one_that_shows_what_a_failure_means() -> None:
    """A worker that is busy need not take the first."""
    workers = FakeWorkers()
    observed(workers)
    assert [ask.is_shadow for ask in workers.asks] == [False, True]
    workers = FakeWorkers(v1=NotReadyError("gone"))
    observed(workers)
    assert [ask.is_shadow for ask in workers.asks] == [False, False]


def test_after_a_shadow_for_which_there_was_no_time_comes_none_for_a_while() -> None:
    """Or each live call of a busy service would be sent twice."""

    async def scenario() -> None:
        workers = FakeWorkers(v2=OverloadedError("busy"))
        observer = Observer(workers, Policy())
        observer.turn(table())
        begun = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < begun + 10 * BUSY_PAUSE_S:
            await observer.call(CHAMPION, ROWS, SIZES)
            await done(observer)
            await asyncio.sleep(0)
        assert 2 <= workers.asked.count("2") <= 11

    asyncio.run(scenario())


def test_a_call_without_an_answer_counts_against_its_version() -> None:
    """If the other one answers the same; else no worker does, which is nobody's fault."""
    gone = NotReadyError("gone")
    assert observed(FakeWorkers(v2=gone), CHALLENGER) == Evidence(
        Arm(2), Arm(2, errors=2.0), live=2
    )
    assert observed(FakeWorkers(v1=gone, v2=gone), CHALLENGER) == Evidence()


def test_a_shadow_call_without_an_answer_counts_against_the_version_that_failed() -> None:
    """Whichever of the two that is; nothing is compared."""
    broken = RuntimeError("broken")
    assert observed(FakeWorkers(v2=broken)) == Evidence(Arm(2), Arm(2, errors=2.0))
    assert observed(FakeWorkers(v1=broken), CHALLENGER) == Evidence(
        Arm(2, errors=2.0), Arm(2), live=2
    )


def test_a_shadow_call_that_never_returns_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds up no other for longer than a few seconds, which are fewer here."""
    monkeypatch.setattr(observing, "SHADOW_TIMEOUT_S", 0.02)
    workers = FakeWorkers()
    workers.gates["2"] = asyncio.Event()
    assert observed(workers) == Evidence(Arm(2), Arm(2, errors=2.0))


def test_records_that_failed_count_by_the_share_of_their_request() -> None:
    """Those without a finite number are missing; the others are errors."""
    errors = {0: "raised", 1: NO_FINITE_ANSWER, 2: "raised", 10: NO_FINITE_ANSWER}
    arm = arm_of(SIZES, errors)
    assert (arm.requests, arm.errors, arm.missing) == pytest.approx((2, 0.2, 0.1 + 1 / 20))
    assert arm_of(SIZES, {}) == Arm(2)


@pytest.mark.parametrize("ask", [CHAMPION, CHALLENGER])
def test_pairs_are_of_challenger_against_champion(ask: Ask) -> None:
    """Whichever has answered the client."""
    slow = FakeWorkers(v1=numbers(), v2=numbers(shift=1000.0, model_s=0.1))
    found = observed(slow, ask)
    assert (found.time, found.shift) == (Pairs(1, 1.0), Pairs(2, 2.0))
    quick = FakeWorkers(v1=numbers(model_s=0.1), v2=numbers())
    found = observed(quick, ask)
    assert (found.time, found.shift) == (Pairs(1, 0.0), Pairs(2, 0.0))


def test_how_far_is_otherwise_goes_by_the_champions_spread() -> None:
    """Half a standard deviation, of whatever version answered."""
    spread = Spread()
    spread.add(SEEN[1].values)
    assert spread.deviation is not None
    limit = 0.5 * spread.deviation
    for ask in (CHAMPION, CHALLENGER):
        for shift, differ in ((0.95 * limit, 0.0), (1.05 * limit, 2.0)):
            workers = FakeWorkers(v1=numbers(), v2=numbers(shift=shift))
            assert observed(workers, ask).shift == Pairs(2, differ)


def test_before_the_spread_is_known_nothing_is_called_otherwise() -> None:
    """Time is compared from the first call on."""

    async def scenario() -> None:
        few = Predictions(np.ones(1), {}, 0.002, 1)
        workers = FakeWorkers(v1=few, v2=few._replace(values=np.full(1, 99.0)))
        observer = Observer(workers, Policy())
        observer.turn(table())
        for calls in range(1, MIN_VALUES + 1):
            await observer.call(CHAMPION, ROWS[:1], (1,))
            await idle(observer)
            found = seen(observer)
            assert found.time == Pairs(1, 0.0)
            assert found.shift == (Pairs(1, 1.0) if calls == MIN_VALUES else Pairs())

    asyncio.run(scenario())


def test_a_new_champion_has_a_spread_of_its_own() -> None:
    """That of the one before says nothing of it."""

    async def scenario() -> None:
        workers = FakeWorkers()
        observer = Observer(workers, Policy())
        observer.turn(table())
        observer.quality_margin(*SEEN)
        await observer.call(CHAMPION, ROWS, SIZES)
        await idle(observer)
        assert seen(observer).shift.count == 2
        workers.outcomes = dict.fromkeys("25", Predictions(np.ones(1)))
        observer.turn(replace(table(), champion=model_of("5")))
        await observer.call(Ask("5"), ROWS[:1], (1,))
        await idle(observer)
        assert seen(observer).shift.count == 0

    asyncio.run(scenario())


def test_labels_are_compared_as_labels_though_they_are_numbers() -> None:
    """The class next to it is as wrong as any other."""
    digits = Predictions(np.arange(MANY) % 10, {}, 0.002, MANY)
    other = digits._replace(values=(np.arange(MANY) + 1) % 10)
    present = table(labels=tuple(range(10)))
    assert observed(FakeWorkers(v1=digits, v2=other), present=present).shift == Pairs(2, 2.0)
    assert observed(FakeWorkers(v1=digits, v2=digits), present=present).shift == Pairs(2, 0.0)


@pytest.mark.parametrize("kind", [np.uint8, np.bool_, np.int32])
def test_numbers_of_any_kind_are_compared(kind: Any) -> None:
    """An unsigned difference would wrap around, one of truth values would fail."""
    low = Predictions(np.tile(np.array([0, 1], dtype=kind), MANY // 2), {}, 0.002, MANY)
    high = low._replace(values=np.tile(np.array([1, 0], dtype=kind), MANY // 2))
    before = Predictions(np.tile(np.array([0, 1], dtype=kind), MIN_VALUES // 2))
    found = observed(FakeWorkers(v1=low, v2=high), before=before)
    assert found.shift == Pairs(2, 2.0)
    assert observed(FakeWorkers(v1=low, v2=low)).shift == Pairs(2, 0.0)


def test_of_probabilities_the_most_probable_label_counts() -> None:
    """However sure each version is of it; and by its name, not by its place."""
    found = Predictions(np.array([[0.9, 0.1], [0.4, 0.6]]))
    surer = Predictions(np.array([[0.6, 0.4], [0.1, 0.9]]))
    turned = Predictions(found.values[:, ::-1])
    assert shifted((1, 1), found, surer, None) == Pairs(2, 0.0)
    assert shifted((1, 1), found, turned, None) == Pairs(2, 2.0)
    classes = (("a", "b"), ("b", "a"))
    assert shifted((1, 1), found, turned, None, classes) == Pairs(2, 0.0)


def test_a_table_says_which_labels_probabilities_are_of() -> None:
    """A version may have learned them in another order, or one more."""
    present = table(labels=("a", "b"), classes=("a", "b"))
    assert present.challenger is not None
    present = replace(present, challenger=replace(present.challenger, classes=("0", "a", "b")))
    two = np.tile([[0.9, 0.1], [0.2, 0.8]], (MANY // 2, 1))
    three = np.column_stack([np.zeros(MANY), two])
    workers = FakeWorkers(v1=Predictions(two), v2=Predictions(three))
    assert observed(workers, Ask("1", wants_probabilities=True), present).shift == Pairs(2, 0.0)


def test_a_request_counts_by_the_share_of_its_records_that_differ() -> None:
    """A request of which either version failed a record is no pair."""
    one = Predictions(np.array(["a", "b", "c", "d"]))
    two = Predictions(np.array(["a", "x", "c", "x"]))
    assert shifted((2, 2), one, two, None) == Pairs(2, 1.0)
    assert shifted((1, 3), one, two, None).total == pytest.approx(2 / 3)
    for pair in ((one._replace(errors={3: "raised"}), two), (one, two._replace(errors={2: "r"}))):
        assert shifted((2, 2), *pair, None) == Pairs(1, 0.5)


def test_time_is_compared_only_where_no_other_rows_were_joined() -> None:
    """A batch takes as long as all that is in it."""
    one, policy = numbers(), Policy()
    assert timed(policy, one, numbers(model_s=0.1)) == Pairs(1, 1.0)
    joined = numbers(model_s=0.1, model_rows=MANY + 1)
    assert timed(policy, one, joined) == timed(policy, joined, one) == Pairs()


@pytest.mark.parametrize(
    ("champion_s", "challenger_s", "is_longer"),
    [
        (0.010, 0.016, True),
        (0.010, 0.014, False),
        (0.0001, 0.0005, False),
        (0.0001, 0.0007, True),
        (0.016, 0.010, False),
    ],
)
def test_longer_is_so_by_a_factor_and_by_a_time(
    champion_s: float, challenger_s: float, is_longer: bool
) -> None:
    """Three times next to nothing is still nothing."""
    pair = numbers(model_s=champion_s), numbers(model_s=challenger_s)
    assert timed(Policy(), *pair) == Pairs(1, float(is_longer))


def test_the_spread_is_that_of_one_record_of_each_request() -> None:
    """Drawn by chance, wherever it stands; those without an answer have none."""
    sizes = (1, 20, 1, 3)
    found = Predictions(np.arange(25.0), {21: "raised"})
    drawn = [sampled(sizes, found).tolist() for _ in range(500)]
    assert {len(values) for values in drawn} == {3}
    first, second, third = (set(values) for values in zip(*drawn, strict=True))
    assert first == {0.0}
    assert second == set(range(1, 21))
    assert third == set(range(22, 25))


def test_one_absurd_record_makes_nothing_else_alike() -> None:
    """Neither alone nor as a batch, nor by a number that has no square, first or last."""

    async def scenario() -> None:
        for rows, absurd in ((1, 1e9), (1, 1e200), (100, 1e9)):
            for is_first in (True, False):
                same = Predictions(np.full(rows, absurd), {}, 0.002, rows)
                workers = FakeWorkers(v1=same, v2=same)
                observer = Observer(workers, Policy())
                observer.turn(table())
                if not is_first:
                    observer.quality_margin(*SEEN)
                await observer.call(CHAMPION, np.full((rows, 1), absurd), (rows,))
                await idle(observer)
                assert seen(observer).shift.total == 0.0
                if is_first:
                    observer.quality_margin(*SEEN)
                workers.outcomes = {"1": numbers(), "2": numbers(shift=1000.0)}
                await observer.call(CHAMPION, ROWS, SIZES)
                await idle(observer)
                assert seen(observer).shift == Pairs(2, 2.0)

    asyncio.run(scenario())


def test_each_rollout_has_a_spread_of_its_own() -> None:
    """Whose steps share it."""
    observer = Observer(FakeWorkers(), Policy())
    observer.turn(table())
    assert observer.quality_margin(*SEEN) is not None
    one = (1,), Predictions(np.ones(1))
    observer.turn(table(step=1))
    assert observer.quality_margin(*one) is not None
    observer.turn(QUIET)
    observer.turn(table())
    assert observer.quality_margin(*one) is None


def test_what_was_taken_is_taken_once() -> None:
    """And what true values say is counted with the rest, whichever step it was asked for."""

    async def scenario() -> None:
        observer = Observer(FakeWorkers(), Policy())
        observer.turn(table(shadow=0.0))
        await observer.call(CHAMPION, ROWS, SIZES)
        taken = observer.take()
        assert taken == (WINDOW, Evidence(champion=Arm(2)))
        assert observer.take() is None
        await observer.call(CHAMPION, ROWS, SIZES)
        observer.add_quality((WINDOW[0], 3), Pairs(2, 1.0))
        assert observer.take() == (WINDOW, Evidence(champion=Arm(2), quality=Pairs(2, 1.0)))

    asyncio.run(scenario())


def test_what_belongs_to_another_step_is_not_counted() -> None:
    """Be it added late, or answered late, live or in the shadow."""

    async def scenario() -> None:
        workers = FakeWorkers()
        observer = Observer(workers, Policy())
        observer.turn(table())
        await observer.call(CHAMPION, ROWS, SIZES)
        workers.gates = {"1": asyncio.Event(), "2": asyncio.Event()}
        live = asyncio.create_task(observer.call(CHAMPION, ROWS, SIZES))
        await asyncio.sleep(0)
        observer.turn(table(step=1))
        observer.add_quality((WINDOW[0] - 1, 1), Pairs(2, 1.0))  # another rollout
        for gate in workers.gates.values():
            gate.set()
        await live
        await idle(observer)
        found = seen(observer)
        assert (found.champion, found.quality) == (Arm(), Pairs())

    asyncio.run(scenario())


def test_the_same_table_told_again_drops_nothing() -> None:
    """Its status changes every second."""

    async def scenario() -> None:
        observer = Observer(FakeWorkers(), Policy())
        observer.turn(table(shadow=0.0))
        await observer.call(CHAMPION, ROWS, SIZES)
        observer.turn(table(shadow=0.0))
        assert seen(observer) == Evidence(champion=Arm(2))

    asyncio.run(scenario())


def test_no_second_shadow_call_is_made_while_one_runs() -> None:
    """A slow challenger gets no pile of them."""

    async def scenario() -> None:
        workers = FakeWorkers()
        workers.gates["2"] = asyncio.Event()
        observer = Observer(workers, Policy())
        observer.turn(table())
        for _ in range(3):
            await observer.call(CHAMPION, ROWS, SIZES)
            await asyncio.sleep(0)
        assert workers.asked == ["1", "2", "1", "1"]
        workers.gates["2"].set()
        await idle(observer)
        await observer.call(CHAMPION, ROWS, SIZES)
        await idle(observer)
        assert workers.asked[-1] == "2"

    asyncio.run(scenario())


def test_after_a_shadow_call_comes_none_for_a_while() -> None:
    """In proportion to how long it took."""

    async def scenario() -> None:
        workers = FakeWorkers()
        workers.gates["2"] = asyncio.Event()
        observer = Observer(workers, Policy())
        observer.turn(table())
        await observer.call(CHAMPION, ROWS, SIZES)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        loop.call_later(0.02, workers.gates["2"].set)
        await done(observer)
        while loop.time() < begun + IDLE_FACTOR * 0.02:
            await observer.call(CHAMPION, ROWS, SIZES)
            await asyncio.sleep(0.005)
        assert workers.asked.count("2") == 1
        await idle(observer)
        await observer.call(CHAMPION, ROWS, SIZES)
        await idle(observer)
        assert workers.asked.count("2") == 2

    asyncio.run(scenario())


def test_the_client_does_not_wait_for_the_shadow() -> None:
    """Its answer is there before the other version is asked."""

    async def scenario() -> None:
        workers = FakeWorkers(v2=numbers(shift=5.0))
        observer = Observer(workers, Policy())
        observer.turn(table())
        found = await observer.call(CHAMPION, ROWS, SIZES)
        assert workers.asked == ["1"]
        assert found.values.tolist() == ROWS[:, 0].tolist()
        await idle(observer)
        assert workers.asked == ["1", "2"]

    asyncio.run(scenario())


def test_a_share_of_the_calls_is_made_to_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn anew for each: within four standard deviations of a fifth of 500."""
    monkeypatch.setattr(observing, "_ids", random.Random(5))

    async def scenario() -> None:
        workers = FakeWorkers()
        observer = Observer(workers, Policy())
        observer.turn(table(shadow=0.2))
        for _ in range(500):
            await observer.call(CHAMPION, ROWS, SIZES)
            await idle(observer)
        assert 64 <= workers.asked.count("2") <= 136

    asyncio.run(scenario())
