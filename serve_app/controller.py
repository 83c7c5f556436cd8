"""RolloutController: the one replica that follows MLflow and says what takes the traffic.

Ingresses and workers hang on it by long polls; none of them asks MLflow. While it is away, all go
on with what they were told last.
"""

import asyncio
import contextlib
import contextvars
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from serve_app.control import memory
from serve_app.control.board import News
from serve_app.control.conductor import Conductor, Orders
from serve_app.control.fleet import LEASE_S, Report
from serve_app.control.labels import Label, LabelState
from serve_app.control.tracker import MlflowTracker
from serve_app.metrics.counts import Report as IngressReport
from serve_app.metrics.reports import Reports
from serve_app.model_errors import ModelError
from serve_app.models.rehearsal import Rehearsals
from serve_app.models.served import ServedModel, ServedVersion
from serve_app.rollouts.evidence import Evidence
from serve_app.rollouts.rollout import CommandError
from serve_app.routing import Published, Table
from serve_app.settings import Settings

logger = logging.getLogger("ray.serve")

HANG_S: Final = 20.0
"""Longest that an ingress hangs on a long poll."""

WORKER_HANG_S: Final = LEASE_S / 3
"""Longest that a worker does: each time it asks, it renews its lease."""

TICK_S: Final = 1.0

FIRST_POLL_S: Final = 4.0
"""After the start, which has just asked MLflow: the other replicas need the processors first."""

REHEARSALS_AFTER_S: Final = 10.0
"""When versions can be tried quickly, after the start: what that takes is for the others first."""

ASKED_S: Final = 20.0
"""How long a controller that replaces another waits for Serve to tell anybody of it."""

SETTLE_S: Final = 5.0
"""How long it waits from then on for a replica to show it a newer table."""

OTHERS_S: Final = 1.0
"""How long after one replica the others have to show theirs, which may be newer."""

STARTING_S: Final = 30.0
"""How old a seed may be for its controller to be the first one, if nothing newer is remembered."""


class RolloutController:
    """A thin layer around `Conductor`: Serve's calls, the clock, the child process."""

    def __init__(self, seed: Table, settings: Settings) -> None:
        self._settings = settings
        self._rehearsals = Rehearsals()
        self._reports = Reports()
        self._conductor = Conductor(
            seed,
            settings.rollout,
            MlflowTracker(settings),
            self._rehearse,
            keep=partial(memory.remember, settings),
            load_timeout_s=settings.load_timeout_s,
        )
        # Now, before a replica shows its table: what is taken over is remembered in its place.
        self._remembered = memory.recall(settings)
        self._settled, self._is_asked = asyncio.Event(), asyncio.Event()
        self._has_shown = asyncio.Event()
        self._at_start = [_begin(self._settle), _begin(self._start_rehearsals)]
        self._loops = [_begin(self._tick), _begin(self._poll)]

    async def follow_table(
        self, known: int | None, ingress: str, held: Table | None
    ) -> News[Published]:
        """Return the table when it isn't the `known` one; asked by ingresses.

        `held` is what the ingress goes by: it may be newer than ours if we replace a controller.
        """
        self._is_asked.set()
        if held is not None:
            self._conductor.adopt(held)
            self._has_shown.set()
        await self._settled.wait()
        self._conductor.note_ingress(ingress)
        return await self._conductor.published.wait(known, HANG_S)

    async def follow_orders(self, known: int | None, worker: str, report: Report) -> News[Orders]:
        """Return what workers must hold when it isn't the `known`; asked by workers."""
        self._is_asked.set()
        await self._settled.wait()
        self._conductor.report(worker, report)
        return await self._conductor.orders.wait(known, WORKER_HANG_S)

    async def observe(self, window: tuple[int, int], evidence: Evidence) -> None:
        """Take what an ingress has counted."""
        self._conductor.observe(window, evidence)

    async def report(self, ingress: str, report: IngressReport) -> None:
        """Take all that an ingress has counted."""
        self._reports.note(ingress, report, time.monotonic())

    async def exchange(self, ingress: str, report: IngressReport) -> dict[str, IngressReport]:
        """Take all that an ingress has counted, and return what all of them have."""
        return self._reports.note(ingress, report, time.monotonic())

    async def label(self, label: Label) -> LabelState:
        """Take a true value that a client has sent to an ingress."""
        await self._settled.wait()
        return self._conductor.label(label)

    async def labels_since(self, number: int | None) -> tuple[int, list[Label]]:
        """Return the true values that came since; asked by ingresses while a rollout is on."""
        return self._conductor.labels_since(number)

    async def command(self, action: str, reason: str) -> str | None:
        """Do what a person wants; return why not, if it makes no sense."""
        await self._settled.wait()
        try:
            self._conductor.command(action, reason)
        except CommandError as error:
            return str(error)
        return None

    async def check_health(self) -> None:
        """Raise if the controller has stopped to work; called by Serve, which replaces it."""
        if any(loop.done() for loop in self._loops):
            raise RuntimeError("the controller's loop has ended")

    async def _settle(self) -> None:
        """Find out whether there was a controller before this one, and go on where it was."""
        try:
            await self._take_over()
            self._conductor.remember()
        finally:
            self._settled.set()

    async def _take_over(self) -> None:
        """Wait until replicas have shown what they go by, and it is as new as what we remember.

        The seed is as old as the deployment (its epoch is the time of that, in ms), and what this
        node remembers may be older still, as the last controller may have run on another one.
        """
        seed = self._conductor.table
        newest = max(seed.epoch, self._remembered.epoch if self._remembered is not None else 0)
        is_first = time.time() - seed.epoch / 1000 < STARTING_S
        if is_first and newest == seed.epoch:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ASKED_S):
                await self._is_asked.wait()
        try:
            async with asyncio.timeout(SETTLE_S):
                await self._has_shown.wait()
                while self._conductor.table.epoch < newest:
                    self._has_shown.clear()
                    await self._has_shown.wait()
        except TimeoutError:  # no replica has it any more
            table = await asyncio.to_thread(memory.restored, seed, self._remembered, self._settings)
            # Less new than the table itself, of which this is a part: whoever shows that is right.
            self._conductor.adopt(replace(table, epoch=table.epoch - 1))
        else:
            await asyncio.sleep(OTHERS_S)

    async def _rehearse(self, version: ServedVersion, copy: Path) -> ServedModel:
        settings = self._settings
        return await self._rehearsals.rehearse(
            version, copy, settings.extra_trusted_types, settings.load_timeout_s
        )

    async def _tick(self) -> None:
        await self._settled.wait()

        async def tick() -> None:
            self._conductor.tick()

        await _every(TICK_S, tick)

    async def _poll(self) -> None:
        await self._settled.wait()
        if self._settings.model_served == "mlflow":
            await asyncio.sleep(FIRST_POLL_S)
            await _every(self._settings.alias_poll_s, self._conductor.poll)
        await asyncio.Event().wait()

    async def _start_rehearsals(self) -> None:
        """Versions are tried without it too, only later."""
        if self._settings.model_served == "mlflow":
            await asyncio.sleep(REHEARSALS_AFTER_S)
            self._rehearsals.start()


def _begin(work: Callable[[], Coroutine[None, None, None]]) -> asyncio.Task[None]:
    loop = asyncio.get_running_loop()
    return loop.create_task(work(), context=contextvars.Context())


async def _every(period_s: float, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        begun = time.monotonic()
        try:
            await work()
        except ModelError as error:
            logger.warning("the controller: %s", error)
        except Exception:
            logger.exception("the controller could not do its work")
        await asyncio.sleep(max(0.0, begun + period_s - time.monotonic()))
