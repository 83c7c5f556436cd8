"""A batch with which the model is not done: its requests are tried one by one, beside it."""

import asyncio
import contextvars
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from serve_app.call import Call
from serve_app.models.predictions import UNANSWERED, Predictions, with_gaps

MOST_HUNG: Final = 2
"""Requests of a batch that may take a thread along; after that no more of it are tried."""

Work = asyncio.Future[list[Predictions]]
"""What the model has in a thread: one outcome for each call, in order."""

Begin = Callable[[list[Call], ThreadPoolExecutor], Work]


class Rescue:
    """Answers each call of a batch, for which `work` is under way, by whatever is there first.

    That is `work` itself, or its requests, tried by `begin` one after the other, each for
    `patience_s`. On the event loop's clock at `until` those that have no answer have failed.
    `width` is the shape of one row's answer, for labels or for probabilities.
    """

    def __init__(
        self,
        calls: Sequence[Call],
        work: Work,
        begin: Begin,
        patience_s: float,
        until: float,
        width: Callable[[bool], tuple[int, ...]],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._calls = calls
        self._work = work
        self._begin = begin
        self._patience_s = patience_s
        self._until = until
        self._width = width
        self._thread = one_thread()
        self._hung = 0
        self.answers: list[asyncio.Future[Predictions]] = [
            self._loop.create_future() for _ in calls
        ]
        # An empty context: it must not end with the request that happens to be the first.
        self._task = self._loop.create_task(self._run(), context=contextvars.Context())

    async def _run(self) -> None:
        tried: list[list[Work | None]] = []
        for call, answer in zip(self._calls, self.answers, strict=True):
            works = [await self._try(one, answer) for one in call.requests()]
            tried.append(works)
            if not answer.done() and all(map(_outcome, works)):
                answer.set_result(self._joined(call, works))
        self._thread.shutdown(wait=False)
        if not all(answer.done() for answer in self.answers):
            await asyncio.wait({self._work}, timeout=self._until - self._loop.time())
        whole = self._work.result() if _is_well(self._work) else None
        for at, answer in enumerate(self.answers):
            if not answer.done():
                answer.set_result(whole[at] if whole else self._joined(self._calls[at], tried[at]))

    def _joined(self, call: Call, works: Sequence[Work | None]) -> Predictions:
        parts = [_outcome(one) for one in works]
        return with_gaps(parts, call.sizes, UNANSWERED, self._width(call.wants_probabilities))

    async def _try(self, one: Call, answer: asyncio.Future[Predictions]) -> Work | None:
        """Try a request; None if nobody waits for it, or it is too late or too often in vain."""
        left_s = self._until - self._loop.time()
        if answer.done() or self._work.done() or self._hung == MOST_HUNG or left_s <= 0:
            return None
        work = self._begin([one], self._thread)
        work.add_done_callback(_seen)
        await asyncio.wait(
            {work, self._work},
            timeout=min(self._patience_s, left_s),
            return_when=asyncio.FIRST_COMPLETED,
        )
        if not work.done():
            self._hung += 1
            self._thread.shutdown(wait=False)
            self._thread = one_thread()
        return work


def one_thread() -> ThreadPoolExecutor:
    """Return a thread: the model computes off the event loop, which goes on answering Serve."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")


def _is_well(work: Work) -> bool:
    return work.done() and not work.cancelled() and work.exception() is None


def _outcome(work: Work | None) -> Predictions | None:
    return work.result()[0] if work is not None and _is_well(work) else None


def _seen(work: Work) -> None:
    """Look at what became of it: asyncio logs exceptions that nobody has looked at."""
    if not work.cancelled():
        work.exception()
