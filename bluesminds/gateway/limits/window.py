"""A sliding window on the monotonic clock, in one-second buckets.

It keeps the oldest second until all of it is 60 s old: never above the limit in any 60 s, at most 1 s (1/60)
stricter. What was taken can be corrected in the bucket it was taken from for as long as that counts.
"""

from collections import deque

WINDOW = 60  # seconds
_GONE = -1

LeakyBucket = list[int]  # [second, amount]; the second is _GONE once the bucket no longer counts


class SlidingWindow:
    """How much was taken in the last 60 s."""

    __slots__ = ("_buckets", "_taken")

    def __init__(self) -> None:
        self._buckets: deque[LeakyBucket] = deque()  # oldest first
        self._taken = 0

    def taken(self, now: float) -> int:
        oldest = int(now) - WINDOW
        buckets = self._buckets
        while buckets and buckets[0][0] < oldest:
            gone = buckets.popleft()
            self._taken -= gone[1]
            gone[0] = _GONE
        return self._taken

    def add(self, now: float, amount: int) -> LeakyBucket:
        second = int(now)
        buckets = self._buckets
        self._taken += amount
        if buckets and buckets[-1][0] == second:
            buckets[-1][1] += amount
        else:
            buckets.append([second, amount])
        return buckets[-1]

    def give_back(self, bucket: LeakyBucket, amount: int) -> None:
        """Of what was added to bucket, so much was not used."""
        if bucket[0] != _GONE:
            bucket[1] -= amount
            self._taken -= amount

    def wait(self, now: float, limit: int, amount: int = 1) -> float:
        """Seconds from now until so much more fits under limit; amount is at most limit."""
        over = self.taken(now) + amount - limit
        if over <= 0:
            return 0.0
        for second, part in self._buckets:
            over -= part
            if over <= 0:
                return max(0.0, second + WINDOW + 1 - now)
        return 0.0

    def reset(self, now: float) -> float:
        """Seconds from now until the window is empty."""
        for second, part in reversed(self._buckets):
            if part:
                return max(0.0, second + WINDOW + 1 - now)
        return 0.0
