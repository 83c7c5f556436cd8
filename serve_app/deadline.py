"""A bound on a wait, for the request path: `asyncio.timeout` at a quarter of its price.

`asyncio.timeout` asks for the running loop, which is a system call in Python 3.11, and for the
current task, and reschedules itself on entry. Three of them stand in the way of each request.
"""

import asyncio
from types import TracebackType
from typing import Any


class Deadline:
    """Raises TimeoutError in the task that is inside for longer than `delay_s`.

    As with `asyncio.timeout`, a cancellation from elsewhere stays one. A context manager for one
    use, inside a task of `loop`.
    """

    __slots__ = ("_cancelling", "_has_passed", "_task", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, delay_s: float) -> None:
        self._task: asyncio.Task[Any] | None = asyncio.current_task(loop)
        self._cancelling = self._task.cancelling() if self._task is not None else 0
        self._has_passed = False
        self._timer = loop.call_later(delay_s, self._pass)

    def _pass(self) -> None:
        self._has_passed = True
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
        task, self._task = self._task, None
        if not self._has_passed or task is None:
            return
        # A higher count says that somebody else has cancelled the task as well.
        is_ours = task.uncancel() <= self._cancelling
        if is_ours and kind is asyncio.CancelledError:
            raise TimeoutError from error
