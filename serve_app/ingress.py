"""Ingress: the deployment that answers HTTP and sends coalesced rows to the workers."""

import asyncio
import contextvars
import logging
import os
import time
from functools import partial
from typing import Any, Final

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Scope

from contract.strict import SettingsError
from serve_app import scaling
from serve_app.access.key_file import FILE_VARIABLE, VARIABLE, KeySource
from serve_app.access.rates import Rates
from serve_app.calls.shared import Shared
from serve_app.calls.workers import Workers
from serve_app.control import following, memory
from serve_app.control.labels import Label, LabelState
from serve_app.errors import NotReadyError, RolloutConflictError
from serve_app.feedback import Feedback
from serve_app.garbage import collect_rarely
from serve_app.http.body import Limits
from serve_app.http.gate import Gate
from serve_app.http.guard import Guard
from serve_app.http.routes import Application, Service
from serve_app.http.switch import Switch
from serve_app.lane import Lane
from serve_app.metrics import exposition, reports
from serve_app.metrics.counts import Counts, Report, UnderWay
from serve_app.models.served import ServedModel
from serve_app.observer import Observer
from serve_app.routing import CHALLENGER, CHAMPION, Published, Role, Table
from serve_app.settings import Settings

logger = logging.getLogger("ray.serve")

READY_TIMEOUT_S: Final = 5.0
READY_KEPT_S: Final = 1.0
"""Anybody may ask whether a service is ready: that must not be a way around its gates."""

