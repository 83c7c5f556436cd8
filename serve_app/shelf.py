"""The versions that a worker holds, each loaded off the event loop and by itself."""

import asyncio
import contextvars
import logging
from collections.abc import Callable
from typing import Final

from contract.tracking import MlflowUnreachableError
from serve_app.control.conductor import Orders
from serve_app.loaded import LoadedVersion
from serve_app.model_errors import printable
from serve_app.models.model import Model
from serve_app.models.served import ServedVersion

logger = logging.getLogger("ray.serve")

LINGER_S: Final = 60.0
"""How long a version that is wanted no more stays: an ingress may still send what has waited."""

Load = Callable[[ServedVersion], Model]


class Shelf:
    """The versions in memory. `changed` is called when one was loaded, failed, or was dropped.

    Must be used on one event loop. Times are on one clock.
    """

    def __init__(
        self,
        load: Load,
        load_timeout_s: float = 60.0,
        deadline_s: float = 30.0,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._load = load
        self._load_timeout_s = load_timeout_s
        self._deadline_s = deadline_s
        self._changed = changed
        self._loaded: dict[str, LoadedVersion] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._failed: dict[str, str] = {}
        self._delayed: dict[str, str] = {}
        self._unwanted_since: dict[str, float] = {}

    @property
    def held(self) -> dict[str, LoadedVersion]:
        """What can be asked, by version."""
        return self._loaded

    @property
    def loading(self) -> frozenset[str]:
        """The versions on their way."""
        return frozenset(self._loading)

    @property
    def failed(self) -> dict[str, str]:
        """Why versions could not be loaded."""
        return dict(self._failed)

    @property
    def delayed(self) -> dict[str, str]:
        """Why versions could not be loaded yet, through no fault of theirs."""
        return dict(self._delayed)

    async def add(self, version: ServedVersion) -> None:
        """Load a version if it isn't there, verified and tried; raises what `load` raises."""
        if version.version not in self._loaded:
            async with asyncio.timeout(self._load_timeout_s):
                model = await asyncio.to_thread(self._load, version)
            self._loaded[version.version] = LoadedVersion(model, self._deadline_s)

    def obey(self, orders: Orders, now: float) -> None:
        """Begin to load what is new, and drop what has been unwanted for a while.

        A version that takes long holds up no other. What could not be fetched or opened, as MLflow
        didn't answer or this node is short of something, is tried again the next time; what can't
        be loaded isn't, while it is ordered.
        """
        versions = {one.version: one for one in (*orders.needed, *orders.wanted)}
        self._failed = {name: why for name, why in self._failed.items() if name in versions}
        self._delayed = {name: why for name, why in self._delayed.items() if name in versions}
        for name, version in versions.items():
            self._unwanted_since.pop(name, None)
            if not any(name in known for known in (self._loaded, self._loading, self._failed)):
                self._loading[name] = asyncio.get_running_loop().create_task(
                    self._try(version), context=contextvars.Context()
                )
        for name in self._loaded.keys() - versions.keys():
            if now - self._unwanted_since.setdefault(name, now) > LINGER_S:
                del self._unwanted_since[name]
                self._loaded.pop(name).close()
                self._changed()

    async def _try(self, version: ServedVersion) -> None:
        try:
            await self.add(version)
            self._delayed.pop(version.version, None)
        except TimeoutError:
            logger.warning("version %s takes too long to load", version.version)
            self._failed[version.version] = f"not loaded within {self._load_timeout_s:g} s"
        except (MlflowUnreachableError, OSError) as error:
            reason = printable(str(error))
            logger.warning("version %s can't be loaded yet: %s", version.version, reason)
            self._delayed[version.version] = reason
            return
        except Exception as error:  # noqa: BLE001  # whatever it is, the others are served
            reason = printable(str(error)) or type(error).__name__
            logger.warning("version %s can't be loaded: %s", version.version, reason)
            self._failed[version.version] = reason
        finally:
            del self._loading[version.version]
        self._changed()
