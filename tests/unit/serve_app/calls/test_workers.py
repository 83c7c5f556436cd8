"""Whatever becomes of a call to a worker, the ingress meets one of our own errors."""

import asyncio
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorDiedError, RayTaskError, TaskCancelledError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from serve_app.calls import workers as workers_module
from serve_app.calls.ask import Ask, BusyError
from serve_app.calls.lines import CallFailedError, LineLostError, Lines
from serve_app.calls.retries import RESERVE, SHARE
from serve_app.calls.workers import LOST_TWICE, Workers
from serve_app.errors import DeadlineExceededError, NotReadyError, OverloadedError
from serve_app.models.predictions import UNANSWERED, Predictions

ROWS = np.ones((1, 1))
CALLS = 1000


class Response:
    """What a handle call gives: awaitable, and to be cancelled."""

    def __init__(self, outcome: Predictions | Exception | None) -> None:
        self.outcome = outcome
        self.is_cancelled = False

    def __await__(self) -> Any:
        """Give the outcome; None never comes."""
        return self._wait().__await__()

    async def _wait(self) -> Predictions:
        if self.outcome is None:
            await asyncio.Event().wait()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        assert self.outcome is not None
        return self.outcome

    def cancel(self) -> None:
        """Note it."""
        self.is_cancelled = True


class Handle:
    """A deployment handle that gives these responses, one a call."""

    def __init__(self, *outcomes: Predictions | Exception | None) -> None:
        self.responses = [Response(outcome) for outcome in outcomes]
        self.calls = 0
        self.predict = self

    def remote(self, *arguments: object) -> Response:
        """Answer one call."""
        self.calls += 1
        return self.responses[self.calls - 1]


def ask(handle: Handle, lines: Lines | None = None) -> Predictions:
    """Predict one row."""
    return asyncio.run(Workers(handle, lines).predict(ROWS, (1,), Ask("7")))


def test_a_call_that_died_with_its_worker_is_made_once_more() -> None:
    """Predictions are idempotent."""
    answer = Predictions(np.ones(1))
    handle = Handle(ActorDiedError(), answer)
    assert ask(handle) is answer
    assert handle.calls == 2


@pytest.mark.parametrize(
    "outcomes",
    [
        (ActorDiedError(), ActorDiedError()),
        (RayTaskError("predict", "", ValueError("x")),),  # type: ignore[no-untyped-call]
        (TaskCancelledError(),),
        (ActorDiedError(), TaskCancelledError()),
        (DeploymentUnavailableError(DeploymentID("ModelWorker")),),
    ],
)
def test_what_ray_raises_is_not_ready_and_never_500(outcomes: tuple[Exception, ...]) -> None:
    """The client is told to try again later."""
    with pytest.raises(NotReadyError):
        ask(Handle(*outcomes))


@pytest.mark.parametrize(
    "outcome",
    [
        BusyError("busy"),
        RayTaskError("predict", "", BusyError("busy")).as_instanceof_cause(),  # type: ignore[no-untyped-call]
    ],
)
def test_a_worker_with_no_time_is_overloaded(outcome: Exception) -> None:
    """By a line or by the handle; nothing is asked again."""
    for lines in (None, OneLine(outcome)):
        handle = Handle(outcome)
        with pytest.raises(OverloadedError):
            ask(handle, lines)
        assert handle.calls == (lines is None)


class OneLine(Lines):
    """Lines of which one is open, that answers or raises."""

    def __init__(self, outcome: Predictions | Exception) -> None:
        super().__init__()
        self.outcome = outcome
        self.is_lost = False

    def pick(self) -> Any:
        """Give the line, until it is lost."""
        return None if self.is_lost else self

    async def call(self, *arguments: object) -> Predictions:
        """Answer a call."""
        if isinstance(self.outcome, Exception):
            self.is_lost = True
            raise self.outcome
        return self.outcome


def test_a_line_is_taken_before_the_handle() -> None:
    """It is the quicker way."""
    answer = Predictions(np.ones(1))
    assert ask(Handle(), OneLine(answer)) is answer


def test_a_call_whose_line_was_lost_goes_by_the_handle() -> None:
    """Which knows how to wait for another worker."""
    answer = Predictions(np.ones(1))
    assert ask(Handle(answer), OneLine(LineLostError())) is answer


def test_a_worker_that_cannot_answer_is_not_ready() -> None:
    """Asking again would end the same way."""
    with pytest.raises(NotReadyError):
        ask(Handle(), OneLine(CallFailedError("MemoryError")))


