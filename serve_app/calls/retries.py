"""How many calls may be made once more: pure."""

SHARE = 0.1
"""Of the calls; a fault that hits more of them than this must not double what is asked."""

RESERVE = 20.0
"""Calls that may be made once more at any time, saved up while all goes well."""


class RetryBudget:
    """Allows a call to be made again as long as few others were."""

    def __init__(self, share: float = SHARE, reserve: float = RESERVE) -> None:
        self._share = share
        self._reserve = reserve
        self._left = reserve

    def note(self) -> None:
        """Count a call."""
        self._left = min(self._reserve, self._left + self._share)

    def take(self) -> bool:
        """Return whether a call may be made once more, and count that."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
