"""The coalescer makes one call of many waiting requests, and answers everyone."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.calls import coalescer as coalescer_module
from serve_app.calls import wire
from serve_app.calls.coalescer import PATIENCE_S, QUICK_S, Coalescer
from serve_app.errors import (
    BodyTooLargeError,
    DeadlineExceededError,
    NotReadyError,
    OverloadedError,
)
from serve_app.models.predictions import Predictions
from serve_app.records.rows import Rows

Call = Callable[[Rows, tuple[int, ...]], Awaitable[Predictions]]


class Worker:
    """Doubles each row; answers only while its gate is open, and says that it took `model_s`."""

    def __init__(self, model_s: float = 1.0) -> None:
        self.model_s = model_s
        self.sizes: list[int] = []
        self.requests: list[tuple[int, ...]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.under_way = 0
        self.most_under_way = 0

    async def __call__(self, rows: Rows, sizes: tuple[int, ...]) -> Predictions:
        """Answer one call."""
        self.sizes.append(len(rows))
        self.requests.append(sizes)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.gate.wait()
            errors = dict.fromkeys(np.flatnonzero(rows[:, 0] < 0).tolist(), "negative")
            return Predictions(rows[:, 0] * 2, errors, self.model_s)
        finally:
            self.under_way -= 1


def coalescer(call: Call, **changes: Any) -> Coalescer:
    """A coalescer with small limits."""
    limits = {
        "max_rows_per_call": 100,
        "max_calls_under_way": lambda: 2,
        "max_queued_rows": 1000,
        "deadline_s": 5.0,
    }
    return Coalescer(call, **{**limits, **changes})


def rows(*values: float) -> Rows:
    """Rows of one feature."""
    return np.array(values, dtype=np.float64).reshape(-1, 1)


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine with a deadline."""

    async def bounded() -> None:
        async with asyncio.timeout(10):
            await test

    asyncio.run(bounded())


