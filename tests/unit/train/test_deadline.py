"""Calls that know no deadline get one."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from train.deadline import DeadlineExceededError, limit


def test_block_that_takes_too_long_is_interrupted() -> None:
    """The wait ends at the deadline, and the alarm is put back."""
    before = signal.getsignal(signal.SIGALRM)
    started = time.monotonic()
    with pytest.raises(DeadlineExceededError, match=r"longer than 0\.05 s"), limit(0.05):
        threading.Event().wait(10)
    assert time.monotonic() - started < 5
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_swallowed_interruption_is_repeated() -> None:
    """A library that catches everything can't outlive its deadline."""
    with pytest.raises(DeadlineExceededError), limit(0.05):
        try:
            threading.Event().wait(10)
        except DeadlineExceededError:
            threading.Event().wait(10)


def test_block_in_time_is_left_alone() -> None:
    """Nothing rings afterwards."""
    with limit(0.05):
        pass
    time.sleep(0.1)
