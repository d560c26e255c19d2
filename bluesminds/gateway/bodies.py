"""The memory that request bodies use, with one limit for all of them.

A body is held from its first byte until a server has responded. Only its size counts; a copy that parsing
needs does not.
"""

from bluesminds.common.errors import Unavailable


class BodyMemory:
    """At most `limit` bytes for all bodies together."""

    __slots__ = ("_peak", "held", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._peak = 0

    def add(self, size: int) -> None:
        self.held += size
        self._peak = max(self._peak, self.held)

    def take_peak(self) -> int:
        """The most bytes held at once since the previous call."""
        peak, self._peak = self._peak, self.held
        return peak


class Body:
    """The body of one request. `release` may be called more than once."""

    __slots__ = ("_held", "_memory", "data")

    def __init__(self, memory: BodyMemory) -> None:
        self._memory = memory
        self._held = 0
        self.data = b""

    def acquire(self, size: int) -> None:
        """Reserve memory for the next bytes. Raises Unavailable if the limit is reached."""
        if self._memory.held + size > self._memory.limit:
            raise body_memory_exhausted()
        self._memory.add(size)
        self._held += size

    def release(self) -> None:
        self._memory.held -= self._held
        self._held = 0
        self.data = b""


def body_memory_exhausted() -> Unavailable:
    return Unavailable(
        "body_memory_exhausted", "The gateway holds too many request bodies. Try again in a few seconds."
    )