async def settle() -> None:
    """Let everything that can run do so."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_requests_that_arrive_together_go_out_as_one_call() -> None:
    """Even when nothing is under way."""

    async def scenario() -> None:
        worker = Worker()
        target = coalescer(worker)
        answers = await asyncio.gather(*(target.predict(rows(i)) for i in range(20)))
        assert worker.sizes == [20]
        assert [answer.values.tolist() for answer in answers] == [[2 * i] for i in range(20)]

    run(scenario())


def test_requests_that_wait_go_out_as_one_call() -> None:
    """While the calls under way are held, the rest queues; then it goes as one."""

    async def scenario() -> None:
        worker = Worker()
        worker.gate.clear()
        target = coalescer(worker)
        requests = []
        for i in range(20):
            requests.append(asyncio.create_task(target.predict(rows(i))))
            await settle()
        assert worker.sizes == [1, 1]
        assert target.queued_rows == 18
        worker.gate.set()
        answers = await asyncio.gather(*requests)
        assert worker.sizes == [1, 1, 18]
        assert [answer.values.tolist() for answer in answers] == [[2 * i] for i in range(20)]

    run(scenario())


async def quick(worker: Worker) -> Coalescer:
    """A coalescer that has seen its worker be quick with one row, and with a few."""
    target = coalescer(worker)
    await target.predict(rows(0))
    await target.predict(rows(0, 0, 0))
    worker.gate.clear()
    worker.sizes.clear()
    return target


def test_rows_for_a_quick_model_wait_for_the_call_under_way() -> None:
    """Though a second call would be allowed: they share the cost of the next."""

    async def scenario() -> None:
        worker = Worker(model_s=QUICK_S / 10)
        target = await quick(worker)
        requests = []
        for i in range(4):
            requests.append(asyncio.create_task(target.predict(rows(i))))
            await settle()
        assert worker.sizes == [1]
        worker.gate.set()
        await asyncio.gather(*requests)
        assert worker.sizes == [1, 3]

    run(scenario())


def test_a_call_to_a_quick_model_that_takes_long_is_not_waited_for() -> None:
    """Its worker may have stopped: after a while the next call goes out beside it."""

    async def scenario() -> None:
        worker = Worker(model_s=QUICK_S / 10)
        target = await quick(worker)
        requests = [asyncio.create_task(target.predict(rows(1)))]
        await settle()
        requests.append(asyncio.create_task(target.predict(rows(2))))
        begun = time.monotonic()
        while len(worker.sizes) == 1:
            await asyncio.sleep(0.001)
        assert time.monotonic() - begun >= PATIENCE_S / 2
        worker.gate.set()
        await asyncio.gather(*requests)
        assert worker.sizes == [1, 1]

    run(scenario())


def test_calls_under_way_are_bounded() -> None:
    """There are never more than the limit."""

    async def scenario() -> None:
        worker = Worker()
        worker.gate.clear()
        target = coalescer(worker, max_rows_per_call=1)
        requests = [asyncio.create_task(target.predict(rows(i))) for i in range(30)]
        await settle()
        worker.gate.set()
        await asyncio.gather(*requests)
        assert worker.most_under_way == 2

    run(scenario())


def test_a_large_batch_is_spread_over_calls_and_joined_in_order() -> None:
    """250 rows go as 100, 100 and 50, errors at their own places."""

    async def scenario() -> None:
        worker = Worker()
        values = [float(i) for i in range(250)]
        answer = await coalescer(worker).predict(rows(*values))
        assert worker.sizes == [100, 100, 50]
        np.testing.assert_array_equal(answer.values, np.array(values) * 2)
        assert not answer.errors

    run(scenario())


def test_every_part_of_a_large_request_has_its_outcome() -> None:
    """Bad records at 130 and 1,999 of 2,000 are both named, and the others have their values."""

    async def scenario() -> None:
        worker = Worker()
        values = [float(i) for i in range(2000)]
        values[130] = values[1999] = -1.0
        target = coalescer(worker, max_queued_rows=10_000)
        answer = await target.predict(rows(*values))
        assert answer.errors == {130: "negative", 1999: "negative"}
        assert len(answer.values) == 2000
        assert sum(worker.sizes) == 2000
        assert target.queued_rows == 0

    run(scenario())


def test_a_call_says_which_rows_belong_to_one_request() -> None:
    """The worker is told the row counts of the requests."""

    async def scenario() -> None:
        worker = Worker()
        worker.gate.clear()
        target = coalescer(worker, max_calls_under_way=lambda: 1)
        first = asyncio.create_task(target.predict(rows(1)))
        await settle()
        others = [asyncio.create_task(target.predict(rows(*range(n)))) for n in (3, 1, 2)]
        await settle()
        worker.gate.set()
        await asyncio.gather(first, *others)
        assert worker.requests == [(1,), (3, 1, 2)]

    run(scenario())


def test_a_client_that_hangs_up_costs_its_neighbours_nothing() -> None:
    """Cancelling the request that started a call leaves the others their answers."""

    async def scenario() -> None:
        worker = Worker()
        worker.gate.clear()
        target = coalescer(worker, max_calls_under_way=lambda: 1)
        first = asyncio.create_task(target.predict(rows(1)))
        await settle()
        others = [asyncio.create_task(target.predict(rows(i))) for i in range(5)]
        await settle()
        first.cancel()
        others[2].cancel()
        worker.gate.set()
        answers = await asyncio.gather(*others, return_exceptions=True)
        values = [a.values.tolist() for a in answers if isinstance(a, Predictions)]
        assert values == [[0.0], [2.0], [6.0], [8.0]]
        assert worker.sizes == [1, 4]

    run(scenario())


@pytest.mark.parametrize("error", [RuntimeError("broken"), asyncio.CancelledError()])
def test_everyone_in_a_failed_call_gets_an_answer(error: BaseException) -> None:
    """An exception, and a cancellation too, reaches each waiting request; the next call works."""

    async def scenario() -> None:
        worker = Worker()
        fails = [True]

        async def call(block: Rows, sizes: tuple[int, ...]) -> Predictions:
            if fails.pop() if fails else False:
                raise error
            return await worker(block, sizes)

        target = coalescer(call)
        with pytest.raises((RuntimeError, NotReadyError)):
            await target.predict(rows(1))
        assert (await target.predict(rows(2))).values.tolist() == [4]

    run(scenario())


def test_a_late_answer_is_a_deadline_error_and_the_slot_is_freed() -> None:
    """The request fails in time, and later ones are served."""

    async def scenario() -> None:
        worker = Worker()
        worker.gate.clear()
        target = coalescer(worker, deadline_s=0.05, max_calls_under_way=lambda: 1)
        with pytest.raises(DeadlineExceededError):
            await target.predict(rows(1))
        worker.gate.set()
        await settle()
        assert (await target.predict(rows(3))).values.tolist() == [6]

    run(scenario())


def test_calls_that_hang_free_their_places() -> None:
    """Two calls that never return are given up; the worker that woke up is asked again."""

    async def scenario() -> None:
        worker = Worker()
        worker.gate.clear()
        target = coalescer(worker, deadline_s=0.05)
        late = [asyncio.create_task(target.predict(rows(i))) for i in range(4)]
        answers = await asyncio.gather(*late, return_exceptions=True)
        assert [type(answer) for answer in answers] == [DeadlineExceededError] * 4
        while worker.under_way:
            await asyncio.sleep(0)
        worker.gate.set()
        assert (await target.predict(rows(3))).values.tolist() == [6]

    run(scenario())


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_whoever_no_longer_waits_leaves_the_queue_at_once(is_cancelled: bool) -> None:
    """A cancelled request, or one whose time is up, makes room for the next."""

    async def scenario() -> None:
        worker = Worker()
        worker.gate.clear()
        target = coalescer(
            worker, deadline_s=5.0 if is_cancelled else 0.05, max_calls_under_way=lambda: 0
        )
        request = asyncio.create_task(target.predict(rows(*range(500))))
        await settle()
        assert target.queued_rows == 500
        if is_cancelled:
            request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        assert target.queued_rows == 0

    run(scenario())


def test_a_full_queue_refuses_at_once() -> None:
    """Rows over the bound are refused, not kept; those waiting are served."""

    async def scenario() -> None:
        worker = Worker()
        worker.gate.clear()
        target = coalescer(worker, max_queued_rows=3, max_calls_under_way=lambda: 1)
        waiting = []
        for i in range(4):
            waiting.append(asyncio.create_task(target.predict(rows(i))))
            await settle()
        with pytest.raises(OverloadedError) as caught:
            await target.predict(rows(9))
        assert caught.value.headers["retry-after"] == "1"
        worker.gate.set()
        assert len(await asyncio.gather(*waiting)) == 4
        assert target.queued_rows == 0

    run(scenario())


def test_small_requests_go_before_the_parts_of_large_ones() -> None:
    """Each call has room for both: neither keeps the other out."""

    async def scenario() -> None:
        worker = Worker()
        asked = coalescer(worker, max_calls_under_way=lambda: 1, max_rows_per_call=10)
        worker.gate.clear()
        first = asyncio.create_task(asked.predict(rows(0)))
        await settle()
        large = asyncio.create_task(asked.predict(rows(*range(20))))
        await settle()
        small = [asyncio.create_task(asked.predict(rows(n))) for n in range(8)]
        await settle()
        worker.gate.set()
        await first
        await asyncio.gather(*small)
        assert not large.done()
        assert (await large).values.tolist() == [2 * n for n in range(20)]
        assert sum(worker.sizes) == 29
        assert worker.requests[1] == (1,) * 5 + (5,)

    run(scenario())


def test_calls_are_no_larger_than_their_time_allows() -> None:
    """Of a model that takes 10 ms a row, ten rows; with a single row, one at a time."""

    async def scenario() -> None:
        async def slow(rows: Rows, sizes: tuple[int, ...]) -> Predictions:
            seen.append(len(rows))
            return Predictions(rows[:, 0], {}, 0.01 * len(rows), len(rows))

        seen: list[int] = []
        asked = coalescer(slow, max_calls_under_way=lambda: 1, max_rows_per_call=64)
        for count in (1, 20, 5):
            await asked.predict(rows(*range(count)))
        seen.clear()
        await asked.predict(rows(*range(60)))
        assert sum(seen) == 60
        assert max(seen) <= 10

    run(scenario())


def test_a_call_ends_when_nobody_waits_for_it() -> None:
    """A worker needn't begin it; as long as one waits, it goes on."""

    async def scenario() -> None:
        was_cancelled = asyncio.Event()

        async def never(rows: Rows, sizes: tuple[int, ...]) -> Predictions:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                was_cancelled.set()
                raise
            raise AssertionError

        asked = coalescer(never)
        hasty = asyncio.create_task(asked.predict(rows(1), 0.02))
        patient = asyncio.create_task(asked.predict(rows(2), 0.1))
        with pytest.raises(DeadlineExceededError, match=r"within 0\.02 s"):
            await hasty
        assert not was_cancelled.is_set()
        with pytest.raises(DeadlineExceededError, match=r"within 0\.1 s"):
            await patient
        await settle()
        assert was_cancelled.is_set()
        assert asked.queued_rows == 0

    run(scenario())


