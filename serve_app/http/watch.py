"""A client that hangs up while it is waited for ends its request: nobody reads the answer."""

import asyncio
import contextvars
from types import TracebackType
from typing import Final

from starlette.types import Receive

from serve_app.deadline import Alarms, Interrupt
from serve_app.http.body import ClientGoneError

AFTER_S: Final = 0.05
"""A request that is answered sooner isn't watched: that would cost more than it saves."""


class Watch(Interrupt):
    """Raises ClientGoneError in the task that is inside, once the client has hung up.

    `receive` must have given the whole body; it is asked when the alarm rings. A context manager.
    """

    __slots__ = ("_alarms", "_loop", "_receive", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, alarms: Alarms, receive: Receive) -> None:
        super().__init__(loop)
        self._loop = loop
        self._receive = receive
        self._waiting: asyncio.Task[None] | None = None
        self._alarms = alarms
        alarms.set(loop, self, self._begin)

    def _begin(self) -> None:
        self._waiting = self._loop.create_task(self._wait(), context=contextvars.Context())

    async def _wait(self) -> None:
        if (await self._receive())["type"] == "http.disconnect":
            self.strike()

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._alarms.stop(self)
        waiting, self._waiting = self._waiting, None  # it holds this one: no cycle is to be left
        if waiting is not None:
            waiting.cancel()
        if self.has_ended(kind):
            raise ClientGoneError from error
