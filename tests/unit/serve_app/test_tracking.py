"""MLflow answers within the overall deadline, or isn't there."""

import threading

import pytest

from contract import tracking
from contract.tracking import MlflowUnreachableError


def test_an_answer_in_time_is_handed_on() -> None:
    """So is an error."""

    def fail() -> None:
        raise KeyError("x")

    assert tracking.in_time(lambda: 3) == 3
    with pytest.raises(KeyError):
        tracking.in_time(fail)


def test_calls_that_add_up_to_too_much_are_given_up() -> None:
    """Nobody waits for the thread."""
    never = threading.Event()
    with pytest.raises(MlflowUnreachableError, match=r"not done after 0\.05 s"):
        tracking.in_time(lambda: never.wait(10), timeout_s=0.05)
    never.set()
