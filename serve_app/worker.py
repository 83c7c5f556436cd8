"""ModelWorker: the versions in memory that the controller wants, one outcome a row."""

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any

import ray
from ray import serve

from serve_app import scaling
from serve_app.call import Call
from serve_app.calls.ask import Ask, BusyError, VersionNotHeldError
from serve_app.calls.connection import Address
from serve_app.calls.server import Server
from serve_app.control import following, memory
from serve_app.control.conductor import Orders
from serve_app.control.fleet import Report
from serve_app.garbage import collect_rarely
from serve_app.models import registry
from serve_app.models.predictions import Predictions
from serve_app.records.rows import Rows
from serve_app.routing import Table
from serve_app.settings import Settings
from serve_app.shelf import Shelf

logger = logging.getLogger("ray.serve")


class ModelWorker:
    """Holds versions and predicts rows with them."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, controller: Any, seed: Table, settings: Settings
    ) -> None:
        self._settings = settings
        self._overdue: set[str] = set()
        self._is_told = asyncio.Event()
        self._deadline_s = settings.limits.deadline_s
        self._shelf = Shelf(
            lambda version: registry.load(version, settings),
            settings.load_timeout_s,
            self._deadline_s,
            self._is_told.set,
        )
        self._server = Server(self._answer, self._busy_s)
        self._address = await self._listen()
        worker = serve.get_replica_context().replica_id.unique_id
        ask = following.handle_ask(controller.follow_orders, lambda: worker, self._report)
        news = await following.first(ask)
        orders = news.value if news is not None else await asyncio.to_thread(self._fallback, seed)
        await self._hold(orders)
        while news is not None:  # meanwhile others may be needed
            news = await following.first(ask)
            if news is None or news.value.needed == orders.needed:
                break
            orders = news.value
            await self._hold(orders)
        self._tasks = [following.keep_following(ask, self._obey, again=self._is_told)]
        collect_rarely()

    async def _hold(self, orders: Orders) -> None:
        """Load what is needed: a replica is ready only when it holds all of it."""
        for version in orders.needed:
            await self._shelf.add(version)

    async def _listen(self) -> Address:
        host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        return (host, await self._server.start(host), self._server.secret)

    def _report(self) -> Report:
        shelf, overdue = self._shelf, frozenset(self._overdue)
        return Report(self._address, frozenset(shelf.held), shelf.failed, overdue, shelf.delayed)

    def _fallback(self, seed: Table) -> Orders:
        """Return what to hold if the controller can't say: what this node has served last."""
        return Orders((memory.fallback(seed, self._settings).champion.version,))

    async def _obey(self, orders: Orders) -> None:
        """Do what is ordered, which takes its time beside the polls: they are the lease."""
        self._shelf.obey(orders, time.monotonic())

    def __del__(self) -> Any:
        """Return what answers the calls under way, if there are any; Serve awaits it at the end."""
        server: Server | None = getattr(self, "_server", None)
        return server.close(self._deadline_s) if server is not None and server.is_busy else None

    def _busy_s(self) -> float:
        """Return for how long a model has been busy with one batch."""
        now = time.monotonic()
        ages = (loaded.recorder.batch_age_s(now) for loaded in self._shelf.held.values())
        return max(ages, default=0.0)

    async def predict(self, rows: Rows, sizes: tuple[int, ...], ask: Ask) -> Predictions:
        """Return one outcome for each of `rows`, shape (records, features), in order.

        `sizes` are the row counts of the requests in `rows`, which fail each by itself. Raises
        VersionNotHeldError, and BusyError for a shadow's call while others are busy.
        """
        found = self._answer(rows, sizes, ask)
        return found if isinstance(found, Predictions) else await found

    def _answer(
        self, rows: Rows, sizes: tuple[int, ...], ask: Ask
    ) -> Predictions | Coroutine[Any, Any, Predictions]:
        loaded = self._shelf.held.get(ask.version)
        if loaded is None:
            raise VersionNotHeldError(f"version {ask.version} is not loaded here")
        if ask.is_shadow and self._is_busy_beside(ask.version):
            raise BusyError("another version has a batch")
        return loaded.predict(Call(rows, sizes, ask.wants_probabilities), ask.is_retry)

    def _is_busy_beside(self, version: str) -> bool:
        """Whether another version has a batch; one that hangs in the shadow must show that."""
        held = self._shelf.held
        return any(one.recorder.is_busy for name, one in held.items() if name != version)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return what `scaling.worker_policy` decides by; called by Serve."""
        now = time.monotonic()
        taken = [loaded.recorder.take(now) for loaded in self._shelf.held.values()]
        return {
            scaling.BUSY_SHARE: min(1.0, sum(one[scaling.BUSY_SHARE] for one in taken)),
            scaling.QUEUED_ROWS: sum(one[scaling.QUEUED_ROWS] for one in taken),
        }

    async def check_health(self) -> None:
        """Raise if a model hangs; called by Serve, which then replaces this worker.

        Not before the controller has had the time to hear of it: a challenger that hangs would
        hang in the next worker, too.
        """
        following.check(self._tasks)
        now = time.monotonic()
        for version, loaded in self._shelf.held.items():
            age_s = loaded.recorder.batch_age_s(now)
            if age_s <= self._deadline_s:
                self._overdue.discard(version)
            elif version in self._overdue:
                raise RuntimeError(
                    f"version {version} has been busy with one batch for {age_s:.0f} s"
                )
            else:
                self._overdue.add(version)
                self._is_told.set()
