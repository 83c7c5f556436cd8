"""The workers as the ingress sees them: rows out, predictions or one of our own errors back."""

import asyncio
from typing import Any

from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from serve_app.errors import NotReadyError, OverloadedError
from serve_app.predictions import Predictions
from serve_app.records import Rows


class Workers:
    """Calls to the ModelWorker deployment through its `handle`."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def predict(
        self, rows: Rows, sizes: tuple[int, ...], wants_probabilities: bool
    ) -> Predictions:
        """Return one outcome a row; `sizes` are the row counts of the requests in `rows`.

        A prediction is idempotent, so a call that died with its worker is made once more. Raises
        OverloadedError, NotReadyError.
        """
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
