"""The pause before a server is tried again."""

import random
from collections.abc import Callable
from typing import Final

from msgspec import Struct


class Backoff(Struct, frozen=True):
    """Exponential back-off with full jitter (Brooker, "Exponential Backoff And Jitter", 2015). Seconds;
    `random` returns [0, 1).
    """

    random: Callable[[], float]
    base: float = 0.25
    longest: float = 4.0

    def pause(self, repetition: int, retry_after: float | None) -> float:
        """The pause before repetition number `repetition`, which starts at 0. The server's Retry-After has
        priority.
        """
        jittered = self.random() * min(self.longest, self.base * 2.0**repetition)
        return jittered if retry_after is None else retry_after + jittered * 0.1


BACKOFF: Final = Backoff(random.Random().random)  # noqa: S311 - it spreads retries and is not a secret
