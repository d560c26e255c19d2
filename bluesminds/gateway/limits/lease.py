"""The lease on the limits of a database: one gateway process counts usage, and knows when it must stop.

A PostgreSQL database can be shared, so the holder keeps a row there and renews it. A holder that stops
renewing loses the lease after LEASE_SECONDS of the database's clock. The holder counts that time on its own
monotonic clock, from before the last renewal was sent, so it stops before another process can start. A SQLite
database is locked by one process and needs no lease.
"""

from typing import Final

import trio

from bluesminds.common.log import Log
from storage.base import StorageBroken, StorageUnavailable, Store
from storage.leases import end_lease, renew_lease, take_lease

LEASE_SECONDS: Final = 30.0
RENEW_SECONDS: Final = 5.0
_MARGIN: Final = 3.0  # seconds before the end of the lease at which this process stops using it
_LIFETIME_MS: Final = int(LEASE_SECONDS * 1000)
_NAME: Final = "limits"


class LeaseHeld(Exception):
    """Another gateway process serves this database."""


class Lease:
    """`holder` identifies this process."""

    def __init__(self, store: Store, holder: str, log: Log) -> None:
        self._store = store
        self._holder = holder
        self._log = log
        self._epoch = 0
        self._valid_until = 0.0  # Trio's clock
        self.shared = store.engine == "postgres"

    def held(self) -> bool:
        return not self.shared or trio.current_time() < self._valid_until

    async def acquire(self) -> None:
        """Raises LeaseHeld, StorageError."""
        if not self.shared:
            return
        sent = trio.current_time()
        row = await self._store.write(take_lease, _NAME, self._holder, _LIFETIME_MS)
        if row.holder != self._holder:
            raise LeaseHeld(
                "another gateway serves this database; stop it first, or give each gateway its own database"
                f" (the lease of a killed gateway expires after {LEASE_SECONDS:.0f} seconds)"
            )
        self._epoch = row.epoch
        self._extend(sent)

    async def run(self) -> None:
        """Renew the lease forever. Returns only when another process holds it, which is final."""
        while self.shared:
            await trio.sleep(RENEW_SECONDS)
            sent = trio.current_time()
            try:
                renewed = await self._store.write(renew_lease, _NAME, self._holder, self._epoch, _LIFETIME_MS)
            except (StorageUnavailable, StorageBroken):
                continue  # even an expired lease can be renewed until another process takes it
            if not renewed:
                self._valid_until = 0.0
                self._log.error("lease_lost")
                return
            self._extend(sent)

    async def release(self) -> None:
        """Let the next process start at once. If that fails, the lease expires."""
        if self.shared and self._epoch:
            try:
                await self._store.write(end_lease, _NAME, self._holder, self._epoch)
            except (StorageUnavailable, StorageBroken) as exc:
                self._log.warning("lease_release_failed", reason=type(exc).__name__)

    def _extend(self, sent: float) -> None:
        self._valid_until = sent + LEASE_SECONDS - _MARGIN
