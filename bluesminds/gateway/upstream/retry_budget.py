"""Bounds the attempts beyond the first one of each request, so that retries cannot multiply an outage.

A token bucket per route, or per model without a route: every request adds SHARE, every second adds
PER_SECOND, and every further attempt takes one token (Finagle's RetryBudget has the same form).
"""

from collections.abc import Callable
from typing import Final

import trio

SHARE: Final = 0.2
PER_SECOND: Final = 3.0
MOST: Final = 30.0  # tokens; what PER_SECOND adds in ten seconds
MAX_BUCKETS: Final = 1_000  # clients choose the names of models


class _Bucket:
    __slots__ = ("at", "requests", "tokens")

    def __init__(self, now: float) -> None:
        self.tokens = MOST
        self.requests = 0  # since `at`
        self.at = now


class RetryBudget:
    """`monotonic` is Trio's clock in seconds."""

    def __init__(self, monotonic: Callable[[], float] = trio.current_time) -> None:
        self._now = monotonic
        self._buckets: dict[str, _Bucket] = {}

    def add_request(self, name: str) -> None:
        bucket = self._buckets.get(name)
        if bucket is None:
            if len(self._buckets) >= MAX_BUCKETS:
                del self._buckets[next(iter(self._buckets))]
            bucket = self._buckets[name] = _Bucket(self._now())
        bucket.requests += 1

    def take(self, name: str) -> bool:
        """Whether another attempt is allowed; it is then counted."""
        bucket = self._buckets.get(name)
        if bucket is None:
            return False
        now = self._now()
        added = SHARE * bucket.requests + PER_SECOND * (now - bucket.at)
        bucket.tokens = min(MOST, bucket.tokens + added)
        bucket.requests, bucket.at = 0, now
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True
