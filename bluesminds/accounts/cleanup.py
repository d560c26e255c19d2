"""Removes what has ended by itself: sessions and single-use tokens whose time is over, and accounts that were
never confirmed, so that strangers cannot fill the database.
"""

from typing import Final

import trio

from bluesminds.accounts.audit import OPERATOR, entry
from bluesminds.accounts.sessions import Sessions
from bluesminds.common.clock import Clock
from storage.audit import insert_audit, lock_audit_head
from storage.base import Connection, StorageBroken, StorageUnavailable, Store
from storage.sessions import delete_ended_sessions
from storage.single_use_tokens import delete_ended_tokens
from storage.users import delete_unconfirmed_users

EVERY_SECONDS: Final = 600.0
GRACE_MS: Final = 86_400_000  # somebody may ask for another link on the next day


class ExpiredDataCleanup:
    def __init__(self, store: Store, sessions: Sessions, *, clock: Clock) -> None:
        self._store = store
        self._sessions = sessions
        self._clock = clock

    async def run(self) -> None:
        """Sweep until cancelled. A database that does not answer is asked again the next time."""
        while True:
            try:
                await self.sweep()
            except (StorageUnavailable, StorageBroken):
                pass
            await trio.sleep(EVERY_SECONDS)

    async def sweep(self) -> None:
        now = self._clock.now_ms()
        # Apart, so that no unit of somebody's can wait for one of these while holding what the other wants.
        await self._store.write(delete_ended_sessions, now, self._sessions.idle_since(now))
        await self._store.write(delete_ended_tokens, now)
        await self._store.write(self._remove_unconfirmed, now - GRACE_MS)

    async def _remove_unconfirmed(self, connection: Connection, before: int) -> None:
        await lock_audit_head(connection)
        if removed := await delete_unconfirmed_users(connection, before):
            audit = entry(self._clock, OPERATOR, "user.sweep", "unconfirmed", after={"removed": removed})
            await insert_audit(connection, audit)