def test_full_queues_are_overload() -> None:
    """Serve's own back pressure."""
    with pytest.raises(OverloadedError):
        ask(Handle(BackPressureError(num_queued_requests=1, max_queued_requests=1)))


def test_a_call_that_nobody_waits_for_is_cancelled_at_the_worker() -> None:
    """The handle's call is told."""

    async def scenario() -> None:
        handle = Handle(None)
        call = asyncio.create_task(Workers(handle).predict(ROWS, (1,), Ask("7")))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert handle.responses[0].is_cancelled

    asyncio.run(scenario())


HANGING = 17.0


class Workplace(Lines):
    """Lines to workers that die of a record, until there are none; notes what they are asked."""

    def __init__(self, workers: int, deadly: float) -> None:
        super().__init__()
        self.left = workers
        self.deadly = deadly
        self.asked: list[list[float]] = []

    def pick(self) -> Any:
        """Give a line to a worker that lives."""
        return self if self.left else None

    async def call(self, rows: Any, sizes: tuple[int, ...], ask: Ask) -> Predictions:
        """Answer, or die."""
        self.asked.append(rows[:, 0].tolist())
        if self.deadly in rows[:, 0]:
            self.left -= 1
            raise LineLostError
        if HANGING in rows[:, 0]:
            if not ask.is_retry:  # it has fallen silent
                raise LineLostError
            await asyncio.sleep(60)
        return Predictions(rows[:, 0] * 2)


def test_what_was_lost_with_a_worker_is_asked_one_by_one() -> None:
    """Only the request that ends workers has failed, and it has ended two."""
    lines = Workplace(workers=3, deadly=13.0)
    rows = np.array([[1.0], [13.0], [2.0], [3.0]])
    found = asyncio.run(Workers(Handle(), lines).predict(rows, (1, 1, 2), Ask("7")))
    assert lines.asked == [[1.0, 13.0, 2.0, 3.0], [1.0], [13.0], [2.0, 3.0]]
    assert found.values[[0, 2, 3]].tolist() == [2.0, 4.0, 6.0]
    assert dict(found.errors) == {1: LOST_TWICE}
    assert lines.left == 1


def test_who_loses_all_workers_waits_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time to answer again is a worker's: it begins when there is one."""
    monkeypatch.setattr(workers_module, "AGAIN_S", 0.05)
    monkeypatch.setattr(workers_module, "ASK_AGAIN_S", 0.01)
    lines = Workplace(workers=2, deadly=13.0)
    rows = np.array([[13.0], [2.0], [3.0]])

    async def scenario() -> Predictions:
        monkeypatch.setattr(lines, "_wanted", frozenset({("host", 1, "secret")}))
        asyncio.get_running_loop().call_later(0.3, setattr, lines, "left", 1)
        return await Workers(Handle(), lines).predict(rows, (1, 1, 1), Ask("7"))

    found = asyncio.run(scenario())
    assert found.values[[1, 2]].tolist() == [4.0, 6.0]
    assert dict(found.errors) == {0: LOST_TWICE}


def test_a_record_that_hangs_a_worker_is_not_waited_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its neighbours are answered; if there are none, it is told that it is too late."""
    monkeypatch.setattr(workers_module, "AGAIN_S", 0.05)
    lines = Workplace(workers=3, deadly=13.0)
    rows = np.array([[1.0], [HANGING], [2.0]])
    found = asyncio.run(Workers(Handle(), lines).predict(rows, (1, 1, 1), Ask("7")))
    assert found.values[[0, 2]].tolist() == [2.0, 4.0]
    assert dict(found.errors) == {1: UNANSWERED}
    with pytest.raises(DeadlineExceededError):
        asyncio.run(Workers(Handle(), lines).predict(rows[1:2], (1,), Ask("7")))


@pytest.mark.parametrize("requests", [1, 32])
def test_calls_are_not_made_again_without_end(requests: int) -> None:
    """When every worker is lost, few of them are, however many requests share one."""
    lines = Workplace(workers=10**6, deadly=1.0)

    async def scenario() -> None:
        workers = Workers(Handle(), lines)
        for _ in range(CALLS):
            with pytest.raises(NotReadyError):
                await workers.predict(np.ones((requests, 1)), (1,) * requests, Ask("7"))

    asyncio.run(scenario())
    again = len(lines.asked) - CALLS
    most = RESERVE + SHARE * CALLS * requests
    assert most - 2 * requests <= again <= most
