"""Many waiting requests become one call to a worker.

What arrives in one turn of the event loop goes out at its end as one call. While calls are under
way new rows queue; when one returns, all that waits goes out as the next, so an idle service adds
no delay and a busy one pays for few calls.

How many may be under way depends on the model. What a call costs beside it is the same for one
row and for a thousand, so while the model is quick, one call at a time is best: what waits for it
shares the cost of the next. A model that takes its time is asked through several workers at once.

Large requests are cut into parts, and wait in a queue of their own: while there are any, they get
half of each call, and the small ones go before them in the other half. So neither keeps the other
out. Of a model for which each row costs time, a call gets no more rows than take a tenth of a
second. Text is bounded likewise, by what it may take as JSON: a few rows may hold a lot of it.
"""

import asyncio
import contextvars
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any, Final

import numpy as np

from serve_app.calls import wire
from serve_app.calls.pace import Cost, Pace
from serve_app.deadline import Alarm, Alarms, Deadline
from serve_app.errors import (
    BodyTooLargeError,
    DeadlineExceededError,
    NotReadyError,
    OverloadedError,
)
from serve_app.models.predictions import Predictions, concatenate
from serve_app.records.rows import Rows

Call = Callable[[Rows, tuple[int, ...]], Awaitable[Predictions]]
"""(rows, row counts of the requests in them) -> one outcome a row."""

Answer = asyncio.Future[Predictions]
Batch = list[tuple[Answer, Rows]]
Queue = OrderedDict[Answer, Rows]

QUICK_S: Final = 0.001
"""A model that answers within this takes less time than the call around it."""

LONGEST_S: Final = 0.1
"""How long the model may take for the rows of a call: whoever comes next waits for that."""

MAX_TEXT_BYTES: Final = 64 * 2**20
"""Of a call, as JSON if each character takes the most there."""

MAX_TEXT_BYTES_A_ROW: Final = 128 * 2**20
"""A row can't be cut; with half a call of others it still fits into a frame."""

PATIENCE_S: Final = 0.01
"""How long a call to a quick model may be under way before the next one stops waiting for it."""


