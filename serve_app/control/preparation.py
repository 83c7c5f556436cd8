"""Versions on their way to traffic: fetched, tried in a child process, loaded by every worker.

Each in a task of its own, so that one which takes long holds up nobody who looks at the aliases.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final

from serve_app.control.fleet import Fleet
from serve_app.model_errors import NotNowError, UnservableModelError
from serve_app.models.served import ServedModel, ServedVersion

PATIENCE_S: Final = 2.0
"""How long one look waits for a version: most are ready by then."""

_LOOK_AGAIN_S: Final = 0.1

Resolve = Callable[[str], tuple[ServedVersion, Path]]
"""version -> what it is, and its verified copy on this node; blocks, raises as `Tracker`."""

Rehearse = Callable[[ServedVersion, Path], Awaitable[ServedModel]]
"""(version, its copy) -> what clients need to know of it; raises UnservableModelError."""


class Preparations:
    """The versions under way. `changed` is called when another one is to be loaded, or none."""

    def __init__(
        self,
        resolve: Resolve,
        rehearse: Rehearse,
        fleet: Fleet,
        changed: Callable[[], None],
        clock: Callable[[], float],
        load_timeout_s: float,
    ) -> None:
        self._resolve = resolve
        self._rehearse = rehearse
        self._fleet = fleet
        self._changed = changed
        self._clock = clock
        self._load_timeout_s = load_timeout_s
        self._wanted: dict[str, ServedVersion] = {}
        self._tasks: dict[str, asyncio.Task[ServedModel]] = {}

    @property
    def wanted(self) -> tuple[ServedVersion, ...]:
        """What workers are to load."""
        return tuple(self._wanted.values())

    def keep(self, versions: Iterable[str]) -> None:
        """Give up all versions but these."""
        kept = frozenset(versions)
        for version in self._tasks.keys() - kept:
            task = self._tasks.pop(version)
            task.add_done_callback(_pass_over)
            task.cancel()
        self.settle(self._wanted.keys() - kept)

    def settle(self, versions: Iterable[str]) -> None:
        """Want these no more: they are in the table, or they never will be."""
        for version in versions:
            self._wanted.pop(version, None)

    async def result(
        self, version: str, check: Callable[[ServedModel], None]
    ) -> ServedModel | None:
        """Return a version that every worker holds; None while it isn't ready.

        `check` raises if a version is of no use, before workers load it. Raises what it raises, and
        MlflowUnreachableError, ModelError; the next call then begins anew.
        """
        task = self._tasks.get(version)
        if task is None:
            task = self._tasks[version] = asyncio.create_task(self._prepare(version, check))
        done, _ = await asyncio.wait({task}, timeout=PATIENCE_S)
        if not done or self._tasks.get(version) is not task:
            return None
        del self._tasks[version]
        model = task.result()
        if self._fleet.holds(version):
            return model
        # A worker has come since, which has as long as the others had.
        self._tasks[version] = asyncio.create_task(self._load(model))
        return None

    async def _prepare(self, version: str, check: Callable[[ServedModel], None]) -> ServedModel:
        served, copy = await asyncio.to_thread(self._resolve, version)
        model = await self._rehearse(served, copy)
        check(model)
        return await self._load(model)

    async def _load(self, model: ServedModel) -> ServedModel:
        version = model.version.version
        self._wanted[version] = model.version
        self._changed()
        try:
            await self._loaded_everywhere(version)
        except BaseException:
            self.settle([version])
            self._changed()
            raise
        return model

    async def _loaded_everywhere(self, version: str) -> None:
        give_up = self._clock() + self._load_timeout_s
        while not self._fleet.holds(version):
            if reason := self._fleet.failure(version):
                raise UnservableModelError(f"a worker could not load it: {reason}")
            if self._fleet.is_empty:  # no fault of this version's
                give_up = self._clock() + self._load_timeout_s
            if self._clock() > give_up:
                if reason := self._fleet.delay(version):
                    raise NotNowError(f"a worker can't load it now: {reason}")
                raise UnservableModelError(
                    f"not loaded by every worker within {self._load_timeout_s:g} s"
                )
            await asyncio.sleep(_LOOK_AGAIN_S)


def _pass_over(task: asyncio.Task[ServedModel]) -> None:
    """Look at what became of a version that is wanted no more, or asyncio says that nobody did."""
    if not task.cancelled():
        task.exception()
