"""How long the model takes, so that quick calls need no thread."""

from typing import Final

QUICK_S: Final = 0.002
"""A model that answers within this may hold up the event loop: handing over takes as long."""

_DECAY: Final = 0.9


class Pace:
    """Remembers, for each size of batch, the longest of the last durations."""

    def __init__(self) -> None:
        self._longest_s: dict[int, float] = {}

    def note(self, rows: int, took_s: float) -> None:
        """Add that a batch of that many rows took so long."""
        size = rows.bit_length()
        self._longest_s[size] = max(took_s, _DECAY * self._longest_s.get(size, 0.0))

    def is_quick(self, rows: int) -> bool:
        """Whether a batch of that many rows can be expected within QUICK_S; at first, no."""
        return self._longest_s.get(rows.bit_length(), QUICK_S) < QUICK_S
