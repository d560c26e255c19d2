"""Deletes expired sessions, single-use tokens, stored responses, receipts, logged prompts, usage, events and
deliveries of webhooks, and accounts whose address was never confirmed.
"""

from typing import Final

from msgspec import Struct

from bluesminds.accounts.audit import OPERATOR, entry
from bluesminds.accounts.sessions import Sessions
from bluesminds.common.clock import Clock
from bluesminds.common.crypto import first_uuid7
from storage.audit import insert_audit, lock_audit_head
from storage.base import Connection, Store
from storage.event_marks import delete_old_marks
from storage.events import delete_events
from storage.prompt_log import delete_old_prompts, delete_prompts_above, select_prompt_accounts_above
from storage.receipts import delete_receipts
from storage.responses import delete_expired_responses, delete_responses_above, select_accounts_above
from storage.rounds import run_rounds
from storage.server_objects import delete_expired_objects
from storage.sessions import delete_ended_sessions
from storage.single_use_tokens import delete_ended_tokens
from storage.usage_retention import SumTable, delete_sums, delete_usage
from storage.users import delete_unconfirmed_users
from storage.webhook_deliveries import delete_old_deliveries

INTERVAL: Final = 600.0  # seconds
BATCH: Final = 100  # responses deleted in one transaction: other writes wait meanwhile
RECEIPT_BATCH: Final = 1000  # receipts deleted in one transaction
USAGE_BATCH: Final = 1000  # rows of usage deleted in one transaction
EVENT_BATCH: Final = 1000  # events or deliveries deleted in one transaction
DAY_MS: Final = 86_400_000
MARK_DAYS: Final = 400  # how long marks of events are kept: longer than a period of a budget
EVENT_DAYS: Final = 30  # how long events and deliveries are kept
_HOURS: Final[tuple[SumTable, ...]] = ("usage_hourly", "usage_site_hourly")
_DAYS: Final[tuple[SumTable, ...]] = ("usage_daily", "usage_key_daily", "usage_site_daily", "usage_meters")
UNCONFIRMED_MS: Final = DAY_MS  # how long an unconfirmed account can request another link


class UsageRetention(Struct, frozen=True):
    """Days for which rows of the usage log, sums of hours and sums of days are kept; 0 keeps them."""

    log: int = 0
    hours: int = 0
    days: int = 0


class PromptRetention(Struct, frozen=True):
    """Days for which logged prompts are kept, and the most bytes of an account."""

    days: int = 0
    account_bytes: int = 0


class ExpiredDataCleanup:
    """`account_bytes`: the maximum size of the stored responses of an account. `receipt_days`: how long
    receipts are kept.
    """

    def __init__(
        self,
        store: Store,
        sessions: Sessions,
        *,
        account_bytes: int,
        receipt_days: int,
        usage: UsageRetention,
        prompts: PromptRetention,
        clock: Clock,
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._account_bytes = account_bytes
        self._receipt_days = receipt_days
        self._usage = usage
        self._prompts = prompts
        self._clock = clock

    async def run(self) -> None:
        """Run until cancelled. After a storage error it tries again in the next round."""
        await run_rounds(self.run_once, INTERVAL)

    async def run_once(self) -> None:
        now = self._clock.now_ms()
        # Separate transactions: one that locks several tables could deadlock with other transactions.
        await self._store.write(delete_ended_sessions, now, self._sessions.idle_since(now))
        await self._store.write(delete_ended_tokens, now)
        await self._store.write(self._remove_unconfirmed, now - UNCONFIRMED_MS)
        while await self._store.write(delete_expired_responses, now, BATCH) == BATCH:
            pass
        await self._store.write(delete_expired_objects, now)
        oldest = first_uuid7(now - self._receipt_days * DAY_MS)
        while await self._store.write(delete_receipts, oldest, RECEIPT_BATCH) == RECEIPT_BATCH:
            pass
        await self._remove_prompts(now)
        await self._remove_usage(now)
        oldest = first_uuid7(now - EVENT_DAYS * DAY_MS)
        while await self._store.write(delete_events, oldest, EVENT_BATCH) == EVENT_BATCH:
            pass
        before = now - MARK_DAYS * DAY_MS
        while await self._store.write(delete_old_marks, before, EVENT_BATCH) == EVENT_BATCH:
            pass
        while await self._store.write(delete_old_deliveries, oldest, EVENT_BATCH) == EVENT_BATCH:
            pass
        for user_id in await self._store.read(select_accounts_above, self._account_bytes):
            await self._store.write(delete_responses_above, user_id, self._account_bytes)

    async def _remove_prompts(self, now: int) -> None:
        kept = self._prompts
        oldest = first_uuid7(now - kept.days * DAY_MS)
        while await self._store.write(delete_old_prompts, oldest, BATCH) == BATCH:
            pass
        for user_id in await self._store.read(select_prompt_accounts_above, kept.account_bytes):
            await self._store.write(delete_prompts_above, user_id, kept.account_bytes)

    async def _remove_usage(self, now: int) -> None:
        kept = self._usage
        before = now - kept.log * DAY_MS
        while kept.log and await self._store.write(delete_usage, before, USAGE_BATCH) == USAGE_BATCH:
            pass
        for days, tables in ((kept.hours, _HOURS), (kept.days, _DAYS)):
            before = now - days * DAY_MS
            for table in tables if days else ():
                while await self._store.write(delete_sums, table, before, USAGE_BATCH) == USAGE_BATCH:
                    pass

    async def _remove_unconfirmed(self, connection: Connection, before: int) -> None:
        await lock_audit_head(connection)
        if removed := await delete_unconfirmed_users(connection, before):
            audit = entry(self._clock, OPERATOR, "user.sweep", "unconfirmed", after={"removed": removed})
            await insert_audit(connection, audit)
