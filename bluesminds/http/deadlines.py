"""Coarse deadlines for many socket waits at the price of one float write each.

A cancel scope around every socket wait costs more than the wait's own system calls. Here a wait
writes an absolute time into its object, and one sweeper task per server or pool looks at all of them
every TICK. It promises to fire no earlier than the deadline and at most one tick (plus scheduling) later;
it refuses anything finer, so connect and similar rare waits use Trio's own scopes.
"""

import math
from typing import Protocol

import trio

TICK = 0.1  # seconds
NEVER = math.inf


class Watched(Protocol):
    """Something with deadlines on Trio's clock, in seconds; NEVER when nothing is being waited for."""

    read_deadline: float
    write_deadline: float

    def expire(self) -> None:
        """Wake whoever waits, synchronously. Called until they have reset what passed; must not raise."""


class Deadlines:
    """The set of watched objects and the task that expires them."""

    def __init__(self) -> None:
        self._watched: set[Watched] = set()

    def add(self, watched: Watched) -> None:
        self._watched.add(watched)

    def discard(self, watched: Watched) -> None:
        self._watched.discard(watched)

    def expire_due(self, now: float) -> None:
        due = [one for one in self._watched if one.read_deadline <= now or one.write_deadline <= now]
        for watched in due:
            watched.expire()

    async def run(self) -> None:
        """Sweep for ever; the owner of the nursery cancels it."""
        while True:
            await trio.sleep(TICK)
            self.expire_due(trio.current_time())