def test_the_services_own_deadline_is_the_longest() -> None:
    """Whatever a client says."""

    async def scenario() -> None:
        worker = Worker()
        worker.gate.clear()
        asked = coalescer(worker, deadline_s=0.05)
        with pytest.raises(DeadlineExceededError, match=r"within 0\.05 s"):
            await asked.predict(rows(1), 100.0)

    run(scenario())


@pytest.mark.parametrize("row_s", [0.02, 0.2])
def test_a_large_request_is_not_kept_out_by_small_ones(row_s: float) -> None:
    """However little room a call has, and however it was cut before that was known."""

    async def scenario() -> None:
        async def slow(rows: Rows, sizes: tuple[int, ...]) -> Predictions:
            await asyncio.sleep(0)
            return Predictions(rows[:, 0], {}, row_s * len(rows), len(rows))

        asked = coalescer(slow, max_calls_under_way=lambda: 1, max_rows_per_call=64)
        is_done = False

        async def send_small() -> int:
            sent = 0
            while not is_done:
                await asked.predict(rows(1))
                sent += 1
            return sent

        small = [asyncio.create_task(send_small()) for _ in range(100)]
        await settle()
        await asked.predict(rows(*range(60)))
        is_done = True
        assert min(await asyncio.gather(*small)) > 0

    run(scenario())


