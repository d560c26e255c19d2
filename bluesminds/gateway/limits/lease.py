"""The lease on all limits of a database: one instance hands them out, and knows when it no longer may.

PostgreSQL can be shared, so the holder keeps a row there and renews it; a holder that falls silent loses it
after LEASE_SECONDS of the database's clock. Whether the lease is held is judged by the monotonic clock from
before the last renewal was sent, so this instance stops before another can begin; no wall clock has a say. A
SQLite file has one process by its own lock.
"""

from typing import Final

import trio

from bluesminds.common.log import Log
from storage.base import StorageBroken, StorageUnavailable, Store
from storage.leases import end_lease, renew_lease, take_lease

LEASE_SECONDS: Final = 30.0
RENEW_SECONDS: Final = 5.0
_MARGIN: Final = 3.0  # seconds before its end that this instance stops
_LIFETIME: Final = int(LEASE_SECONDS * 1000)
_NAME: Final = "limits"


class LeaseHeld(Exception):
    """Another instance serves this database."""


class Lease:
    def __init__(self, store: Store, holder: str, log: Log) -> None:
        self._store = store
        self._holder = holder
        self._log = log
        self._epoch = 0
        self._until = 0.0  # Trio's clock
        self.shared = store.engine == "postgres"

    def held(self) -> bool:
        return not self.shared or trio.current_time() < self._until

    async def take(self) -> None:
        """Raises LeaseTaken, StorageError."""
        if not self.shared:
            return
        asked = trio.current_time()
        row = await self._store.write(take_lease, _NAME, self._holder, _LIFETIME)
        if row.holder != self._holder:
            raise LeaseHeld(
                "another gateway serves this database; stop it first, or give each a database of its own"
                f" (a gateway that was killed is forgotten after {LEASE_SECONDS:.0f} seconds)"
            )
        self._epoch = row.epoch
        self._extend(asked)

    async def run(self) -> None:
        """Renew for ever. Returns when somebody else has taken the lease: then it never comes back."""
        while self.shared:
            await trio.sleep(RENEW_SECONDS)
            asked = trio.current_time()
            try:
                kept = await self._store.write(renew_lease, _NAME, self._holder, self._epoch, _LIFETIME)
            except (StorageUnavailable, StorageBroken):
                continue  # until it runs out, and from then on in the hope that nobody took it
            if not kept:
                self._until = 0.0
                self._log.error("lease_lost")
                return
            self._extend(asked)

    async def end(self) -> None:
        """Let the next instance start at once. What cannot be told runs out by itself."""
        if self.shared and self._epoch:
            try:
                await self._store.write(end_lease, _NAME, self._holder, self._epoch)
            except (StorageUnavailable, StorageBroken) as exc:
                self._log.warning("lease_not_ended", reason=type(exc).__name__)

    def _extend(self, asked: float) -> None:
        self._until = asked + LEASE_SECONDS - _MARGIN
