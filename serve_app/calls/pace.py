"""How long the model takes: whether that is quick, and what a row more costs."""

from collections import defaultdict, deque
from functools import partial
from typing import Final

_REMEMBERED: Final = 5


class Pace:
    """Remembers, for each size of batch, the median of the last durations.

    Not the longest: a process that is put aside by its machine for a moment makes no model slow.
    """

    def __init__(self, quick_s: float) -> None:
        self._quick_s = quick_s
        self._last_s: defaultdict[int, deque[float]] = defaultdict(
            partial(deque, maxlen=_REMEMBERED)
        )
        self._median_s: dict[int, float] = {}

    def note(self, rows: int, took_s: float) -> None:
        """Add that a batch of that many rows took so long."""
        size = rows.bit_length()
        last = self._last_s[size]
        last.append(took_s)
        self._median_s[size] = sorted(last)[len(last) // 2]

    def is_quick(self, rows: int) -> bool:
        """Whether a batch of that many rows can be expected within `quick_s`; at first, no."""
        return self._median_s.get(rows.bit_length(), self._quick_s) < self._quick_s


_DECAY: Final = 0.95
"""Weight of a call when the next one is noted."""

_TOLD_APART: Final = 0.01
"""Relative variance of the batches' sizes from which on a cost a row can be told from them."""


class Cost:
    """Estimates what one row more costs, by least squares over the last batches.

    Not their mean cost: most of what small batches take may be the same for large ones.
    """

    def __init__(self) -> None:
        self._weight = self._rows = self._rows_squared = self._time_s = self._product = 0.0
        self.per_row_s = 0.0
        """Seconds; 0 as long as nothing is known."""

    def note(self, rows: int, took_s: float) -> None:
        """Add that a batch of that many rows took so long."""
        self._weight = self._weight * _DECAY + 1.0
        self._rows = self._rows * _DECAY + rows
        self._rows_squared = self._rows_squared * _DECAY + rows * rows
        self._time_s = self._time_s * _DECAY + took_s
        self._product = self._product * _DECAY + rows * took_s
        variance = self._weight * self._rows_squared - self._rows**2
        if variance > _TOLD_APART * self._rows**2:
            slope_s = (self._weight * self._product - self._rows * self._time_s) / variance
            self.per_row_s = max(0.0, slope_s)
        self.per_row_s = min(self.per_row_s, self._time_s / self._rows)
