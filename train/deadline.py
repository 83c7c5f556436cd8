"""A deadline around calls that take none of their own."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

REPEAT_S = 1.0
"""A library may swallow the first interruption, so it is repeated until the block is left."""


class DeadlineExceededError(Exception):
    """The block took longer than it was given."""


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Interrupt the block with DeadlineExceededError after `seconds`.

    Works by SIGALRM, so it acts in the main thread only; elsewhere the block has no limit.
    Blocks must not nest.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise DeadlineExceededError(f"took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, REPEAT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