class Coalescer:
    """Sends rows to workers through `call`, at most `max_calls_under_way()` calls at once.

    Must be made on a running event loop, and used on that one.
    """

    def __init__(
        self,
        call: Call,
        *,
        max_rows_per_call: int,
        max_calls_under_way: Callable[[], int],
        max_queued_rows: int,
        deadline_s: float,
        max_text_bytes_per_call: int = MAX_TEXT_BYTES,
    ) -> None:
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._max_rows_per_call = max_rows_per_call
        self._max_calls_under_way = max_calls_under_way
        self._max_queued_rows = max_queued_rows
        self._max_text_bytes_per_call = max_text_bytes_per_call
        self._deadlines = Alarms(deadline_s)
        self._small: Queue = OrderedDict()
        self._large: Queue = OrderedDict()
        self._text_bytes: dict[Answer, int] = {}
        """Of what is queued, if its rows hold text; empty for all other models."""
        self._text_room = 0
        """How much text the call that is being put together may still get."""
        self._queued_rows = 0
        self._is_planned = False
        self._calls: set[asyncio.Task[None]] = set()
        self._under_way: dict[Answer, _UnderWay] = {}
        self._pace = Pace(QUICK_S)
        self._cost = Cost()
        self._last_begun_s = 0.0
        self._patience: asyncio.TimerHandle | None = None

    @property
    def queued_rows(self) -> int:
        """Rows that wait and are in no call yet."""
        return self._queued_rows

    async def predict(self, rows: Rows, within_s: float | None = None) -> Predictions:
        """Return one outcome for each of `rows`, shape (records, features), in order.

        Waits for `deadline_s`, or `within_s` if that is shorter. If a record has failed, the others
        of the request have no defined outcome. Raises OverloadedError at once if the queue is full,
        DeadlineExceededError when the answer is late, NotReadyError if no worker could be reached,
        BodyTooLargeError for a row that is too large to be sent.
        """
        if self._queued_rows + len(rows) > self._max_queued_rows and self._queued_rows:
            raise OverloadedError(
                f"{self._queued_rows} rows are waiting, at most {self._max_queued_rows} may: "
                "try again later"
            )
        deadlines: Alarms = self._deadlines
        if within_s is not None and within_s < deadlines.delay_s:
            deadlines = Alarm(within_s)
        step = max(1, self._room() // 2)
        if rows.dtype.hasobject:
            parts = self._enqueue_text(rows, step)
        else:
            queue = self._small if len(rows) <= step else self._large
            parts = [self._enqueue(queue, rows[at : at + step]) for at in range(0, len(rows), step)]
        self._plan_calls()
        try:
            with Deadline(self._loop, deadlines):
                return await _joined(parts)
        except TimeoutError as error:
            raise _late(deadlines.delay_s) from error
        finally:
            self._forget(parts)

    def _enqueue(self, queue: Queue, rows: Rows) -> Answer:
        answer: Answer = self._loop.create_future()
        queue[answer] = rows
        self._queued_rows += len(rows)
        return answer

    def _enqueue_text(self, rows: Rows, step: int) -> list[Answer]:
        """Enqueue parts of up to `step` rows, and half a call's text unless one row has more."""
        sizes = wire.MOST_BYTES_A_CHARACTER * wire.text_lengths(rows)
        largest = int(sizes.max(initial=0))
        if largest > MAX_TEXT_BYTES_A_ROW:
            raise BodyTooLargeError(
                f"a record's text may take {largest} bytes on its way to a model worker; at most "
                f"{MAX_TEXT_BYTES_A_ROW} are sent"
            )
        most = self._max_text_bytes_per_call // 2
        sums = np.cumsum(sizes)
        is_small = len(rows) <= step and int(sums[-1]) <= most
        parts: list[Answer] = []
        start = before = 0
        while start < len(rows):
            fitting = int(np.searchsorted(sums, before + most, side="right"))
            end = min(max(fitting, start + 1), start + step, len(rows))
            parts.append(self._enqueue(self._small if is_small else self._large, rows[start:end]))
            self._text_bytes[parts[-1]] = int(sums[end - 1]) - before
            start, before = end, int(sums[end - 1])
        return parts

    def _forget(self, parts: Sequence[Answer]) -> None:
        """Take what nobody waits for any more off the queue, and end calls for nobody."""
        for part in parts:
            for queue in (self._small, self._large):
                self._queued_rows -= len(queue.pop(part, ()))
            if self._text_bytes:
                self._text_bytes.pop(part, None)
            call = self._under_way.pop(part, None)
            if part.cancel() or part.cancelled():
                if call is not None:
                    call.leave()
            else:
                part.exception()  # seen: asyncio logs exceptions that nobody has looked at

    def _plan_calls(self) -> None:
        if not self._is_planned:
            self._is_planned = True
            self._loop.call_soon(self._start_calls)

    def _start_calls(self) -> None:
        self._is_planned = False
        while (self._small or self._large) and self._may_call():
            batch = self._take()
            if not batch:
                continue
            self._last_begun_s = self._loop.time()
            # An empty context: a call made inside one request's context is cancelled with that
            # request, and its neighbours in the batch would wait for ever.
            task = self._loop.create_task(self._run(batch), context=contextvars.Context())
            self._calls.add(task)
            task.add_done_callback(self._ended)
            under_way = _UnderWay(task, len(batch))
            self._under_way.update((answer, under_way) for answer, _ in batch)

    def _may_call(self) -> bool:
        """Whether the next call may go out now; if it is to wait for a while, come back then."""
        if len(self._calls) >= self._max_calls_under_way():
            return False
        if not self._calls:
            return True
        if not self._pace.is_quick(min(self._queued_rows, self._max_rows_per_call)):
            return True
        wait_s = self._last_begun_s + PATIENCE_S - self._loop.time()
        if wait_s > 0 and self._patience is None:
            self._patience = self._loop.call_later(wait_s, self._lose_patience)
        return wait_s <= 0

    def _lose_patience(self) -> None:
        self._patience = None
        self._start_calls()

    def _room(self) -> int:
        """Return how many rows a call may have."""
        per_row_s = self._cost.per_row_s
        if per_row_s * self._max_rows_per_call <= LONGEST_S:
            return self._max_rows_per_call
        return max(1, int(LONGEST_S / per_row_s))

    def _take(self) -> Batch:
        """Take what fits into one call off the queues, leaving out whoever no longer waits."""
        batch: Batch = []
        room = self._room()
        kept = room // 2 if self._large else 0
        kept_text = self._max_text_bytes_per_call // 2 if self._large else 0
        self._text_room = self._max_text_bytes_per_call - kept_text
        room -= self._fill(self._small, batch, room - kept)
        self._text_room += kept_text
        if self._large:  # one part in any case: it may have been cut before rows cost so much
            room -= self._move(self._large, batch)
        room -= self._fill(self._large, batch, room)
        self._fill(self._small, batch, room)
        if not batch and self._small:
            self._move(self._small, batch)
        return batch

    def _fill(self, queue: Queue, batch: Batch, room: int) -> int:
        """Move what fits from the head of a queue into a batch; return how many rows that is."""
        taken = 0
        while queue and len(next(iter(queue.values()))) <= room - taken:
            if self._text_bytes and self._text_bytes.get(next(iter(queue)), 0) > self._text_room:
                break
            taken += self._move(queue, batch)
        return taken

    def _move(self, queue: Queue, batch: Batch) -> int:
        """Move the first of a queue into a batch, unless nobody waits for it; return its rows."""
        answer, rows = queue.popitem(last=False)
        self._queued_rows -= len(rows)
        if answer.done():
            return 0
        if self._text_bytes:
            self._text_room -= self._text_bytes.pop(answer, 0)
        batch.append((answer, rows))
        return len(rows)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        self._start_calls()

    async def _run(self, batch: Batch) -> None:
        """Make one call and settle everyone in it; a call that hangs frees its place in time."""
        blocks = [rows for _, rows in batch]
        sizes = tuple(map(len, blocks))
        try:
            with Deadline(self._loop, self._deadlines):
                predictions = await self._call(
                    blocks[0] if len(blocks) == 1 else np.concatenate(blocks), sizes
                )
            self._pace.note(sum(sizes), predictions.model_s)
            self._cost.note(predictions.model_rows or sum(sizes), predictions.model_s)
            ends = accumulate(sizes, initial=0)
            for (answer, _), (start, end) in zip(batch, pairwise(ends), strict=True):
                _settle(answer, predictions if len(batch) == 1 else predictions.part(start, end))
        except TimeoutError:
            _fail(batch, _late(self._deadlines.delay_s))
        except BaseException as error:  # noqa: BLE001  # CancelledError too: everyone gets an answer
            _fail(batch, error)


class _UnderWay:
    """A call, and how many wait for it: the worker needn't begin what nobody waits for."""

    __slots__ = ("_task", "_waiting")

    def __init__(self, task: asyncio.Task[None], waiting: int) -> None:
        self._task = task
        self._waiting = waiting

    def leave(self) -> None:
        """Note that one waits no more; the last one ends the call."""
        self._waiting -= 1
        if not self._waiting:
            self._task.cancel()


def _late(waited_s: float) -> DeadlineExceededError:
    return DeadlineExceededError(f"no answer from a model worker within {waited_s:g} s")


async def _joined(parts: Sequence[Answer]) -> Predictions:
    """Return the outcomes of all of a request's parts."""
    return concatenate([await part for part in parts])


def _settle(answer: Answer, predictions: Predictions) -> None:
    if not answer.done():
        answer.set_result(predictions)


def _fail(batch: Batch, error: BaseException) -> None:
    failure: Any = error if isinstance(error, Exception) else None
    for answer, _ in batch:
        if not answer.done():
            answer.set_exception(
                failure or NotReadyError("the call to the model worker was cancelled: try again")
            )
