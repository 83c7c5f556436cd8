"""Ingress: the deployment that answers HTTP and sends coalesced rows to the workers."""

import asyncio
import os
import time
from functools import partial
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette
from starlette.types import ASGIApp, Scope

from serve_app import routes, scaling
from serve_app.coalescer import Coalescer
from serve_app.endpoint import Limits
from serve_app.errors import NotReadyError
from serve_app.garbage import collect_rarely
from serve_app.rows import Rows
from serve_app.served import ServedModel
from serve_app.settings import Settings
from serve_app.workers import Workers

READY_TIMEOUT_S = 5.0
MIN_CALLS_UNDER_WAY = 2
MAX_CALL_BYTES = 2 * 2**20
"""Serve's gRPC between replicas takes 4 MiB a message by default; stay well below."""


class ProcessorShare:
    """How much of a processor this process has used. Times are in seconds."""

    def __init__(self, now: float, used_s: float) -> None:
        self._since, self._used_s = now, used_s

    def take(self, now: float, used_s: float) -> float:
        """Return the share since the last call, 0 to 1, and start anew."""
        share = (used_s - self._used_s) / max(now - self._since, 1e-9)
        self._since, self._used_s = now, used_s
        return min(share, 1.0)


@serve.ingress()
class Ingress:
    """Starlette routes over one coalescer for each kind of answer."""

    def __init__(
        self, workers: DeploymentHandle[Any], model: ServedModel, settings: Settings
    ) -> None:
        self._example = model.example
        self._processor = ProcessorShare(time.monotonic(), time.process_time())
        self._workers = asked = Workers(workers)
        self._has_lines = settings.dispatch.lines and os.environ.get("RAY_USE_TLS") != "1"
        limits, dispatch = settings.limits, settings.dispatch
        self._calls_wanted = dispatch.max_calls_under_way
        row_bytes = 8 * max(len(model.signature.columns), len(model.classes or ()))
        self._coalescers = {
            wants_probabilities: Coalescer(
                partial(asked.predict, wants_probabilities=wants_probabilities),
                max_rows_per_call=max(
                    1, min(dispatch.max_rows_per_call, MAX_CALL_BYTES // row_bytes)
                ),
                max_calls_under_way=self._max_calls_under_way,
                max_queued_rows=limits.max_queued_rows,
                deadline_s=limits.deadline_s,
            )
            for wants_probabilities in (False, True)
        }
        service = routes.Service(
            model=model,
            predict=self._predict,
            check=self._check,
            limits=Limits(limits.max_body_bytes, limits.body_timeout_s),
            max_batch_records=limits.max_batch_records,
        )

        self._application = routes.application(service)

    def __serve_build_asgi_app__(self) -> Starlette:
        """Return the routes; called by Serve after the constructor."""
        if self._has_lines:
            self._workers.follow()
        collect_rarely()
        return self._application

    def endpoint(self, scope: Scope) -> ASGIApp | None:
        """Return what answers this request without Serve's own steps; asked by `front.Front`."""
        return self._application.endpoint(scope)

    def _max_calls_under_way(self) -> int:
        # With fewer, workers would be idle; one more would only wait for the model.
        return self._calls_wanted or max(MIN_CALLS_UNDER_WAY, self._workers.count)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return what `scaling.ingress_policy` decides by; called by Serve."""
        return {scaling.BUSY_SHARE: self._processor.take(time.monotonic(), time.process_time())}

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
