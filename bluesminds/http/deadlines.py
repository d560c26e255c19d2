"""Coarse deadlines for many socket waits. Setting one costs one float write.

A cancel scope around every socket wait costs more than the wait's own system calls. Here a wait writes an
absolute time into its object, and one task per server or pool checks all of them every TICK. A deadline
fires no earlier than its time and at most one TICK (plus scheduling) later. Rare waits such as connect use
Trio's cancel scopes, which are exact.
"""

import math
from typing import Protocol

import trio

TICK = 0.1  # seconds
NEVER = math.inf


class Watched(Protocol):
    """An object with deadlines on Trio's clock, in seconds; NEVER while it does not wait."""

    read_deadline: float
    write_deadline: float

    def expire(self) -> None:
        """Wake the waiting tasks, synchronously. Repeated until they reset the deadline; must not raise."""


class Deadlines:
    """The watched objects and the task that expires them."""

    def __init__(self) -> None:
        self._watched: set[Watched] = set()

    def add(self, watched: Watched) -> None:
        self._watched.add(watched)

    def discard(self, watched: Watched) -> None:
        self._watched.discard(watched)

    def expire_due(self, now: float) -> None:
        due = [item for item in self._watched if item.read_deadline <= now or item.write_deadline <= now]
        for watched in due:
            watched.expire()

    async def run(self) -> None:
        """Check the deadlines every TICK until cancelled."""
        while True:
            await trio.sleep(TICK)
            self.expire_due(trio.current_time())
