"""The workers as the ingress sees them: rows out, predictions or one of our own errors back."""

import asyncio
import contextvars
import logging
from typing import Any, Final

from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

from serve_app.channel import CallFailedError, LineLostError, Lines
from serve_app.errors import NotReadyError, OverloadedError
from serve_app.predictions import Predictions
from serve_app.rows import Rows

logger = logging.getLogger("ray.serve")

FOLLOW_PERIOD_S: Final = 5.0
"""How often the workers are asked for their addresses; a new one waits for this at most."""

HURRY_S: Final = 1.0
"""The same while there is no worker, and at least between two times that a line is lost."""

FOLLOW_TIMEOUT_S: Final = 5.0


class Workers:
    """Calls to the ModelWorker deployment: over a line to one of its workers, or Serve's `handle`.

    Lines are quick; the handle knows how to wait for a worker, and is what is left while there is
    no line. Must be made and used on one event loop.
    """

    def __init__(self, handle: Any, lines: Lines | None = None) -> None:
        self._handle = handle
        self._lines = lines or Lines()
        self._following: asyncio.Task[None] | None = None

    @property
    def count(self) -> int:
        """How many workers there are lines to."""
        return self._lines.count

    def follow(self) -> None:
        """Begin to keep lines to all workers that run, until the process ends."""
        if self._following is None:
            loop = asyncio.get_running_loop()
            # An empty context: this outlives the request that happens to be the first.
            self._following = loop.create_task(self._follow(), context=contextvars.Context())

    async def _follow(self) -> None:
        while True:
            try:
                found = await self._handle.broadcast("address").results_async(
                    timeout_s=FOLLOW_TIMEOUT_S, return_exceptions=True
                )
                addresses = [one for one in found if isinstance(one, tuple)]
                await self._lines.follow(addresses, FOLLOW_TIMEOUT_S)
            except (RayError, RayServeException, TimeoutError, OSError) as error:
                logger.debug("no news of the workers: %s", error)
            except Exception:
                logger.exception("no news of the workers")
            await asyncio.sleep(HURRY_S)
            if self._lines.count:
                await self._lines.wait_for_loss(FOLLOW_PERIOD_S - HURRY_S)

    async def predict(
        self, rows: Rows, sizes: tuple[int, ...], wants_probabilities: bool
    ) -> Predictions:
        """Return one outcome a row; `sizes` are the row counts of the requests in `rows`.

        A prediction is idempotent, so a call that died with its worker is made once more. Raises
        OverloadedError, NotReadyError.
        """
        line = self._lines.pick()
        if line is not None:
            try:
                return await line.call(rows, sizes, wants_probabilities)
            except CallFailedError as error:
                raise NotReadyError("the model worker did not answer: try again later") from error
            except LineLostError:
                pass
        return await self._by_handle(rows, sizes, wants_probabilities)

    async def _by_handle(
        self, rows: Rows, sizes: tuple[int, ...], wants_probabilities: bool
    ) -> Predictions:
        try:
            try:
                return await self._ask(rows, sizes, wants_probabilities)
            except RayActorError:
                return await self._ask(rows, sizes, wants_probabilities)
        except BackPressureError as error:
            raise OverloadedError("the model workers' queues are full: try again later") from error
        except DeploymentUnavailableError as error:
            raise NotReadyError("no model worker is running: try again later") from error
        except RayError as error:
            raise NotReadyError("the model worker did not answer: try again later") from error

    async def _ask(
        self, rows: Rows, sizes: tuple[int, ...], wants_probabilities: bool
    ) -> Predictions:
        response = self._handle.predict.remote(rows, sizes, wants_probabilities)
        try:
            answer: Predictions = await response
        except asyncio.CancelledError:
            response.cancel()  # or the worker would compute what nobody waits for
            raise
        return answer