def texts(*values: str) -> Rows:
    """Rows of a column of text, and one of numbers."""
    found = np.zeros(len(values), dtype=[("city", "O"), ("bmi", "f8")])
    found["city"] = values
    return found


class Reader:
    """Answers with each row's text, while its gate is open."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.most_frame_bytes = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, rows: Rows, sizes: tuple[int, ...]) -> Predictions:
        """Answer one call."""
        self.calls.append(rows["city"].tolist())
        self.most_frame_bytes = max(self.most_frame_bytes, sum(map(len, wire.frame({}, rows))))
        await self.gate.wait()
        return Predictions(rows["city"].astype(str), model_s=1.0)


def test_a_call_has_no_more_text_than_it_may() -> None:
    """Each character counts as six bytes: three requests of ten fit into 200."""

    async def scenario() -> None:
        reader = Reader()
        asked = coalescer(reader, max_text_bytes_per_call=200)
        values = [str(n) * 10 for n in range(8)]
        found = await asyncio.gather(*(asked.predict(texts(value)) for value in values))
        assert [one.values.tolist() for one in found] == [[value] for value in values]
        assert [len(call) for call in reader.calls] == [3, 3, 2]
        assert not asked._text_bytes

    run(scenario())


def test_a_request_of_much_text_is_cut_and_joined_in_order() -> None:
    """Into parts of half a call's text; what can't be cut goes by itself."""

    async def scenario() -> None:
        reader = Reader()
        asked = coalescer(reader, max_text_bytes_per_call=120, max_calls_under_way=lambda: 1)
        values = ["a" * 5, "b" * 5, "c" * 50, "", "d" * 5, "e" * 6, "f"]
        found = await asked.predict(texts(*values))
        assert found.values.tolist() == values
        assert reader.calls == [values[:2], values[2:3], values[3:5] + values[5:]]
        assert asked.queued_rows == 0
        assert not asked._text_bytes

    run(scenario())


def test_neither_much_text_nor_little_is_kept_out_by_the_other() -> None:
    """Each call has both, though neither leaves room for more of itself."""

    async def scenario() -> None:
        reader = Reader()
        reader.gate.clear()
        asked = coalescer(reader, max_text_bytes_per_call=120, max_calls_under_way=lambda: 1)
        first = asyncio.create_task(asked.predict(texts("")))
        await settle()
        large = [asyncio.create_task(asked.predict(texts("x" * 20))) for _ in range(3)]
        small = [asyncio.create_task(asked.predict(texts("y" * 10))) for _ in range(3)]
        await settle()
        reader.gate.set()
        await asyncio.gather(first, *large, *small)
        assert reader.calls[1:] == [["y" * 10, "x" * 20]] * 3

    run(scenario())


def test_whoever_no_longer_waits_takes_no_text_along() -> None:
    """What is left has the room."""

    async def scenario() -> None:
        reader = Reader()
        reader.gate.clear()
        asked = coalescer(reader, max_text_bytes_per_call=120, max_calls_under_way=lambda: 1)
        first = asyncio.create_task(asked.predict(texts("")))
        await settle()
        waiting = [asyncio.create_task(asked.predict(texts(one * 10))) for one in "abc"]
        await settle()
        waiting[0].cancel()
        await settle()
        reader.gate.set()
        await asyncio.gather(first, *waiting[1:])
        assert reader.calls[1:] == [["b" * 10, "c" * 10]]
        assert not asked._text_bytes

    run(scenario())


def test_a_record_of_too_much_text_is_refused_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it waits beside others."""
    monkeypatch.setattr(coalescer_module, "MAX_TEXT_BYTES_A_ROW", 120)

    async def scenario() -> None:
        reader = Reader()
        asked = coalescer(reader)
        other = asyncio.create_task(asked.predict(texts("x" * 20)))
        with pytest.raises(BodyTooLargeError, match=r"126 bytes.* at most 120"):
            await asked.predict(texts("y", "x" * 21))
        assert (await other).values.tolist() == ["x" * 20]
        assert reader.calls == [["x" * 20]]
        assert asked.queued_rows == 0

    run(scenario())


def test_the_most_that_a_call_may_have_fits_into_a_frame() -> None:
    """A row that can't be cut, half a call of others, and 2 MiB of numbers."""
    text = coalescer_module.MAX_TEXT_BYTES_A_ROW + coalescer_module.MAX_TEXT_BYTES // 2
    assert text + 4 * 2**20 < wire.MAX_FRAME_BYTES


@given(
    st.lists(
        st.lists(st.text(max_size=30) | st.just("\0" * 30), min_size=1, max_size=8), max_size=9
    )
)
@settings(deadline=None, max_examples=50)
def test_whatever_the_texts_are_their_calls_fit_into_a_frame(requests: list[list[str]]) -> None:
    """A row has up to 180 bytes, half of a call 150; and everybody gets an answer."""

    async def scenario() -> None:
        reader = Reader()
        asked = coalescer(reader, max_text_bytes_per_call=300)
        found = await asyncio.gather(*(asked.predict(texts(*one)) for one in requests))
        expected = [texts(*one)["city"].astype(str).tolist() for one in requests]
        assert [one.values.tolist() for one in found] == expected
        rows = max(map(len, reader.calls), default=0)
        assert reader.most_frame_bytes <= 150 + 180 + 150 + 11 * rows

    run(scenario())
