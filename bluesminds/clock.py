"""The two clocks. Limits and deadlines use Trio's monotonic clock; records, sessions and calendars use wall
time.
"""

import time
from typing import Protocol


class Clock(Protocol):
    def now_ms(self) -> int:
        """Wall time: milliseconds since the Unix epoch, UTC."""


class SystemClock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000
