"""A timer of the kernel that wakes an event loop at an exact time.

An event loop's own timers (uvloop's, epoll's) go by whole milliseconds: at 4,000 requests a second
they would send four at once. `timerfd_create(2)` goes by microseconds and costs no CPU to wait for.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import Final

_CLOCK_MONOTONIC: Final = 1
_ABSOLUTE: Final = 1
_TICKS_BYTES: Final = 8


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


class Timer:
    """A file descriptor that becomes readable at a time of `time.monotonic()`. Linux only."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor: int = self._libc.timerfd_create(
            _CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC
        )
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._descriptor

    def set(self, at_s: float) -> None:
        """Wake at `at_s`; at once if that is past."""
        seconds, rest = divmod(max(at_s, 1e-9), 1.0)
        spec = _TimerSpec(_TimeSpec(0, 0), _TimeSpec(int(seconds), max(1, int(rest * 1e9))))
        if self._libc.timerfd_settime(self._descriptor, _ABSOLUTE, ctypes.byref(spec), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")

    def clear(self) -> None:
        """Take note of having been woken."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, _TICKS_BYTES)

    def close(self) -> None:
        """Give the file descriptor back."""
        os.close(self._descriptor)
