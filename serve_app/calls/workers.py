"""The workers as the ingress sees them: rows out, predictions or one of our own errors back."""

import asyncio
from collections.abc import Collection
from contextlib import suppress
from itertools import accumulate, pairwise
from typing import Any, Final

import grpc
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from serve_app.calls.ask import Ask, BusyError, VersionNotHeldError
from serve_app.calls.connection import Address
from serve_app.calls.lines import CallFailedError, LineLostError, Lines
from serve_app.calls.retries import RetryBudget
from serve_app.errors import DeadlineExceededError, NotReadyError, OverloadedError
from serve_app.models.predictions import UNANSWERED, Predictions, with_gaps
from serve_app.records.rows import Rows

OPEN_TIMEOUT_S: Final = 5.0
MOST_ASKED: Final = 10
ASK_AGAIN_S: Final = 0.2

AGAIN_S: Final = 10.0
"""For how long each request is asked again: a worker that has fallen silent may hang with one."""

COMES_S: Final = 20.0
"""How long a worker may take to come when all were lost, before anybody is asked again."""

LOST_TWICE: Final = "a model worker was lost, twice, while it predicted this request"


class _WorkerLostError(Exception):
    """The worker has ended, or was given up, before it answered."""


class Workers:
    """Calls to the ModelWorker deployment: over a line to one of its workers, or Serve's `handle`.

    Lines are quick; the handle knows how to wait for a worker, and is what is left while there is
    no line. Must be made and used on one event loop.
    """

    def __init__(self, handle: Any, lines: Lines | None = None) -> None:
        self._handle = handle
        self._lines = lines or Lines()
        self._retries = RetryBudget()

    @property
    def count(self) -> int:
        """How many workers there are lines to."""
        return self._lines.count

    async def follow(self, addresses: Collection[Address]) -> None:
        """Keep lines to these workers and no others."""
        await self._lines.follow(addresses, OPEN_TIMEOUT_S)

    def look_after(self) -> None:
        """See that the workers are there; to be called every second."""
        self._lines.look_after(OPEN_TIMEOUT_S)

    async def predict(self, rows: Rows, sizes: tuple[int, ...], ask: Ask) -> Predictions:
        """Return one outcome a row; `sizes` are the row counts of the requests in `rows`.

        A prediction is idempotent, so what was under way with a worker that was lost is asked once
        more, each request by itself: if one of them has ended its worker, the others don't share
        its fate again. Raises OverloadedError, NotReadyError.
        """
        self._retries.note(len(sizes))
        try:
            return await self._once(rows, sizes, ask)
        except _WorkerLostError:
            if not self._retries.take(len(sizes)):
                raise NotReadyError("too many model workers were lost: try again later") from None
        return await self._singly(rows, sizes, ask._replace(is_retry=True))

    async def _singly(self, rows: Rows, sizes: tuple[int, ...], ask: Ask) -> Predictions:
        """Ask for one request after another; who loses a worker again, or hangs one, has failed."""
        parts: list[Predictions | str] = []
        for start, end in pairwise(accumulate(sizes, initial=0)):
            await self._worker_comes()
            try:
                async with asyncio.timeout(AGAIN_S):
                    parts.append(await self._once(rows[start:end], (end - start,), ask))
            except _WorkerLostError:
                parts.append(LOST_TWICE)
            except TimeoutError:
                parts.append(UNANSWERED)
        if all(isinstance(part, str) for part in parts):
            if LOST_TWICE in parts:
                raise NotReadyError("two model workers were lost: try again later")
            raise DeadlineExceededError(UNANSWERED)
        return with_gaps(parts, sizes)

    async def _worker_comes(self) -> None:
        """Return when there is a line, or none can be expected; Serve's handle is left then."""
        with suppress(TimeoutError):
            async with asyncio.timeout(COMES_S):
                while self._lines.are_expected and self._lines.pick() is None:
                    await asyncio.sleep(ASK_AGAIN_S)

    async def _once(self, rows: Rows, sizes: tuple[int, ...], ask: Ask) -> Predictions:
        line = self._lines.pick()
        try:
            if line is not None:
                return await line.call(rows, sizes, ask)
            return await self._ask_holder(rows, sizes, ask)
        except (LineLostError, RayActorError) as error:
            raise _WorkerLostError from error
        except BusyError as error:
            raise OverloadedError("the model worker is busy: no time for a shadow") from error
        except BackPressureError as error:
            raise OverloadedError("the model workers' queues are full: try again later") from error
        except DeploymentUnavailableError as error:
            raise NotReadyError("no model worker is running: try again later") from error
        except (CallFailedError, RayError, grpc.RpcError, VersionNotHeldError) as error:
            raise NotReadyError("the model worker did not answer: try again later") from error

    async def _ask_holder(self, rows: Rows, sizes: tuple[int, ...], ask: Ask) -> Predictions:
        """Ask until a worker holds the version: one that has just started may not yet."""
        for _ in range(MOST_ASKED - 1):
            try:
                return await self._ask(rows, sizes, ask)
            except VersionNotHeldError:
                await asyncio.sleep(ASK_AGAIN_S)
        return await self._ask(rows, sizes, ask)

    async def _ask(self, rows: Rows, sizes: tuple[int, ...], ask: Ask) -> Predictions:
        response = self._handle.predict.remote(rows, sizes, ask)
        try:
            answer: Predictions = await response
        except asyncio.CancelledError:
            response.cancel()  # or the worker would compute what nobody waits for
            raise
        return answer
