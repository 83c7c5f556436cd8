"""How often each key may be used: a leaky bucket for each, a share of the rate in each ingress."""

import math
from dataclasses import dataclass
from typing import Final

from aiolimiter import AsyncLimiter

from serve_app.access.keys import ApiKey
from serve_app.errors import RateLimitedError

BURST_S: Final = 1.0
"""A key may use this many seconds of its rate at once."""


@dataclass(frozen=True)
class _Bucket:
    limiter: AsyncLimiter
    rate: float
    """Requests a second that it lets through."""


class Rates:
    """Counts requests by key. Must be used on one event loop."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self._ingresses = 1

    def divide(self, ingresses: int) -> None:
        """Let this ingress take a part of each rate: the others let the rest through."""
        self._ingresses = max(1, ingresses)

    async def take(self, key: ApiKey) -> None:
        """Count a request. Never waits. Raises RateLimitedError if the key has had its share."""
        if key.rate is None:
            return
        bucket = self._bucket(key.id, key.rate / self._ingresses)
        if not bucket.limiter.has_capacity():
            raise RateLimitedError(
                f"key {key.id} may ask {key.rate:g} times a second: ask less often",
                headers={"retry-after": str(math.ceil(1.0 / bucket.rate))},
            )
        await bucket.limiter.acquire()

    def _bucket(self, key_id: str, rate: float) -> _Bucket:
        bucket = self._buckets.get(key_id)
        if bucket is None or bucket.rate != rate:
            size = max(1.0, rate * BURST_S)
            bucket = self._buckets[key_id] = _Bucket(AsyncLimiter(size, size / rate), rate)
        return bucket
