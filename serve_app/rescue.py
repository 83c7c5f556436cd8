"""A batch with which the model is not done: its requests are tried one by one, beside it."""

import asyncio
import contextvars
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from serve_app.call import Call
from serve_app.models.predictions import UNANSWERED, Predictions, with_gaps

logger = logging.getLogger("ray.serve")

Work = asyncio.Future[list[Predictions]]
"""What the model has in a thread: one outcome for each call, in order. Never cancelled."""

Begin = Callable[[list[Call], ThreadPoolExecutor], Work]


@dataclass
class Waiting:
    """A call, and whoever waits for it."""

    call: Call
    until: float
    """On the event loop's clock: when those of its requests that have no answer have failed."""
    is_gone: bool = False
    """Whether nobody waits any more."""


class Left:
    """What the model is still busy with, in threads that were left to it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._works: set[Work] = set()

    @property
    def is_full(self) -> bool:
        """Whether the model may have no more threads."""
        return len(self._works) >= self._most

    def add(self, work: Work) -> None:
        """Count a thread until its work is done."""
        self._works.add(work)
        work.add_done_callback(self._done)

    async def room(self, work: Work) -> None:
        """Return when there is room, or that work is done."""
        while self.is_full and not work.done():
            await asyncio.wait({work, *self._works}, return_when=asyncio.FIRST_COMPLETED)

    def _done(self, work: Work) -> None:
        self._works.discard(work)
        work.exception()  # seen: asyncio logs exceptions that nobody has looked at


class Rescue:
    """Answers each of those who wait for `work`, a batch of theirs, by whatever is there first.

    That is `work` itself, or their requests, which `begin` tries in turn, each for `patience_s` and
    as long as there is room in `left`. `width` is the shape of one row's answer, for labels or for
    probabilities.
    """

    def __init__(
        self,
        waiting: Sequence[Waiting],
        work: Work,
        begin: Begin,
        patience_s: float,
        left: Left,
        width: Callable[[bool], tuple[int, ...]],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._begin = begin
        self._patience_s = patience_s
        self._left = left
        self._width = width
        self._rescued = [_Rescued(self._loop, one) for one in waiting]
        for one in self._rescued:
            self._loop.call_at(one.waiting.until, self._settle, one)
        work.add_done_callback(self._whole)
        # An empty context: it must not end with the request that happens to be the first.
        self._task = self._loop.create_task(self._try_all(), context=contextvars.Context())

    @property
    def answers(self) -> list[asyncio.Future[Predictions]]:
        """What each of them has to wait for."""
        return [one.answer for one in self._rescued]

    async def _try_all(self) -> None:
        thread = one_thread()
        try:
            for one in self._rescued:
                for at, request in enumerate(one.waiting.call.requests()):
                    if one.answer.done() or one.waiting.is_gone:
                        break
                    if self._left.is_full:
                        return
                    work = one.works[at] = self._begin([request], thread)
                    work.add_done_callback(partial(self._settle_if_whole, one))
                    awaited: set[asyncio.Future[Any]] = {work, one.answer}
                    await asyncio.wait(
                        awaited,
                        timeout=self._patience_s,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    if not work.done():
                        self._left.add(work)
                        thread.shutdown(wait=False)
                        thread = one_thread()
        except Exception:
            # The batch itself may still answer.
            logger.exception("the requests of a batch that hangs could not be tried")
        finally:
            thread.shutdown(wait=False)

    def _whole(self, work: Work) -> None:
        """Answer all who have no answer yet by the batch itself, unless that has failed."""
        if is_well(work):
            for one, found in zip(self._rescued, work.result(), strict=True):
                if not one.answer.done():
                    one.answer.set_result(found)

    def _settle_if_whole(self, one: "_Rescued", work: Work) -> None:
        if all(each is not None and is_well(each) for each in one.works):
            self._settle(one)

    def _settle(self, one: "_Rescued") -> None:
        """Answer a call by what there is of it."""
        if one.answer.done():
            return
        call = one.waiting.call
        parts = [
            work.result()[0] if work is not None and is_well(work) else UNANSWERED
            for work in one.works
        ]
        width = self._width(call.wants_probabilities)
        one.answer.set_result(with_gaps(parts, call.sizes, width))


class _Rescued:
    """A call, its answer, and the trials of its requests."""

    def __init__(self, loop: asyncio.AbstractEventLoop, waiting: Waiting) -> None:
        self.waiting = waiting
        self.answer: asyncio.Future[Predictions] = loop.create_future()
        self.works: list[Work | None] = [None] * len(waiting.call.sizes)


def one_thread() -> ThreadPoolExecutor:
    """Return a thread: the model computes off the event loop, which goes on answering Serve."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")


def is_well(work: Work) -> bool:
    """Whether a result is there."""
    return work.done() and work.exception() is None
