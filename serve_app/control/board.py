"""A value that others hang on: a long poll returns when there is news, or after a while anyway."""

import asyncio
import time
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class News(NamedTuple, Generic[T]):
    """A value and the number of its revision, which only grows."""

    revision: int
    value: T


class Board(Generic[T]):
    """Holds a value and wakes whoever waits for another one.

    Revisions begin at the present time, so that those of a process that came before are older.
    """

    def __init__(self, value: T, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._value = value
        self._revision = clock_ns()
        self._changed = asyncio.Event()

    @property
    def value(self) -> T:
        """The present value."""
        return self._value

    def put(self, value: T) -> None:
        """Show another value."""
        self._value = value
        self._revision += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, known: int | None, timeout_s: float) -> News[T]:
        """Return the value once its revision isn't `known`, or as it is after `timeout_s`."""
        if self._revision == known:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait()
            except TimeoutError:
                pass
        return News(self._revision, self._value)
