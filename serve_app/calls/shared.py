"""One answer for everybody who asks the same at about the same time."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable


class Shared:
    """Asks once for all who ask meanwhile, and for `keep_s` afterwards.

    Must be used on one event loop.
    """

    def __init__(self, ask: Callable[[], Awaitable[None]], keep_s: float) -> None:
        self._ask = ask
        self._keep_s = keep_s
        self._asked: asyncio.Task[None] | None = None
        self._until = 0.0

    async def __call__(self) -> None:
        """Return when the answer is there; raises what `ask` raises."""
        loop = asyncio.get_running_loop()
        if self._asked is None or (self._asked.done() and loop.time() > self._until):
            # An empty context: it must not end with the request that happens to be the first.
            self._asked = loop.create_task(self._run(), context=contextvars.Context())
            self._asked.add_done_callback(_seen)
        await asyncio.shield(self._asked)

    async def _run(self) -> None:
        try:
            await self._ask()
        finally:
            self._until = asyncio.get_running_loop().time() + self._keep_s


def _seen(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # asyncio logs exceptions that nobody has looked at
