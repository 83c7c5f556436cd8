"""How long the model takes, and whether that is quick."""

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
