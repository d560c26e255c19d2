"""A sliding 60 s window on a monotonic clock, in one-second buckets.

The oldest second counts until all of it is 60 s old. So no 60 s exceed the limit, and the window is at most
one second (1/60) stricter than an exact one.
"""

from collections import deque

WINDOW_SECONDS = 60
_EXPIRED = -1

WindowBucket = list[int]  # [second, amount]; the second is _EXPIRED once the bucket no longer counts


class SlidingWindow:
    """The amount used in the last 60 s. `now` is in seconds and never goes back."""

    __slots__ = ("_buckets", "_used")

    def __init__(self) -> None:
        self._buckets: deque[WindowBucket] = deque()  # oldest first
        self._used = 0

    def used(self, now: float) -> int:
        oldest = int(now) - WINDOW_SECONDS
        buckets = self._buckets
        while buckets and buckets[0][0] < oldest:
            expired = buckets.popleft()
            self._used -= expired[1]
            expired[0] = _EXPIRED
        return self._used

    def add(self, now: float, amount: int) -> WindowBucket:
        """Returns the bucket that counts it, for `give_back`."""
        second = int(now)
        buckets = self._buckets
        self._used += amount
        if buckets and buckets[-1][0] == second:
            buckets[-1][1] += amount
        else:
            buckets.append([second, amount])
        return buckets[-1]

    def give_back(self, bucket: WindowBucket, amount: int) -> None:
        """Subtract a part of what was added to `bucket`. An expired bucket needs no correction."""
        if bucket[0] != _EXPIRED:
            bucket[1] -= amount
            self._used -= amount

    def wait(self, now: float, limit: int, amount: int = 1) -> float:
        """Seconds until `amount` more fits under `limit`; `amount` is at most `limit`."""
        over = self.used(now) + amount - limit
        if over <= 0:
            return 0.0
        for second, part in self._buckets:
            over -= part
            if over <= 0:
                return max(0.0, second + WINDOW_SECONDS + 1 - now)
        return 0.0

    def reset(self, now: float) -> float:
        """Seconds until the window is empty."""
        for second, part in reversed(self._buckets):
            if part:
                return max(0.0, second + WINDOW_SECONDS + 1 - now)
        return 0.0
