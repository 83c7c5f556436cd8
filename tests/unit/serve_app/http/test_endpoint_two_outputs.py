"""A request for labels and probabilities: both are asked for at the same time."""

import asyncio
import contextvars
import gc
import json
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import numpy as np
import pytest
from starlette.types import Message

from serve_app.calls.coalescer import Coalescer
from serve_app.errors import NotReadyError, OverloadedError, ServeError
from serve_app.http.body import Limits
from serve_app.http.endpoint import Endpoint
from serve_app.http.gate import Gate
from serve_app.metrics.counts import Requests
from serve_app.models.predictions import Predictions
from serve_app.protocols.question import Answer, Head, Question
from serve_app.records.rows import Rows

Predict = Callable[[Rows, bool, float | None], Awaitable[Predictions]]

HEADERS = [(b"content-type", b"application/json")]
DEADLINE_S = 0.5


def read(head: Head, body: bytes) -> Question:
    """Ask for both of one record."""

    def write(found: Sequence[Predictions]) -> Answer:
        return Answer(json.dumps([one.values.tolist() for one in found]).encode())

    return Question(np.ones((1, 1)), write, (False, True))


async def ask(
    predict: Predict,
    headers: Sequence[tuple[bytes, bytes]] = (),
    hangs_up_after_s: float = 60.0,
    members: Callable[[ServeError], None] = lambda error: None,
) -> tuple[int, Any]:
    """Return status and body of the answer; 0 if there is none."""
    answer: list[Message] = []
    messages: list[Message] = [{"type": "http.request", "body": b"1"}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await asyncio.sleep(hangs_up_after_s)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        answer.append(message)

    endpoint = Endpoint(
        read, predict, Limits(1000, 5.0), Gate(10, 1000), [], Requests(), members=members
    )
    scope = {"type": "http", "path": "/", "query_string": b"", "headers": [*HEADERS, *headers]}
    await endpoint(scope, receive, send)
    if not answer:
        return 0, None
    return answer[0]["status"], json.loads(answer[1]["body"])


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    """Its result, once no task is left."""

    async def alone() -> Any:
        result = await asyncio.wait_for(scenario, 5.0)
        assert len(asyncio.all_tasks()) == 1
        return result

    return asyncio.run(alone())


def test_both_together_wait_no_longer_than_one_may() -> None:
    """An ingress that stops is given no more time than the deadline."""
    waited: list[float] = []

    async def scenario() -> tuple[int, Any]:
        loop = asyncio.get_running_loop()

        async def slow(rows: Rows, sizes: tuple[int, ...]) -> Predictions:
            await asyncio.sleep(0.6 * DEADLINE_S)
            return Predictions(rows[:, 0])

        lanes = [
            Coalescer(
                slow,
                max_rows_per_call=10,
                max_calls_under_way=lambda: 1,
                max_queued_rows=10,
                deadline_s=DEADLINE_S,
            )
            for _ in range(2)
        ]

        def predict(rows: Rows, wants: bool, within_s: float | None) -> Awaitable[Predictions]:
            return lanes[wants].predict(rows, within_s)

        begun = loop.time()
        answer = await ask(predict)
        waited.append(loop.time() - begun)
        return answer

    assert run(scenario()) == (200, [[1.0], [1.0]])
    assert waited[0] < DEADLINE_S


def test_each_is_told_all_that_is_left_of_the_clients_time() -> None:
    """Nobody is told that nothing was run after something was."""
    told: list[float | None] = []

    async def predict(rows: Rows, wants: bool, within_s: float | None) -> Predictions:
        told.append(within_s)
        await asyncio.sleep(0.35)
        return Predictions(rows[:, 0] * (2 if wants else 1))

    answer = run(ask(predict, [(b"x-request-timeout-ms", b"300")]))
    assert answer == (200, [[1.0], [2.0]])
    assert told[0] == told[1]


@pytest.mark.parametrize("fails", [False, True])
def test_the_first_that_fails_ends_the_other(fails: bool) -> None:
    """The client gets its error as it is, once the other has ended."""
    ended: list[str] = []

    async def predict(rows: Rows, wants: bool, within_s: float | None) -> Predictions:
        if wants == fails:
            await asyncio.sleep(0.01)
            raise OverloadedError("full")
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            ended.append("cancelled")
            raise
        return Predictions(rows[:, 0])

    status, problem = run(ask(predict))
    assert (status, problem["code"], problem["detail"]) == (503, "overloaded", "full")
    assert ended == ["cancelled"]


def test_a_client_that_hangs_up_ends_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is answered."""
    monkeypatch.setattr("serve_app.http.endpoint.AFTER_S", 0.01)
    ended: list[bool] = []

    async def predict(rows: Rows, wants: bool, within_s: float | None) -> Predictions:
        try:
            await asyncio.sleep(5)
        finally:
            ended.append(wants)
        return Predictions(rows[:, 0])

    assert run(ask(predict, hangs_up_after_s=0.01)) == (0, None)
    assert sorted(ended) == [False, True]


def test_neither_sees_the_requests_context() -> None:
    """Serve would cancel there what is made in it."""
    mark = contextvars.ContextVar("mark", default="none")
    seen: list[str] = []

    async def predict(rows: Rows, wants: bool, within_s: float | None) -> Predictions:
        seen.append(mark.get())
        return Predictions(rows[:, 0])

    async def scenario() -> None:
        mark.set("the request's")
        await ask(predict)

    run(scenario())
    assert seen == ["none", "none"]


@pytest.mark.parametrize("pause_s", [0.0, 0.01])
def test_refusals_of_both_leave_nothing_to_the_garbage_collector(
    pause_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    """And the error that nobody gets isn't logged as one that nobody has looked at."""
    problems: list[weakref.ref[ServeError]] = []

    async def predict(rows: Rows, wants: bool, within_s: float | None) -> Predictions:
        await asyncio.sleep(pause_s * wants)
        error = NotReadyError("no worker")
        problems.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    gc.disable()
    try:
        status, _ = run(ask(predict))
        left = [problem() for problem in problems]
    finally:
        gc.enable()
    assert status == 503
    assert left == [None] * len(problems)
    assert not caplog.records
