"""Many waiting requests become one call to a worker.

While calls are under way new rows queue; when one returns, all that waits goes out as the next, so
an idle service adds no delay and a busy one pays for few calls. No timer is involved.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from serve_app.errors import DeadlineExceededError, NotReadyError, OverloadedError
from serve_app.predictions import Predictions, concatenate
from serve_app.records import Rows

Call = Callable[[Rows], Awaitable[Predictions]]


@dataclass(frozen=True, slots=True)
class _Waiting:
    rows: Rows
    answer: asyncio.Future[Predictions]


class Coalescer:
    """Sends rows to workers through `call`, at most `max_calls_under_way` calls at once.

    Must be made and used on one event loop.
    """

    def __init__(
        self,
        call: Call,
        *,
        max_rows_per_call: int,
        max_calls_under_way: int,
        max_queued_rows: int,
        deadline_s: float,
    ) -> None:
        self._call = call
        self._max_rows_per_call = max_rows_per_call
        self._max_calls_under_way = max_calls_under_way
        self._max_queued_rows = max_queued_rows
        self._deadline_s = deadline_s
        self._queue: deque[_Waiting] = deque()
        self._queued_rows = 0
        self._calls: set[asyncio.Task[None]] = set()

    @property
    def queued_rows(self) -> int:
        """Rows that wait and are in no call yet."""
        return self._queued_rows

    async def predict(self, rows: Rows) -> Predictions:
        """Return one outcome for each of `rows`, shape (records, features), in order.

        Raises OverloadedError at once if the queue is full, DeadlineExceededError when the answer
        is late, NotReadyError if no worker could be reached.
        """
        if self._queued_rows + len(rows) > self._max_queued_rows and self._queue:
            raise OverloadedError(
                f"{self._queued_rows} rows are waiting, at most {self._max_queued_rows} may: "
                "try again later"
            )
        step = self._max_rows_per_call
        parts = [self._enqueue(rows[at : at + step]) for at in range(0, len(rows), step)]
        self._start_calls()
        try:
            async with asyncio.timeout(self._deadline_s):
                if len(parts) == 1:
                    return await parts[0]
                return concatenate(await asyncio.gather(*parts))
        except TimeoutError as error:
            raise DeadlineExceededError(
                f"no answer from a model worker within {self._deadline_s:g} s"
            ) from error

    def _enqueue(self, rows: Rows) -> asyncio.Future[Predictions]:
        answer: asyncio.Future[Predictions] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(rows, answer))
        self._queued_rows += len(rows)
        return answer

    def _start_calls(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue and len(self._calls) < self._max_calls_under_way:
            batch = self._take()
            if not batch:
                continue
            # An empty context: a call made inside one request's context is cancelled with that
            # request, and its neighbours in the batch would wait for ever.
            task = loop.create_task(self._run(batch), context=contextvars.Context())
            self._calls.add(task)
            task.add_done_callback(self._ended)

    def _take(self) -> list[_Waiting]:
        """Take what fits into one call off the queue, leaving out whoever no longer waits."""
        batch: list[_Waiting] = []
        room = self._max_rows_per_call
        while self._queue and len(self._queue[0].rows) <= room:
            waiting = self._queue.popleft()
            self._queued_rows -= len(waiting.rows)
            if not waiting.answer.done():
                batch.append(waiting)
                room -= len(waiting.rows)
        return batch

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._calls.discard(task)
        self._start_calls()

    async def _run(self, batch: list[_Waiting]) -> None:
        try:
            rows = batch[0].rows if len(batch) == 1 else np.concatenate([w.rows for w in batch])
            predictions = await self._call(rows)
            at = 0
            for waiting in batch:
                end = at + len(waiting.rows)
                _settle(waiting, predictions if len(batch) == 1 else predictions.part(at, end))
                at = end
        except BaseException as error:  # noqa: BLE001  # CancelledError too: everyone gets an answer
            for waiting in batch:
                _fail(waiting, error)


def _settle(waiting: _Waiting, predictions: Predictions) -> None:
    if not waiting.answer.done():
        waiting.answer.set_result(predictions)


def _fail(waiting: _Waiting, error: BaseException) -> None:
    if not waiting.answer.done():
        failure: Any = error if isinstance(error, Exception) else None
        waiting.answer.set_exception(
            failure or NotReadyError("the call to the model worker was cancelled: try again")
        )
