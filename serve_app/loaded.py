"""One model version in a worker's memory: its model, its thread, its batches.

Each version has a thread and a queue of its own, so that one which never returns holds up nobody
who asks for another.
"""

import asyncio
import contextlib
import contextvars
import itertools
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, chain, pairwise
from typing import Any, Final

import numpy as np
from ray import serve

from serve_app import scaling
from serve_app.call import Call
from serve_app.calls.pace import Pace
from serve_app.models.model import Model
from serve_app.models.predictions import Predictions
from serve_app.rescue import Left, Rescue, Waiting, Work, one_thread

MAX_CALLS_PER_BATCH: Final = 8
QUICK_S: Final = 0.002
"""A model that answers within this may hold up the event loop: handing over takes as long."""

PATIENCE: Final = 1 / 3
"""Share of the deadline after which a batch holds up nobody any more."""

SINGLE_PATIENCE: Final = 1 / 6
"""Share of the deadline for which each of its requests is then tried."""

LAST_RESORT: Final = 0.8
"""Share of the deadline, from a call's arrival on, after which those of its requests that have no
answer have failed, so that the others get theirs in time."""

MOST_LEFT: Final = 4
"""Threads that are left to one version that hangs; then nothing more is tried, and batches wait."""


class Recorder:
    """Counts what the autoscaling policy asks for. Times are in seconds on a monotonic clock."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._busy_s = 0.0
        self._begun: dict[int, float] = {}
        self._numbers = itertools.count()
        self._queued_rows = 0
        self._most_queued_rows = 0

    @contextlib.contextmanager
    def queued(self, rows: int) -> Iterator[None]:
        """Count rows as waiting while their call is under way, however it ends."""
        self._queued_rows += rows
        self._most_queued_rows = max(self._most_queued_rows, self._queued_rows)
        try:
            yield
        finally:
            self._queued_rows -= rows

    @property
    def is_busy(self) -> bool:
        """Whether the model has a batch."""
        return bool(self._begun)

    def begin(self, now: float) -> int:
        """Note that the model starts on a batch; return its number."""
        number = next(self._numbers)
        self._begun[number] = now
        return number

    def end(self, number: int, now: float) -> None:
        """Note that the model is done with a batch."""
        took_s = now - self._begun.pop(number)
        self._busy_s += took_s

    def batch_age_s(self, now: float) -> float:
        """Return how long the oldest batch has been with the model; 0 if there's none."""
        return max((now - since for since in list(self._begun.values())), default=0.0)

    def take(self, now: float) -> dict[str, float]:
        """Return the statistics since the last call, and start anew."""
        elapsed_s = max(now - self._since, 1e-9)
        taken = {
            scaling.BUSY_SHARE: min(self._busy_s / elapsed_s, 1.0),
            scaling.QUEUED_ROWS: float(self._most_queued_rows),
        }
        self._since, self._busy_s, self._most_queued_rows = now, 0.0, self._queued_rows
        return taken


Answer = Predictions | asyncio.Future[Predictions]
"""What a call gets, or what it has to wait for by itself."""

Answers = Callable[[list[Waiting]], Coroutine[Any, Any, list[Answer]]]


def _answering(held: "list[LoadedVersion]") -> Answers:
    async def answers(waiting: list[Waiting]) -> list[Answer]:
        return await held[0].answers(waiting)

    return answers


