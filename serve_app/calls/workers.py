"""The workers as the ingress sees them: rows out, predictions or one of our own errors back."""

import asyncio
from collections.abc import Collection
from typing import Any, Final

import grpc
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from serve_app.calls.ask import Ask, VersionNotHeldError
from serve_app.calls.channel import Address, CallFailedError, LineLostError, Lines
from serve_app.errors import NotReadyError, OverloadedError
from serve_app.models.predictions import Predictions
from serve_app.records.rows import Rows

OPEN_TIMEOUT_S: Final = 5.0
MOST_ASKED: Final = 10
ASK_AGAIN_S: Final = 0.2


class Workers:
    """Calls to the ModelWorker deployment: over a line to one of its workers, or Serve's `handle`.

    Lines are quick; the handle knows how to wait for a worker, and is what is left while there is
    no line. Must be made and used on one event loop.
    """

    def __init__(self, handle: Any, lines: Lines | None = None) -> None:
        self._handle = handle
        self._lines = lines or Lines()

    @property
    def count(self) -> int:
        """How many workers there are lines to."""
        return self._lines.count

    async def follow(self, addresses: Collection[Address]) -> None:
        """Keep lines to these workers and no others."""
        await self._lines.follow(addresses, OPEN_TIMEOUT_S)

    async def predict(self, rows: Rows, sizes: tuple[int, ...], ask: Ask) -> Predictions:
        """Return one outcome a row; `sizes` are the row counts of the requests in `rows`.

        A prediction is idempotent, so a call that died with its worker is made once more. Raises
        OverloadedError, NotReadyError.
        """
        line = self._lines.pick()
        if line is not None:
            try:
                return await line.call(rows, sizes, ask)
            except CallFailedError as error:
                raise NotReadyError("the model worker did not answer: try again later") from error
            except LineLostError:
                pass
        return await self._by_handle(rows, sizes, ask)

    async def _by_handle(self, rows: Rows, sizes: tuple[int, ...], ask: Ask) -> Predictions:
        try:
            try:
                return await self._ask_holder(rows, sizes, ask)
            except RayActorError:
                return await self._ask_holder(rows, sizes, ask)
        except BackPressureError as error:
            raise OverloadedError("the model workers' queues are full: try again later") from error
        except DeploymentUnavailableError as error:
            raise NotReadyError("no model worker is running: try again later") from error
        except (RayError, grpc.RpcError, VersionNotHeldError) as error:
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
