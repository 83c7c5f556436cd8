"""Bounds on waits, for the request path: `asyncio.timeout` at a fraction of its price.

`asyncio.timeout` asks for the running loop, which is a system call in Python 3.11, and gives the
event loop a timer for each wait. Four of them stand in the way of each request, and hardly any
ever rings.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

RESOLUTION_S: Final = 0.001
"""uvloop's timers go by whole milliseconds; one for less than that would be due at once."""


class Alarms:
    """Alarms that all ring `delay_s` after they were set, so whatever is set first rings first.

    One timer of the event loop's is enough for all of them. To be used on one event loop.
    """

    __slots__ = ("_due", "_timer", "delay_s")

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self._due: dict[object, tuple[float, Callable[[], None]]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def set(self, loop: asyncio.AbstractEventLoop, key: object, ring: Callable[[], None]) -> None:
        """Call `ring` in `delay_s`, unless `key` is stopped before."""
        until = loop.time() + self.delay_s
        self._due[key] = (until, ring)
        if self._timer is None:
            self._timer = loop.call_at(until, self._look, loop)

    def stop(self, key: object) -> None:
        """Forget an alarm; no error if it has rung, or was never set."""
        self._due.pop(key, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ring what is due, and look again when the next is."""
        self._timer = None
        while self._due:
            key, (until, ring) = next(iter(self._due.items()))
            if until - loop.time() > RESOLUTION_S:
                self._timer = loop.call_at(until, self._look, loop)
                return
            del self._due[key]
            ring()


class Alarm(Alarms):
    """One alarm with a time of its own."""

    __slots__ = ()

    def stop(self, key: object) -> None:
        """Forget it, and its timer too: many that ring late would add up."""
        super().stop(key)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Interrupt:
    """Ends what its task waits for, by a cancellation that others can be told from.

    To be made in a task of `loop`, for one use.
    """

    __slots__ = ("_cancelling", "_is_struck", "_task")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._task: asyncio.Task[Any] | None = asyncio.current_task(loop)
        self._cancelling = self._task.cancelling() if self._task is not None else 0
        self._is_struck = False

    def strike(self) -> None:
        """Cancel the task."""
        if self._task is not None:
            self._is_struck = True
            self._task.cancel()

    def has_ended(self, kind: type[BaseException] | None) -> bool:
        """Whether the block that ends with an error of that kind was ended by `strike` alone.

        To be called once, when it ends; nothing strikes after that.
        """
        task, self._task = self._task, None
        if not self._is_struck or task is None:
            return False
        # A higher count says that somebody else has cancelled the task as well.
        is_ours = task.uncancel() <= self._cancelling
        return is_ours and kind is asyncio.CancelledError


class Deadline(Interrupt):
    """Raises TimeoutError in the task that is inside when its alarm rings.

    As with `asyncio.timeout`, a cancellation from elsewhere stays one. A context manager.
    """

    __slots__ = ("_alarms",)

    def __init__(self, loop: asyncio.AbstractEventLoop, alarms: Alarms) -> None:
        super().__init__(loop)
        self._alarms = alarms
        alarms.set(loop, self, self.strike)

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._alarms.stop(self)
        if self.has_ended(kind):
            raise TimeoutError from error
