"""Request bodies in memory, with one budget for all of them.

A body is held from its first byte until a server has answered, not for as long as the answer takes. It counts
with its size; parsing may need a copy for a moment.
"""

from bluesminds.common.errors import Unavailable


class BodyMemory:
    """At most `limit` bytes of all bodies together."""

    __slots__ = ("held", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0


class Body:
    """One request's body. `drop` gives back what it has taken, on whichever exit comes first."""

    __slots__ = ("_budget", "_taken", "data")

    def __init__(self, budget: BodyMemory) -> None:
        self._budget = budget
        self._taken = 0
        self.data = b""

    def take(self, size: int) -> None:
        """Make room for the next bytes. Raises Unavailable when the budget is used up."""
        if self._budget.held + size > self._budget.limit:
            raise Unavailable("body_budget", "The gateway holds too many request bodies. Try again shortly.")
        self._budget.held += size
        self._taken += size

    def drop(self) -> None:
        self._budget.held -= self._taken
        self._taken = 0
        self.data = b""
