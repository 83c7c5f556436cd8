"""ModelWorker: the versions in memory that the controller wants, one outcome a row."""

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

import ray
from ray import serve

from contract.tracking import MlflowUnreachableError
from serve_app import scaling
from serve_app.call import Call
from serve_app.calls.ask import Ask, BusyError, VersionNotHeldError
from serve_app.calls.connection import Address
from serve_app.calls.server import Server
from serve_app.control import following, memory
from serve_app.control.conductor import Orders
from serve_app.control.fleet import Report
from serve_app.garbage import collect_rarely
from serve_app.loaded import LoadedVersion
from serve_app.models import registry
from serve_app.models.model import Model
from serve_app.models.predictions import Predictions
from serve_app.models.served import ServedVersion
from serve_app.records.rows import Rows
from serve_app.routing import Table
from serve_app.settings import Settings

logger = logging.getLogger("ray.serve")

LINGER_S: Final = 60.0
"""How long a version that is wanted no more stays: an ingress may still send what has waited."""

Load = Callable[[ServedVersion], Model]


class Shelf:
    """The versions that a worker holds, loaded off the event loop. Times are on one clock."""

    def __init__(self, load: Load, load_timeout_s: float = 60.0, deadline_s: float = 30.0) -> None:
        self._load = load
        self._load_timeout_s = load_timeout_s
        self._deadline_s = deadline_s
        self._loaded: dict[str, LoadedVersion] = {}
        self._failed: dict[str, str] = {}
        self._unwanted_since: dict[str, float] = {}

    @property
    def held(self) -> dict[str, LoadedVersion]:
        """What can be asked, by version."""
        return self._loaded

    @property
    def failed(self) -> dict[str, str]:
        """Why versions could not be loaded."""
        return dict(self._failed)

    async def add(self, version: ServedVersion) -> None:
        """Load a version if it isn't there, verified and tried; raises what `load` raises."""
        if version.version not in self._loaded:
            async with asyncio.timeout(self._load_timeout_s):
                model = await asyncio.to_thread(self._load, version)
            self._loaded[version.version] = LoadedVersion(model, self._deadline_s)

    async def obey(self, orders: Orders, now: float) -> None:
        """Load what is new, note what can't be loaded, drop what has been unwanted for a while.

        What could not be fetched, as MLflow didn't answer, is tried again the next time.
        """
        versions = (*orders.needed, *orders.wanted)
        for version in versions:
            try:
                if version.version not in self._failed:
                    await self.add(version)
            except MlflowUnreachableError as error:
                logger.warning("version %s can't be fetched: %s", version.version, error)
            except Exception as error:  # noqa: BLE001  # whatever it is, the others are served
                logger.warning("version %s can't be loaded: %s", version.version, error)
                self._failed[version.version] = str(error) or type(error).__name__
        names = {version.version for version in versions}
        self._failed = {name: why for name, why in self._failed.items() if name in names}
        for name in names:
            self._unwanted_since.pop(name, None)
        for name in self._loaded.keys() - names:
            if now - self._unwanted_since.setdefault(name, now) > LINGER_S:
                del self._unwanted_since[name]
                self._loaded.pop(name).close()


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
        self._orders, self._has_changed = orders, asyncio.Event()
        self._tasks = [
            following.keep_following(ask, self._note, again=self._is_told),
            asyncio.get_running_loop().create_task(self._obey(), context=contextvars.Context()),
        ]
        collect_rarely()

    async def _hold(self, orders: Orders) -> None:
        """Load what is needed: a replica is ready only when it holds all of it."""
        for version in orders.needed:
            await self._shelf.add(version)

    async def _listen(self) -> Address:
        host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        return (host, await self._server.start(host), self._server.secret)

    def _report(self) -> Report:
        held = frozenset(self._shelf.held)
        return Report(self._address, held, self._shelf.failed, frozenset(self._overdue))

    def _fallback(self, seed: Table) -> Orders:
        """Return what to hold if the controller can't say: what this node has served last."""
        return Orders((memory.fallback(seed, self._settings).champion.version,))

    async def _note(self, orders: Orders) -> None:
        self._orders = orders
        self._has_changed.set()

    async def _obey(self) -> None:
        """Do what was ordered last, apart from the polls: loading must not cost the lease."""
        while True:
            self._has_changed.clear()
            before = self._report()
            await self._shelf.obey(self._orders, time.monotonic())
            if self._report() != before:
                self._is_told.set()
            await self._has_changed.wait()

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
