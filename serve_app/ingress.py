"""Ingress: the deployment that answers HTTP and sends coalesced rows to the workers."""

import asyncio
from functools import partial
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette

from serve_app import routes
from serve_app.coalescer import Coalescer
from serve_app.errors import NotReadyError
from serve_app.records import Rows
from serve_app.served import ServedModel
from serve_app.settings import Settings
from serve_app.workers import Workers

READY_TIMEOUT_S = 5.0
MAX_CALL_BYTES = 2 * 2**20
"""Serve's gRPC between replicas takes 4 MiB a message by default; stay well below."""


@serve.ingress()
class Ingress:
    """Starlette routes over one coalescer for each kind of answer."""

    def __init__(
        self, workers: DeploymentHandle[Any], model: ServedModel, settings: Settings
    ) -> None:
        self._example = model.example
        asked = Workers(workers)
        limits, dispatch = settings.limits, settings.dispatch
        row_bytes = 8 * max(len(model.signature.columns), len(model.classes or ()))
        self._coalescers = {
            wants_probabilities: Coalescer(
                partial(asked.predict, wants_probabilities=wants_probabilities),
                max_rows_per_call=max(
                    1, min(dispatch.max_rows_per_call, MAX_CALL_BYTES // row_bytes)
                ),
                max_calls_under_way=dispatch.max_calls_under_way,
                max_queued_rows=limits.max_queued_rows,
                deadline_s=limits.deadline_s,
            )
            for wants_probabilities in (False, True)
        }
        self._service = routes.Service(
            model=model,
            predict=self._predict,
            check=self._check,
            max_body_bytes=limits.max_body_bytes,
            max_batch_records=limits.max_batch_records,
            body_timeout_s=limits.body_timeout_s,
        )

    def __serve_build_asgi_app__(self) -> Starlette:
        """Return the routes; called by Serve after the constructor."""
        return routes.application(self._service)

    def _predict(self, rows: Rows, wants_probabilities: bool) -> Any:
        return self._coalescers[wants_probabilities].predict(rows)

    async def _check(self) -> None:
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                outcome = await self._predict(self._example, False)
        except TimeoutError as error:
            raise NotReadyError(f"no worker answered within {READY_TIMEOUT_S:g} s") from error
        if outcome.errors:
            raise NotReadyError(f"the model's input example failed: {outcome.errors[0]}")
