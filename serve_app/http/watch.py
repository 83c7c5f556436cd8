"""A client that hangs up while it is waited for ends its request: nobody reads the answer."""

import asyncio
import contextvars
from types import TracebackType
from typing import Any, Final

from starlette.types import Receive

from serve_app.http.body import ClientGoneError

AFTER_S: Final = 0.05
"""A request that is answered sooner isn't watched: that would cost more than it saves."""


class Watch:
    """Raises ClientGoneError in the task that is inside, once the client has hung up.

    `receive` must have given the whole body. A context manager for one use, in a task of `loop`.
    """

    __slots__ = ("_is_gone", "_loop", "_receive", "_task", "_timer", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, receive: Receive) -> None:
        self._loop = loop
        self._receive = receive
        self._task = asyncio.current_task(loop)
        self._waiting: asyncio.Task[None] | None = None
        self._is_gone = False
        self._timer = loop.call_later(AFTER_S, self._begin)

    def _begin(self) -> None:
        self._waiting = self._loop.create_task(self._wait(), context=contextvars.Context())

    async def _wait(self) -> None:
        if (await self._receive())["type"] != "http.disconnect":
            return
        self._is_gone = True
        if self._task is not None:
            self._task.cancel()

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if self._waiting is not None:
            self._waiting.cancel()
        task: asyncio.Task[Any] | None = self._task
        self._task = None
        if self._is_gone and task is not None:
            task.uncancel()
            if kind is asyncio.CancelledError:
                raise ClientGoneError from error