class LoadedVersion:
    """Predicts with one version. Must be used on one event loop.

    A batch with which the model is not done after a third of `deadline_s` holds up nobody any more:
    what comes next goes ahead in another thread, and if there are several requests in it, they
    are tried one by one.
    """

    def __init__(self, model: Model, deadline_s: float) -> None:
        self._model = model
        self._deadline_s = deadline_s
        self._thread = one_thread()
        self._left = Left(MOST_LEFT)
        self._pace = Pace(QUICK_S)
        self.recorder = Recorder(time.monotonic())
        self._door = asyncio.Event()
        self._door.set()
        # Not as a decorator of a method: all instances would share one queue, and a batch of calls
        # to several versions would go to the first call's. Serve keeps the function for ever, so
        # it must not hold the model.
        self._held = [self]
        join = serve.batch(max_batch_size=MAX_CALLS_PER_BATCH, batch_wait_timeout_s=0)
        self._batch: Callable[[Waiting], Awaitable[Answer]] = join(_answering(self._held))

    def predict(
        self, call: Call, is_retry: bool = False
    ) -> Predictions | Coroutine[Any, Any, Predictions]:
        """Return one outcome for each row of a call: now if the model is quick and idle.

        A retry may hang the model, so it has a thread to itself, as long as there's one for it.
        """
        rows = len(call.rows)
        if is_retry and not self._left.is_full:
            return self._apart(call)
        if self._pace.is_quick(rows) and not (is_retry or self.recorder.is_busy):
            return self._predict_all([call], rows)[0]
        return self._joined(call, rows)

    async def _apart(self, call: Call) -> Predictions:
        thread = one_thread()
        work = self._begin([call], thread)
        self._left.add(work)
        thread.shutdown(wait=False)
        return await _only(work)

    async def _joined(self, call: Call, rows: int) -> Predictions:
        until = asyncio.get_running_loop().time() + self._deadline_s * LAST_RESORT
        waiting = Waiting(call, until)
        # Counted down here: a call that is cancelled while it waits never reaches the model.
        with self.recorder.queued(rows):
            try:
                # `@serve.batch` takes what comes off its queue at once, and waits for its turn with
                # that: whoever came later would be a batch of their own.
                await self._door.wait()
                answer = await self._batch(waiting)
                return answer if isinstance(answer, Predictions) else await answer
            finally:
                waiting.is_gone = True

    def close(self) -> None:
        """Let the thread end once it is done with what it has."""
        self._thread.shutdown(wait=False)
        self._held.clear()

    async def answers(self, waiting: list[Waiting]) -> list[Answer]:
        """Predict for those who wait, all of one kind at once; nobody joins them meanwhile."""
        self._door.clear()
        try:
            return await self._answers(waiting)
        finally:
            self._door.set()

    async def _answers(self, waiting: list[Waiting]) -> list[Answer]:
        calls = [one.call for one in waiting]
        work = self._begin(calls, self._thread)
        await asyncio.wait({work}, timeout=self._deadline_s * PATIENCE)
        await self._left.room(work)
        if work.done():
            return [*work.result()]
        # The thread is left to it, and another one used from now on. That the model is still busy
        # shows in the recorder, and makes Serve replace this worker.
        self._left.add(work)
        self._thread.shutdown(wait=False)
        self._thread = one_thread()
        if sum(len(call.sizes) for call in calls) == 1:
            loop = asyncio.get_running_loop()
            return [loop.create_task(_only(work), context=contextvars.Context())]
        patience_s = self._deadline_s * SINGLE_PATIENCE
        rescue = Rescue(waiting, work, self._begin, patience_s, self._left, self._model.width)
        return [*rescue.answers]

    def _begin(self, calls: list[Call], thread: ThreadPoolExecutor) -> Work:
        rows = sum(len(call.rows) for call in calls)
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(thread, self._predict_all, calls, rows)

    def _predict_all(self, calls: list[Call], rows: int) -> list[Predictions]:
        begun = time.monotonic()
        number = self.recorder.begin(begun)
        try:
            if len(calls) == 1:
                return self._outcomes(calls, calls[0].wants_probabilities)
            kinds: dict[bool, list[int]] = defaultdict(list)
            for at, call in enumerate(calls):
                kinds[call.wants_probabilities].append(at)
            answers: dict[int, Predictions] = {}
            for wants_probabilities, indexes in kinds.items():
                kind = [calls[at] for at in indexes]
                answers.update(zip(indexes, self._outcomes(kind, wants_probabilities), strict=True))
            return [answers[at] for at in range(len(calls))]
        finally:
            ended = time.monotonic()
            self.recorder.end(number, ended)
            self._pace.note(rows, ended - begun)

    def _outcomes(self, calls: list[Call], wants_probabilities: bool) -> list[Predictions]:
        predict = self._model.probabilities if wants_probabilities else self._model.predict
        if len(calls) == 1:
            rows, sizes = calls[0].rows, calls[0].sizes
        else:
            rows = np.concatenate([call.rows for call in calls])
            sizes = tuple(chain.from_iterable(call.sizes for call in calls))
        begun = time.monotonic()
        outcome = predict(rows, sizes)
        took_s = time.monotonic() - begun
        outcome = Predictions(outcome.values, outcome.errors, took_s, len(rows))
        if len(calls) == 1:
            return [outcome]
        ends = accumulate((len(call.rows) for call in calls), initial=0)
        return [outcome.part(start, end) for start, end in pairwise(ends)]


async def _only(work: Work) -> Predictions:
    # Shielded: who gives up waiting doesn't end the thread, which counts until it does.
    return (await asyncio.shield(work))[0]
