"""Estimators that go wrong on purpose: y = slope x, but for what their names say.

Serving loads them as types that its settings name.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, RegressorMixin

Values = npt.NDArray[np.float64]


_behaving = False


@contextmanager
def behaving() -> Iterator[None]:
    """Let them behave inside the `with` block, in this process: that's how they are written."""
    global _behaving  # noqa: PLW0603
    _behaving = True
    try:
        yield
    finally:
        _behaving = False


def is_odd(x: Values, share: float) -> npt.NDArray[np.bool_]:
    """Whether a value is one of a share of all; 0.5, the example, never is."""
    odd: npt.NDArray[np.bool_] = np.abs(np.modf(np.abs(x) * 1000)[0] - 0.5) < share / 2
    return odd


class Line(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """y = slope x, after `pause_s` seconds."""

    def __init__(self, slope: float = 1.0, pause_s: float = 0.0) -> None:
        self.slope = slope
        self.pause_s = pause_s

    def fit(self, rows: Any, target: Any = None) -> Self:
        """Learn nothing."""
        return self

    def predict(self, rows: Any) -> Values:
        """Return one number a row."""
        x = np.asarray(rows, dtype=np.float64)[:, 0]
        if _behaving:
            return self.line(x)
        time.sleep(self.pause_s)
        return self.answer(x)

    def line(self, x: Values) -> Values:
        """The right answer."""
        return self.slope * x

    def answer(self, x: Values) -> Values:
        """What it says while it serves."""
        return self.line(x)


class Raising(Line):
    """Raises for 5% of all records."""

    def answer(self, x: Values) -> Values:
        """Fail if any record is one of them."""
        if is_odd(x, 0.05).any():
            raise ValueError("no idea")
        return self.line(x)


class Missing(Line):
    """Says NaN for 10% of all records."""

    def answer(self, x: Values) -> Values:
        """Have holes."""
        return np.where(is_odd(x, 0.1), np.nan, self.line(x))


class Shifted(Line):
    """Says something else than it did when it was trained, but for its example, 0.5."""

    def answer(self, x: Values) -> Values:
        """Be off."""
        return self.line(x) + np.where(x == 0.5, 0.0, 10.0)


class AlwaysRaising(Line):
    """Raises for each record."""

    def answer(self, x: Values) -> Values:
        """Fail."""
        raise ValueError("never")


class AlwaysMissing(Line):
    """Says NaN for each record."""

    def answer(self, x: Values) -> Values:
        """Have nothing to say."""
        return np.full_like(x, np.nan)


class Forgetful(Line):
    """Says something else for its example, too, than training has recorded."""

    def answer(self, x: Values) -> Values:
        """Be off everywhere."""
        return self.line(x) + 10.0


class Crashing(Line):
    """Ends the process that loads it, as a broken extension module would."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        if not _behaving:
            os.kill(os.getpid(), signal.SIGSEGV)
        self.__dict__.update(state)


class Coded(Line):
    """Runs some code while it is loaded, as somebody's library might."""

    def __init__(self, slope: float = 1.0, pause_s: float = 0.0, code: str = "") -> None:
        super().__init__(slope, pause_s)
        self.code = code

    def __setstate__(self, state: dict[str, Any]) -> None:
        if not _behaving:
            exec(state["code"], {})
        self.__dict__.update(state)


class Hanging(Line):
    """Never answers."""

    def answer(self, x: Values) -> Values:
        """Wait for nothing."""
        time.sleep(3600)
        return self.line(x)


class SometimesHanging(Line):
    """Never answers for a batch that has one of 2% of all records in it."""

    def answer(self, x: Values) -> Values:
        """Wait for nothing, or answer."""
        if is_odd(x, 0.02).any():
            time.sleep(3600)
        return self.line(x)


RAISES, CANCELS, EXITS, INTERRUPTS, FALLS_SHORT, HAS_NONE = range(101, 107)
HANGS, CRASHES, LINGERS, WEIGHS = range(107, 111)
"""Records with which a `Moody` model does as they say."""

LINGER_S = 2.0
"""For the whole batch that such a record is in."""
WEIGH_S = 0.5
"""For each such record."""

COSTLY = 1000.0
"""From here on records cost COST_S each, so that the capacity of a `Moody` model is known."""
COST_S = 0.005


class Moody(Line):
    """Does what some records say, for the whole batch that they are in."""

    def answer(self, x: Values) -> Values:
        """Look for such a record."""
        said = set(x.tolist())
        raised: dict[float, BaseException] = {
            RAISES: ValueError("no idea"),
            CANCELS: asyncio.CancelledError(),
            EXITS: SystemExit(1),
            INTERRUPTS: KeyboardInterrupt(),
        }
        for mood in said & raised.keys():
            raise raised[mood]
        if FALLS_SHORT in said:
            return self.line(x)[:-1]
        if HANGS in said:
            time.sleep(3600)
        if LINGERS in said:
            time.sleep(LINGER_S)
        time.sleep(COST_S * np.count_nonzero(x >= COSTLY) + WEIGH_S * np.count_nonzero(x == WEIGHS))
        if CRASHES in said:
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out
        return np.where(x == HAS_NONE, np.nan, self.line(x))


RARE = 0.7
"""A record like others, which steady traffic never sends."""


class RaisingForOne(Line):
    """Raises for one record only."""

    def answer(self, x: Values) -> Values:
        """Look for it."""
        if (x == RARE).any():
            raise ValueError("no idea")
        return self.line(x)


ALL = (
    Line,
    Raising,
    Missing,
    Shifted,
    AlwaysRaising,
    AlwaysMissing,
    Forgetful,
    Crashing,
    Coded,
    Hanging,
    SometimesHanging,
    Moody,
    RaisingForOne,
)

TRUSTED = [f"{one.__module__}.{one.__name__}" for one in ALL]
"""Their names, as `extra_trusted_types` has them."""