CONTROL_TIMEOUT_S: Final = 10.0
REPORT_PERIOD_S: Final = 1.0
METRICS_TIMEOUT_S: Final = 5.0
"""Prometheus waits 10 s by default."""
METRICS_KEPT_S: Final = 1.0
KEYS_PERIOD_S: Final = 2.0
LINES_PERIOD_S: Final = 1.0
MIN_CALLS_UNDER_WAY: Final = 2


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
    """A lane for each version in the controller's table, and the switch between them."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        workers: DeploymentHandle[Any],
        controller: DeploymentHandle[Any],
        seed: Table,
        settings: Settings,
        asks_for_keys: bool,
    ) -> None:
        self._settings = settings
        self._keys = KeySource(settings.api_keys_file, os.environ)
        if asks_for_keys and not self._keys.is_on:
            raise SettingsError(
                f"this node has no API keys, though keys are asked for: set {VARIABLE} or "
                f"{FILE_VARIABLE} for `ray start` on every node"
            )
        self._controller = controller
        self._processor = ProcessorShare(time.monotonic(), time.process_time())
        self._workers = Workers(workers)
        self._has_lines = settings.dispatch.lines and os.environ.get("RAY_USE_TLS") != "1"
        self._observer = Observer(self._workers, settings.rollout)
        self._feedback = Feedback(self._workers, self._observer)
        self._lanes: dict[str, Lane] = {}
        self._has_lost_controller = False
        limits = settings.limits
        self._singles = Gate(limits.max_requests, limits.max_bytes_under_way)
        self._batches = Gate(limits.max_requests, limits.max_bytes_under_way)
        self._rates = Rates()
        self._counts = Counts()
        self._texts: dict[bool, tuple[bytes, str]] = {}
        self._scrapes = {
            kind: Shared(partial(self._scrape, kind), METRICS_KEPT_S) for kind in (False, True)
        }
        self._name = serve.get_replica_context().replica_id.unique_id
        ask = following.handle_ask(controller.follow_table, lambda: self._name, self._held)
        news = await following.first(ask)
        self._published = (
            news.value
            if news is not None
            else Published(await asyncio.to_thread(memory.fallback, seed, settings))
        )
        self._switch = Switch((await self._build(self._published.table))[CHAMPION])
        self._guard = Guard(self._switch, self._keys, self._rates, self._counts.not_let_in)
        await self._use(self._published)
        loop = asyncio.get_running_loop()
        self._tasks = [
            following.keep_following(ask, self._use, self._lose),
            loop.create_task(self._report(), context=contextvars.Context()),
            loop.create_task(self._join_labels(), context=contextvars.Context()),
            loop.create_task(self._keep_reporting(), context=contextvars.Context()),
            loop.create_task(self._refresh_keys(), context=contextvars.Context()),
            loop.create_task(self._keep_lines(), context=contextvars.Context()),
        ]

    def __serve_build_asgi_app__(self) -> Guard:
        """Return the routes; called by Serve after the constructor."""
        collect_rarely()
        return self._guard

    def endpoint(self, scope: Scope) -> ASGIApp | None:
        """Return what answers this request without Serve's own steps; asked by `front.Front`."""
        return self._guard.endpoint(scope)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return what `scaling.ingress_policy` decides by; called by Serve."""
        return {scaling.BUSY_SHARE: self._processor.take(time.monotonic(), time.process_time())}

    async def _build(self, table: Table) -> dict[Role, Application]:
        """Return the routes of each role, those of new versions made off the event loop."""
        self._counts.keep(model.version.version for model, _ in table.routed)
        lanes = {
            model.version.version: self._lanes.get(model.version.version) or self._lane(model)
            for model, _ in table.routed
        }
        self._lanes = lanes
        return {
            role: await asyncio.to_thread(
                lanes[model.version.version].application, role, self._service
            )
            for model, role in table.routed
        }

    def _lane(self, model: ServedModel) -> Lane:
        counts = self._counts.of(model.version.version)
        return Lane(model, self._observer, counts, self._settings, self._max_calls_under_way)

    async def _use(self, published: Published) -> None:
        """Go by what the controller says."""
        table = published.table
        if table.epoch < self._published.table.epoch:
            self._lose()  # a new controller, which doesn't know yet what it is told at the next try
            return
        applications = await self._build(table)
        self._observer.turn(table)
        self._rates.divide(published.ingresses)
        challenger = applications.get(CHALLENGER)
        self._switch.turn(applications[CHAMPION], challenger, table.salt, table.weight)
        self._published = published
        self._has_lost_controller = False
        if self._has_lines and published.workers:
            await self._workers.follow(published.workers)

    def _lose(self) -> None:
        self._has_lost_controller = True

    def _held(self) -> Table | None:
        """Return what a controller that replaces another may not know."""
        return self._published.table if self._has_lost_controller else None

    def _service(self, lane: Lane, role: Role) -> Service:
        limits = self._settings.limits
        return Service(
            model=lane.model,
            role=role,
            predict=lane.predict,
            check=Shared(partial(self._check, lane), READY_KEPT_S),
            limits=Limits(
                limits.max_body_bytes,
                limits.body_timeout_s,
                limits.body_stall_s,
                limits.answer_timeout_s,
            ),
            singles=self._singles,
            batches=self._batches,
            max_batch_records=limits.max_batch_records,
            asks_for_keys=self._keys.is_on,
            published=lambda: self._published,
            command=self._command,
            label=self._label,
            remember=self._feedback.remember,
            counts=lane.counts,
            metrics=self._metrics,
        )

    def _max_calls_under_way(self) -> int:
        # With fewer, workers would be idle; one more would only wait for the model.
        wanted = self._settings.dispatch.max_calls_under_way
        return wanted or max(MIN_CALLS_UNDER_WAY, self._workers.count)

    async def _check(self, lane: Lane) -> None:
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                outcome = await lane.predict(lane.model.example, False)
        except TimeoutError as error:
            raise NotReadyError(f"no worker answered within {READY_TIMEOUT_S:g} s") from error
        if outcome.errors:
            raise NotReadyError(f"the model's input example failed: {outcome.errors[0]}")

    async def _command(self, action: str, reason: str) -> None:
        refusal = await self._asked(self._controller.command.remote(action, reason))
        if refusal is not None:
            raise RolloutConflictError(refusal)

    async def _label(self, label: Label) -> LabelState:
        if self._observer.window is None:
            return "unused"
        state: LabelState = await self._asked(self._controller.label.remote(label))
        return state

    async def _metrics(self, accepted: str) -> tuple[bytes, str]:
        as_openmetrics = exposition.is_openmetrics(accepted)
        await self._scrapes[as_openmetrics]()
        return self._texts[as_openmetrics]

    async def _scrape(self, as_openmetrics: bool) -> None:
        """Hear what all ingresses have counted, and write it down, off the event loop."""
        answer = self._controller.exchange.remote(self._name, self._counted())
        found = await self._asked(answer, METRICS_TIMEOUT_S)
        self._texts[as_openmetrics] = await asyncio.to_thread(
            exposition.render, found, self._published, as_openmetrics
        )

    def _counted(self) -> Report:
        under_way = {
            name: UnderWay(gate.requests, gate.content_bytes)
            for name, gate in (("single", self._singles), ("batch", self._batches))
        }
        return Report(self._counts.copy(), under_way, time.process_time())

    async def _asked(self, answer: Any, within_s: float = CONTROL_TIMEOUT_S) -> Any:
        try:
            async with asyncio.timeout(within_s):
                return await answer
        except following.UNANSWERED as error:
            raise NotReadyError(
                "the rollout controller does not answer: try again later"
            ) from error

    async def _report(self) -> None:
        """Tell the controller what was seen, as long as a rollout is on. Ends with this replica."""
        while True:
            await asyncio.sleep(REPORT_PERIOD_S)
            seen = self._observer.take()  # rather missed than counted twice, if that isn't sure
            if seen is None:
                continue
            try:
                async with asyncio.timeout(CONTROL_TIMEOUT_S):
                    await self._controller.observe.remote(*seen)
            except following.UNANSWERED as error:
                logger.debug("the controller does not answer: %s", error)
            except Exception:  # the next one may do better
                logger.exception("what was seen could not be reported")

    async def _keep_reporting(self) -> None:
        """Tell what was counted though nobody asks this ingress for it. Ends with this replica."""
        while True:
            await asyncio.sleep(reports.PERIOD_S)
            try:
                told = self._controller.report.remote(self._name, self._counted())
                await self._asked(told, METRICS_TIMEOUT_S)
            except NotReadyError as error:
                logger.debug("nobody is told what was counted: %s", error)
            except Exception:  # the next one may do better
                logger.exception("what was counted could not be told")

    async def _join_labels(self) -> None:
        """Ask for true values, as long as a rollout is on, and compare them. Ends with this
        replica."""
        number: int | None = None
        while True:
            await asyncio.sleep(REPORT_PERIOD_S)
            if self._observer.window is None:
                self._feedback.forget()
                continue
            try:
                async with asyncio.timeout(CONTROL_TIMEOUT_S):
                    number, labels = await self._controller.labels_since.remote(number)
                await self._feedback.join(labels)
            except following.UNANSWERED as error:
                logger.debug("the controller does not answer: %s", error)
            except Exception:  # the next ones may do better
                logger.exception("true values could not be compared")

    async def _keep_lines(self) -> None:
        """See that the workers are there. Ends with this replica."""
        while True:
            await asyncio.sleep(LINES_PERIOD_S)
            self._workers.look_after()

    async def _refresh_keys(self) -> None:
        """Go by the key file as it is now. Ends with this replica."""
        while True:
            await asyncio.sleep(KEYS_PERIOD_S)
            await asyncio.to_thread(self._keys.refresh)

    async def check_health(self) -> None:
        """Raise if this replica follows the controller no more; called by Serve."""
        following.check(self._tasks)
