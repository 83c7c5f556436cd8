"""SIGINT, SIGTERM and SIGHUP end a command in order: the first counts, the rest are answered.

SIGHUP only where it would end a command at all: under `nohup` it doesn't.
"""

import contextlib
import os
import signal
from types import FrameType
from typing import Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A signal asked for the end; not an Exception, so that nothing takes it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number
        """What a shell reports for a command that a signal ended."""


def arm() -> None:
    """Raise Stopped in the main thread at the first signal."""
    for number in _heard():
        signal.signal(number, _stop)


def disarm() -> None:
    """From now on the end is under way, and no signal cuts it short."""
    for number in _heard():
        signal.signal(number, _answer)


def _heard() -> list[signal.Signals]:
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in _SIGNALS if number != signal.SIGHUP or not is_ignored]


def _stop(number: int, frame: FrameType | None) -> None:
    disarm()
    raise Stopped(number)


def _answer(number: int, frame: FrameType | None) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"stopping already, a moment please\n")
