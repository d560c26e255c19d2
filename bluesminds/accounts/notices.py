"""Events that follow from usage: budgets and limits of tokens that are almost used, low credit, failed
requests, and keys that expire soon.

A settled request only notes its account and key. A background task looks at those that were noted.
"""

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from bluesminds.accounts.limits import AccountLimits, LimitUsage
from bluesminds.common.clock import Calendar, Clock, Date, format_time
from bluesminds.common.errors import NotFound
from bluesminds.common.money import write_usd
from bluesminds.common.values import InUse
from bluesminds.notify.events import EventKind, new_event
from storage.base import Store
from storage.event_marks import insert_event_once
from storage.events import insert_events
from storage.keys import select_keys_that_expire
from storage.ledger import select_wallet
from storage.rounds import run_rounds
from storage.usage import UsageRow

INTERVAL: Final = 60.0  # seconds
MAX_NOTED: Final = 5000  # accounts and keys in one interval; others are noted with their next request
_LAST_DAY: Final = 86_400.0  # seconds; a key that expires so soon gets a second notice
MAX_EXPIRING: Final = 500  # keys that are looked at in one interval
_SUCCESSES: Final = ("ok", "client_gone", "stopped")
_PERIODS: Final = {"per_day": "day", "per_month": "month"}


class NoticePolicy(Struct, frozen=True):
    """`shares`: percent of a limit. `credit_low`: nano-USD, 0 for never. `key_seconds`: how long before a key
    expires.
    """

    shares: tuple[int, ...] = (80, 100)
    credit_low: int = 5_000_000_000
    key_seconds: float = 604_800.0


class FailedRequests(Struct):
    """Of one account in one interval: the number, and the last one."""

    count: int
    last: UsageRow


class UsageNotices:
    """`usage_now` is what "key:ID" or "user:ID" uses at this moment."""

    def __init__(
        self,
        store: Store,
        limits: AccountLimits,
        *,
        clock: Clock,
        calendar: Calendar,
        policy: NoticePolicy,
        usage_now: Callable[[str], InUse],
    ) -> None:
        self._store = store
        self._limits = limits
        self._clock = clock
        self._calendar = calendar
        self._policy = policy
        self._usage_now = usage_now
        self._noted: dict[tuple[str, str], None] = {}
        self._failed: dict[str, FailedRequests] = {}

    def note(self, row: UsageRow) -> bool:
        """Called for every settled request, so it must be quick. False: nothing is to be queued."""
        if not row.user_id:
            return False
        if len(self._noted) < MAX_NOTED:
            self._noted[row.user_id, row.key_id] = None
        if row.outcome not in _SUCCESSES:
            failed = self._failed.get(row.user_id)
            if failed is not None:
                failed.count += 1
                failed.last = row
            elif len(self._failed) < MAX_NOTED:
                self._failed[row.user_id] = FailedRequests(1, row)
        return False

    async def run(self) -> None:
        """Run until cancelled. After a storage error, the rest is left for the next requests."""
        await run_rounds(self.run_once, INTERVAL, waits_first=True)

    async def run_once(self) -> None:
        noted, self._noted = self._noted, {}
        failed, self._failed = self._failed, {}
        await self._report_failed(failed)
        await self._report_expiring()
        for user_id in dict.fromkeys(user_id for user_id, _ in noted):
            await self._check_user(user_id)
        for user_id, key_id in noted:
            if key_id:
                await self._check_key(user_id, key_id)

    async def _report_failed(self, failed: dict[str, FailedRequests]) -> None:
        now = self._clock.now_ms()
        events = [
            new_event(
                now,
                "request.failed",
                user_id,
                {
                    "count": one.count,
                    "request_id": one.last.request_id,
                    "key_id": one.last.key_id or None,
                    "endpoint": one.last.endpoint,
                    "model": one.last.model,
                    "status": one.last.status,
                    "outcome": one.last.outcome,
                },
            )
            for user_id, one in failed.items()
        ]
        if events:
            await self._store.write(insert_events, events)

    async def _report_expiring(self) -> None:
        if self._policy.key_seconds > _LAST_DAY:
            await self._report_expiring_within(_LAST_DAY, ":last")
        await self._report_expiring_within(self._policy.key_seconds, "")

    async def _report_expiring_within(self, seconds: float, ending: str) -> None:
        """`ending` is of the marks. The last notice stands for the first one too, if that was not written."""
        now, milliseconds = self._clock.now_ms(), round(seconds * 1000)
        for key in await self._store.read(select_keys_that_expire, now, milliseconds, ending, MAX_EXPIRING):
            data = {
                "key_id": key.id,
                "name": key.name,
                "prefix": key.prefix,
                "last4": key.last4,
                "expires_at": format_time(key.expires_at),
            }
            event = new_event(now, "key.expiring", key.user_id, data)
            mark = f"key.expiring:{key.id}:{key.expires_at}"
            await self._store.write(insert_event_once, (mark + ending, mark), event, now)

    async def _check_user(self, user_id: str) -> None:
        try:
            report = await self._limits.of_user(user_id, self._usage_now)
        except NotFound:
            return
        for name, usage in report.limits.items():
            await self._check_limit(user_id, None, name, usage)
        await self._check_credit(user_id)

    async def _check_key(self, user_id: str, key_id: str) -> None:
        try:
            report = await self._limits.of_key(key_id, user_id, self._usage_now)
        except NotFound:
            return
        for name, usage in report.limits.items():
            if usage.origin == "key":
                await self._check_limit(user_id, key_id, name, usage)

    async def _check_limit(self, user_id: str, key_id: str | None, name: str, usage: LimitUsage) -> None:
        """An event for the largest share that is reached, once in a period."""
        period = _period(name, self._calendar.date(self._clock.now_ms()))
        if period is None or not usage.limit:
            return
        reached = [share for share in self._policy.shares if usage.used * 100 >= usage.limit * share]
        if not reached:
            return
        reached.sort(reverse=True)
        is_money = name.startswith("usd_")
        kind: EventKind = "budget.alert" if is_money else "usage.threshold"
        now = self._clock.now_ms()
        data = {
            "key_id": key_id,
            "limit_name": name,
            "period": period,
            "share": reached[0],
            "used": write_usd(usage.used) if is_money else usage.used,
            "limit": write_usd(usage.limit) if is_money else usage.limit,
        }
        subject = f"key:{key_id}" if key_id else f"user:{user_id}"
        marks = [f"{kind}:{subject}:{name}:{period}:{usage.limit}:{share}" for share in reached]
        await self._store.write(insert_event_once, marks, new_event(now, kind, user_id, data), now)

    async def _check_credit(self, user_id: str) -> None:
        """Once after each entry of the ledger that is not a charge, such as a top-up."""
        low = self._policy.credit_low
        wallet = await self._store.read(select_wallet, user_id) if low else None
        if wallet is None or wallet.balance_nano > low:
            return
        now = self._clock.now_ms()
        data = {"balance_usd": write_usd(wallet.balance_nano), "threshold_usd": write_usd(low)}
        event = new_event(now, "credit.low", user_id, data)
        mark = f"credit.low:user:{user_id}:{wallet.revision}"
        await self._store.write(insert_event_once, (mark,), event, now)


def _period(name: str, date: Date) -> str | None:
    """The current period of a limit; None for limits that are not counted in periods."""
    if name == "usd_total":
        return "total"
    for ending, field in _PERIODS.items():
        if name.endswith(ending):
            period: str = getattr(date, field)
            return period
    return None
