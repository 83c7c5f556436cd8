"""How many requests may be asked for once more: pure."""

SHARE = 0.1
"""Of the requests; a fault that hits more of them than this must not double what is asked."""

RESERVE = 512.0
"""Requests that may be asked for once more at any time, saved up while all goes well: as many as an
ingress has under way by default, which all workers may be lost with at once."""


class RetryBudget:
    """Allows requests to be asked for again as long as few others were."""

    def __init__(self, share: float = SHARE, reserve: float = RESERVE) -> None:
        self._share = share
        self._reserve = reserve
        self._left = reserve

    def note(self, requests: int) -> None:
        """Count a call for so many requests."""
        self._left = min(self._reserve, self._left + self._share * requests)

    def take(self, requests: int) -> bool:
        """Return whether so many may be asked for once more, and count that."""
        if self._left < requests:
            return False
        self._left -= requests
        return True
