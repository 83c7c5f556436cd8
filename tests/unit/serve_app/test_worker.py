"""A worker counts what waits, knows when its model hangs, and keeps requests apart."""

import asyncio
import gc
import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import LinearRegression

from serve_app.call import Call
from serve_app.calls.ask import Ask, BusyError, VersionNotHeldError
from serve_app.loaded import LAST_RESORT, MOST_LEFT, Answer, LoadedVersion, Recorder
from serve_app.models import model_files
from serve_app.models.model import Model
from serve_app.models.predictions import UNANSWERED, Predictions, concatenate
from serve_app.models.served import ServedVersion
from serve_app.rescue import Waiting
from serve_app.scaling import BUSY_SHARE, QUEUED_ROWS
from serve_app.shelf import Shelf
from serve_app.worker import ModelWorker
from tests import models

ROWS = np.random.default_rng(0).normal(size=(10, 1))


class Held:
    """An estimator that answers once its gate is open; negative rows make it raise."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.started = threading.Event()

    def predict(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Double each row."""
        self.started.set()
        self.gate.wait(10)
        if (rows < 0).any():
            raise ValueError("negative")
        values: npt.NDArray[Any] = rows[:, 0] * 2
        return values


class Alone(LoadedVersion):
    """A version that joins nothing: `serve.batch` runs inside replicas only."""

    def __init__(self, model: Model, deadline_s: float = 30.0) -> None:
        super().__init__(model, deadline_s)
        self._batch = self._alone

    async def _alone(self, waiting: Any) -> Any:
        return (await self.answers([waiting]))[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model."""
    estimator = LinearRegression().fit(ROWS, ROWS[:, 0])
    directory = tmp_path_factory.mktemp("worker") / "model"
    return model_files.read(models.write(directory, estimator, ROWS, ["x"]))


def loaded(estimator: Held, model: Model) -> Alone:
    """A loaded version with another estimator."""
    return Alone(replace(model, estimator=estimator))


def call_of(rows: npt.NDArray[Any], *sizes: int) -> Call:
    """A call for predictions."""
    return Call(rows, sizes or (len(rows),), wants_probabilities=False)


def test_the_recorder_counts_time_and_the_longest_queue() -> None:
    """Statistics are of the time since they were last taken."""
    recorder = Recorder(now=100.0)
    with recorder.queued(10), recorder.queued(30):
        recorder.end(recorder.begin(now=101.0), now=101.5)
    assert recorder.take(now=102.0) == {BUSY_SHARE: 0.25, QUEUED_ROWS: 40.0}
    assert recorder.take(now=103.0) == {BUSY_SHARE: 0.0, QUEUED_ROWS: 0.0}


def test_calls_that_wait_for_a_busy_model_are_joined(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Serve's own batching, which asks its replica for nothing but a bound."""
    config = SimpleNamespace(max_ongoing_requests=64)
    replica = SimpleNamespace(_deployment_config=config)
    monkeypatch.setattr("ray.serve.get_replica_context", lambda: replica)
    monkeypatch.delattr("ray.serve.batching._BatchQueue.__del__")  # leaves an event loop open

    async def scenario() -> None:
        held = Held()
        version = LoadedVersion(replace(model, estimator=held), 30.0)
        calls = [asyncio.create_task(later(version, call_of(np.zeros((2, 1)))))]
        await asyncio.to_thread(held.started.wait, 10)
        for number in range(1, 9):
            call = call_of(np.full((2, 1), float(number)))
            calls.append(asyncio.create_task(later(version, call)))
            await asyncio.sleep(0.001)
        held.gate.set()
        found = await asyncio.gather(*calls)
        assert [one.values.tolist() for one in found] == [[2 * n, 2 * n] for n in range(9)]
        assert [one.model_rows for one in found] == [2, *[16] * 8]

    asyncio.run(scenario())
    gc.collect()


def test_a_cancelled_call_is_counted_down(model: Model) -> None:
    """Its rows wait no longer, though the model never saw them."""

    async def scenario() -> None:
        held = Held()
        version = loaded(held, model)
        first = asyncio.create_task(later(version, call_of(np.ones((1, 1)))))
        await asyncio.to_thread(held.started.wait, 10)
        second = asyncio.create_task(later(version, call_of(np.ones((70, 1)))))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert version.recorder.take(time.monotonic())[QUEUED_ROWS] == 71.0
        assert version.recorder.take(time.monotonic())[QUEUED_ROWS] == 1.0
        held.gate.set()
        assert (await first).values.tolist() == [2.0]

    asyncio.run(scenario())


async def later(version: LoadedVersion, call: Call, is_retry: bool = False) -> Predictions:
    """What a version answers, once it does."""
    found = version.predict(call, is_retry)
    return found if isinstance(found, Predictions) else await found


async def outcome(answer: Answer) -> Predictions:
    """An answer, once it is there."""
    return answer if isinstance(answer, Predictions) else await answer


async def answers(version: LoadedVersion, *calls: Call) -> list[Answer]:
    """What a version answers several calls that wait, or what they have to wait for."""
    until = asyncio.get_running_loop().time() + version._deadline_s * LAST_RESORT
    return await version.answers([Waiting(call, until) for call in calls])


async def outcomes(version: LoadedVersion, calls: list[Call]) -> list[Predictions]:
    """What it answers them."""
    return [await outcome(answer) for answer in await answers(version, *calls)]


class NoServer(ModelWorker):
    """A worker that is in no replica: its versions and what Serve asks."""

    def __init__(self, held: dict[str, LoadedVersion], deadline_s: float) -> None:
        self._shelf = Shelf(lambda version: pytest.fail("nothing to load"))
        self._shelf.held.update(held)
        self._deadline_s = deadline_s
        self._overdue = set()
        self._tasks = []
        self._is_told = asyncio.Event()


def test_a_model_that_hangs_makes_the_worker_unhealthy(model: Model) -> None:
    """Serve replaces a worker with a batch for which nobody waits any more."""

    async def scenario() -> None:
        held = Held()
        version = loaded(held, model)
        worker = NoServer({"1": version}, deadline_s=1e-6)
        await worker.check_health()
        call = asyncio.create_task(later(version, call_of(np.ones((1, 1)))))
        await asyncio.to_thread(held.started.wait, 10)
        await worker.check_health()  # the controller is told first
        with pytest.raises(RuntimeError, match="version 1 has been busy with one batch"):
            await worker.check_health()
        held.gate.set()
        await call
        await worker.check_health()

    asyncio.run(scenario())


def test_a_version_that_hangs_holds_up_no_other(model: Model) -> None:
    """Each has a thread of its own."""

    async def scenario() -> None:
        hanging, well = Held(), Held()
        well.gate.set()
        worker = NoServer({"1": loaded(hanging, model), "2": loaded(well, model)}, 30.0)
        rows = np.ones((1, 1))
        stuck = asyncio.create_task(worker.predict(rows, (1,), Ask("1")))
        await asyncio.to_thread(hanging.started.wait, 10)
        async with asyncio.timeout(5):
            assert (await worker.predict(rows, (1,), Ask("2"))).values.tolist() == [2.0]
        hanging.gate.set()
        await stuck
        with pytest.raises(VersionNotHeldError, match="version 3"):
            await worker.predict(rows, (1,), Ask("3"))

    asyncio.run(scenario())


def test_a_shadow_waits_for_nobody_and_holds_up_nobody(model: Model) -> None:
    """It's refused while another version is busy; one that hangs in the shadow is asked again."""

    async def scenario() -> None:
        live, other = Held(), Held()
        other.gate.set()
        worker = NoServer({"1": loaded(live, model), "2": loaded(other, model)}, 30.0)
        rows, shadow = np.ones((1, 1)), Ask("2", is_shadow=True)
        stuck = asyncio.create_task(worker.predict(rows, (1,), Ask("1")))
        await asyncio.to_thread(live.started.wait, 10)
        with pytest.raises(BusyError):
            await worker.predict(rows, (1,), shadow)
        async with asyncio.timeout(5):
            assert (await worker.predict(rows, (1,), Ask("2"))).values.tolist() == [2.0]
        live.gate.set()
        await stuck
        assert (await worker.predict(rows, (1,), shadow)).values.tolist() == [2.0]
        worker._shelf.held["2"].recorder.begin(time.monotonic())
        assert (await worker.predict(rows, (1,), shadow)).values.tolist() == [2.0]

    asyncio.run(scenario())


MOST_TO_BE_QUICK = 1000


def test_a_quick_model_answers_now_and_one_that_is_busy_later(model: Model) -> None:
    """Once it is known to be quick; one bad record fails alone in either case."""

    async def scenario() -> None:
        held = Held()
        held.gate.set()
        version = loaded(held, model)
        first = version.predict(call_of(np.ones((2, 1))))
        assert not isinstance(first, Predictions)
        assert (await first).values.tolist() == [2.0, 2.0]
        for _ in range(MOST_TO_BE_QUICK):  # a pause of the machine makes one look slow
            if isinstance(known := version.predict(call_of(np.ones((2, 1)))), Predictions):
                break
            await known
        now = version.predict(call_of(np.array([[3.0], [-1.0]]), 1, 1))
        assert isinstance(now, Predictions)
        assert now.values[0] == 6.0
        assert now.errors == {1: "the model raised ValueError for this record"}
        assert now.model_rows == 2
        again = version.predict(call_of(np.ones((2, 1))), is_retry=True)
        assert not isinstance(again, Predictions)
        assert (await again).values.tolist() == [2.0, 2.0]
        version.recorder.begin(time.monotonic())
        while_busy = version.predict(call_of(np.ones((2, 1))))
        assert not isinstance(while_busy, Predictions)
        assert (await while_busy).values.tolist() == [2.0, 2.0]

    asyncio.run(scenario())


def version_of(name: str) -> ServedVersion:
    """A version by its number."""
    return ServedVersion("m", name, None, f"models:/m/{name}", "ab" * 32)


class Hanging(Held):
    """An estimator that hangs on negative rows until its gate is open."""

    def predict(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Double each row."""
        self.started.set()
        if (rows < 0).any():
            self.gate.wait(10)
        values: npt.NDArray[Any] = rows[:, 0] * 2
        return values


DEADLINE_S = 0.9
"""Short, for models that hang."""


def test_whoever_shares_a_batch_with_a_record_that_hangs_is_answered(model: Model) -> None:
    """Each request is tried by itself; the worker goes on, and knows that it is to be replaced."""

    async def scenario() -> None:
        hanging = Hanging()
        version = Alone(replace(model, estimator=hanging), DEADLINE_S)
        calls = [
            call_of(np.array([[1.0], [-1.0], [-1.0], [3.0]]), 1, 2, 1),
            call_of(np.array([[4.0]])),
        ]
        begun = time.monotonic()
        slow, quick = await answers(version, *calls)
        assert (await outcome(quick)).values.tolist() == [8.0]
        assert time.monotonic() - begun < 0.7 * DEADLINE_S
        beside = await later(version, call_of(np.array([[5.0]])))
        assert beside.values.tolist() == [10.0]
        found = await outcome(slow)
        assert time.monotonic() - begun < DEADLINE_S
        assert found.errors == dict.fromkeys((1, 2), UNANSWERED)
        assert found.values[[0, 3]].tolist() == [2.0, 6.0]
        assert version.recorder.batch_age_s(time.monotonic()) > DEADLINE_S / 2
        hanging.gate.set()
        await asyncio.sleep(0.05)
        assert not version.recorder.is_busy

    asyncio.run(scenario())


def test_requests_that_hang_take_a_bounded_number_of_threads(model: Model) -> None:
    """What is not tried any more has failed, in time, with the same reason."""

    async def scenario() -> None:
        hanging = Hanging()
        version = Alone(replace(model, estimator=hanging), DEADLINE_S)
        begun = time.monotonic()
        rows = np.array([[1.0], *[[-1.0]] * 6, [2.0]])
        (found,) = await outcomes(version, [call_of(rows, *[1] * 8)])
        assert time.monotonic() - begun < DEADLINE_S
        assert found.errors == dict.fromkeys(range(1, 8), UNANSWERED)
        assert found.values[0] == 2.0
        assert len(version.recorder._begun) == MOST_LEFT
        hanging.gate.set()

    asyncio.run(scenario())


def test_retries_wait_for_nobody(model: Model) -> None:
    """Neither for a batch that hangs nor for each other; without a thread they queue."""

    async def scenario() -> None:
        hanging = Hanging()
        version = Alone(replace(model, estimator=hanging), DEADLINE_S)
        bad, good = call_of(-np.ones((1, 1))), call_of(np.ones((1, 1)))
        first = asyncio.create_task(later(version, bad))
        await asyncio.to_thread(hanging.started.wait, 10)
        begun = time.monotonic()
        retries = [asyncio.create_task(later(version, bad, True)) for _ in range(MOST_LEFT - 1)]
        found = await later(version, good, True)
        assert found.values.tolist() == [2.0]
        assert time.monotonic() - begun < DEADLINE_S / 3
        retries.append(asyncio.create_task(later(version, bad, True)))
        await asyncio.sleep(0)
        queued = asyncio.create_task(later(version, good, True))
        await asyncio.sleep(DEADLINE_S / 2)
        assert not queued.done()
        hanging.gate.set()
        await asyncio.gather(first, queued, *retries)

    asyncio.run(scenario())


def test_who_has_gone_is_not_rescued(model: Model) -> None:
    """Its records take no thread with them."""

    async def scenario() -> None:
        hanging = Hanging()
        version = Alone(replace(model, estimator=hanging), DEADLINE_S)
        until = asyncio.get_running_loop().time() + 0.8 * DEADLINE_S
        bad, good = (Waiting(call_of(np.array([[x]])), until) for x in (-1.0, 1.0))
        asyncio.get_running_loop().call_later(0.05, setattr, bad, "is_gone", True)
        _, answer = await version.answers([bad, good])
        assert (await outcome(answer)).values.tolist() == [2.0]
        assert len(version.recorder._begun) == 1
        hanging.gate.set()

    asyncio.run(scenario())


def test_a_trial_that_is_late_still_counts(model: Model) -> None:
    """As soon as it is there, though the batch hangs on."""

    class Late(Hanging):
        def predict(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
            if len(rows) == 1:
                time.sleep(DEADLINE_S / 4)  # longer than each is waited for
                return rows[:, 0] * 2
            return super().predict(rows)

    async def scenario() -> None:
        late = Late()
        version = Alone(replace(model, estimator=late), DEADLINE_S)
        begun = time.monotonic()
        (found,) = await outcomes(version, [call_of(np.array([[-1.0], [1.0]]), 1, 1)])
        assert (found.errors, found.values.tolist()) == ({}, [-2.0, 2.0])
        assert time.monotonic() - begun < DEADLINE_S
        late.gate.set()

    asyncio.run(scenario())


def test_a_rescue_that_fails_leaves_nobody_behind(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch itself answers, or its deadline does."""

    async def scenario() -> None:
        hanging = Hanging()
        version = Alone(replace(model, estimator=hanging), DEADLINE_S)
        calls = [call_of(np.array([[-1.0]])), call_of(np.array([[1.0]]))]
        waiting = await answers(version, *calls)
        assert not any(isinstance(one, Predictions) for one in waiting)
        found = [await outcome(one) for one in waiting]
        assert [one.errors for one in found] == [{0: UNANSWERED}, {0: UNANSWERED}]
        hanging.gate.set()

    begin = LoadedVersion._begin

    def no_more_threads(self: LoadedVersion, calls: list[Call], thread: Any) -> Any:
        if len(calls) == 1:
            raise RuntimeError("can't start new thread")
        return begin(self, calls, thread)

    monkeypatch.setattr(LoadedVersion, "_begin", no_more_threads)
    asyncio.run(scenario())


def test_versions_that_hang_on_everything_do_so_in_few_threads(model: Model) -> None:
    """After some the next batch waits for the model again."""

    async def scenario() -> None:
        held = Held()
        version = Alone(replace(model, estimator=held), 0.03)
        for _ in range(MOST_LEFT):
            (waiting,) = await answers(version, call_of(np.ones((1, 1))))
            assert not isinstance(waiting, Predictions)
        last = asyncio.create_task(answers(version, call_of(np.ones((1, 1)))))
        await asyncio.sleep(0.1)
        assert not last.done()
        held.gate.set()
        assert (await outcome((await last)[0])).values.tolist() == [2.0]

    asyncio.run(scenario())


def test_a_model_that_is_merely_slow_answers_everybody(model: Model) -> None:
    """By the batch itself, though each request alone takes as long."""

    class Slow(Held):
        def predict(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
            time.sleep(0.5 * DEADLINE_S)
            values: npt.NDArray[Any] = rows[:, 0] * 2
            return values

    version = Alone(replace(model, estimator=Slow()), DEADLINE_S)
    begun = time.monotonic()
    calls = [call_of(np.array([[1.0], [2.0]]), 1, 1), call_of(np.array([[3.0]]))]
    one, two = asyncio.run(outcomes(version, calls))
    assert time.monotonic() - begun < 1.5 * DEADLINE_S  # with what the loop waits for at its end
    assert (one.errors, one.values.tolist()) == ({}, [2.0, 4.0])
    assert (two.errors, two.values.tolist()) == ({}, [6.0])


def test_probabilities_that_are_missing_have_their_shape(model: Model) -> None:
    """So that they can be put beside others."""

    class Unsure(Hanging):
        classes_ = np.array(["a", "b", "c"])

        def predict_proba(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return np.tile(super().predict(rows)[:, None], (1, 3))

    async def scenario() -> None:
        unsure = Unsure()
        version = Alone(replace(model, estimator=unsure), DEADLINE_S)
        calls = [Call(np.array([[x]]), (1,), wants_probabilities=True) for x in (-1.0, 1.0)]
        missing, there = await outcomes(version, calls)
        assert missing.errors == {0: UNANSWERED}
        assert concatenate([there, missing]).values.shape == (2, 3)
        unsure.gate.set()

    asyncio.run(scenario())


def test_a_request_that_hangs_alone_holds_up_nobody(model: Model) -> None:
    """It may take its time; what comes next goes ahead."""

    async def scenario() -> None:
        hanging = Hanging()
        version = Alone(replace(model, estimator=hanging), 0.15)
        waiting = asyncio.create_task(later(version, call_of(-np.ones((3, 1)))))
        (first,) = await answers(version, call_of(-np.ones((1, 1))))
        assert not isinstance(first, Predictions)
        (second,) = await outcomes(version, [call_of(np.ones((1, 1)))])
        assert second.values.tolist() == [2.0]
        assert not waiting.done()
        hanging.gate.set()
        assert (await waiting).values.tolist() == [-2.0, -2.0, -2.0]
        assert (await first).values.tolist() == [-2.0]

    asyncio.run(scenario())


def test_an_answer_says_how_long_the_model_took(model: Model) -> None:
    """With what it was joined to, and without waiting before."""
    held = Held()
    version = loaded(held, model)
    calls = [call_of(np.ones((rows, 1))) for rows in (1, 2)]
    threading.Timer(0.05, held.gate.set).start()
    begun = time.monotonic()
    answers = asyncio.run(outcomes(version, calls))
    took_s = time.monotonic() - begun
    assert all(0.04 < answer.model_s <= took_s for answer in answers)
    assert [answer.model_rows for answer in answers] == [3, 3]


def test_calls_that_are_joined_get_their_own_outcomes(model: Model) -> None:
    """A bad record in one request of one call leaves all others their values."""
    held = Held()
    held.gate.set()
    version = loaded(held, model)
    calls = [call_of(np.array([[1.0], [2.0], [-1.0]]), 2, 1), call_of(np.array([[3.0]]))]
    one, two = asyncio.run(outcomes(version, calls))
    assert one.errors == {2: "the model raised ValueError for this record"}
    assert one.values[:2].tolist() == [2.0, 4.0]
    assert (two.errors, two.values.tolist()) == ({}, [6.0])
