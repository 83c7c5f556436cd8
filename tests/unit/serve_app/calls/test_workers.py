"""Whatever becomes of a call to a worker, the ingress meets one of our own errors."""

import asyncio
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorDiedError, RayTaskError, TaskCancelledError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from serve_app.calls.ask import Ask
from serve_app.calls.channel import CallFailedError, LineLostError, Lines
from serve_app.calls.workers import Workers
from serve_app.errors import NotReadyError, OverloadedError
from serve_app.models.predictions import Predictions

ROWS = np.ones((1, 1))


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
