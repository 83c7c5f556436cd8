"""One model version as an ingress serves it: its queues and its routes."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from serve_app.calls.ask import Ask
from serve_app.calls.coalescer import Coalescer
from serve_app.http.routes import Application, Service, application
from serve_app.metrics.counts import VersionCounts
from serve_app.models.predictions import Predictions
from serve_app.models.served import ServedModel
from serve_app.observer import Observer
from serve_app.records.rows import Rows
from serve_app.routing import Role
from serve_app.settings import Settings

MAX_CALL_BYTES: Final = 2 * 2**20
"""Serve's gRPC between replicas takes 4 MiB a message by default; stay well below."""


class Lane:
    """A coalescer for each kind of answer, and the routes for each role, made once."""

    def __init__(
        self,
        model: ServedModel,
        observer: Observer,
        counts: VersionCounts,
        settings: Settings,
        max_calls_under_way: Callable[[], int],
    ) -> None:
        self._model = model
        self._observer = observer
        self._counts = counts
        self._applications: dict[Role, Application] = {}
        limits, dispatch = settings.limits, settings.dispatch
        row_bytes = 8 * max(len(model.signature.columns), len(model.classes or ()))
        self._coalescers = {
            wants_probabilities: Coalescer(
                partial(self._call, Ask(model.version.version, wants_probabilities)),
                max_rows_per_call=max(
                    1, min(dispatch.max_rows_per_call, MAX_CALL_BYTES // row_bytes)
                ),
                max_calls_under_way=max_calls_under_way,
                max_queued_rows=limits.max_queued_rows,
                deadline_s=limits.deadline_s,
            )
            for wants_probabilities in (False, True)
        }

    def predict(self, rows: Rows, wants_probabilities: bool, within_s: float | None = None) -> Any:
        """Return what gives one outcome for each of `rows`; raises as `Coalescer.predict`."""
        return self._coalescers[wants_probabilities].predict(rows, within_s)

    async def _call(self, ask: Ask, rows: Rows, sizes: tuple[int, ...]) -> Predictions:
        found = await self._observer.call(ask, rows, sizes)
        self._counts.calls.add(found)
        return found

    def application(self, role: Role, service: Callable[["Lane", Role], Service]) -> Application:
        """Return the routes for this version in a role; made by `service` the first time."""
        if role not in self._applications:
            self._applications[role] = application(service(self, role))
        return self._applications[role]

    @property
    def model(self) -> ServedModel:
        """The version."""
        return self._model

    @property
    def counts(self) -> VersionCounts:
        """What is counted for it."""
        return self._counts
