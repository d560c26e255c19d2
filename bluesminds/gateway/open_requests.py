"""Writes down what long requests have used so far, so that a crash loses at most the last moments of each.

A request that is shorter than LEAST_AGE is never written down.
"""

from collections.abc import Mapping
from typing import Final

import trio

from bluesminds.gateway.accounting import UsageEntry
from storage.base import Store
from storage.open_requests import open_request, store_open_requests
from storage.rounds import run_rounds

LEAST_AGE: Final = 1.0  # seconds
ROUND: Final = 1.0  # seconds between two rounds


class OpenRequests:
    """`running` are the requests that are not settled, by id."""

    def __init__(self, store: Store, running: Mapping[str, UsageEntry]) -> None:
        self._store = store
        self._running = running
        self._written: set[str] = set()

    async def run(self) -> None:
        """Run until cancelled. After a storage error it tries again in the next round."""
        await run_rounds(self.write, ROUND, waits_first=True)

    async def write(self) -> None:
        before = trio.current_time() - LEAST_AGE
        old = {name: entry for name, entry in self._running.items() if entry.started <= before}
        if old or self._written - self._running.keys():
            rows = [open_request(entry.so_far()) for entry in old.values()]
            self._written = await self._store.write(store_open_requests, rows)
