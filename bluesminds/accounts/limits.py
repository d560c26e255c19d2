"""Effective limits of accounts and keys, with their origin and use.

A key has its own limits in addition to those of its account. Limits set for an account override those of its
tier. The counters of minutes and running requests are in the memory of the running gateway; those of days,
months and all time are in the store.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final, Literal

import trio
from msgspec import Struct, structs

from bluesminds.accounts.audit import Actor, entry
from bluesminds.accounts.keys import no_such_key
from bluesminds.accounts.users import no_such_user
from bluesminds.common.clock import Calendar, Clock, Date
from bluesminds.common.errors import Unavailable
from bluesminds.common.values import NO_LIMITS, InUse, LimitSet, account_limits, read_limits, write_limits
from storage.audit import AuditRow, insert_audit, lock_audit_head
from storage.base import Connection, Store
from storage.keys import KeyRow, select_key
from storage.quotas import QuotaRow, select_quotas
from storage.users import UserRow, select_user, update_user

LimitOrigin = Literal["key", "user", "tier"]
NAMES: Final = LimitSet.__struct_fields__


class LimitUsage(Struct, frozen=True):
    """One limit, its origin and its use. A limit of 0 is no limit. Amounts are in nano-USD."""

    limit: int
    origin: LimitOrigin | None
    used: int

    @property
    def remaining(self) -> float:
        return self.limit - self.used if self.limit else float("inf")


class SharedBudget(Struct, frozen=True):
    """What all accounts of a tier may use together, and have used, in nano-USD. A limit of 0 is no limit."""

    per_day: int
    used_today: int
    per_month: int
    used_this_month: int


class LimitsReport(Struct, frozen=True):
    """`limits` has the names of LimitSet. For a key, each limit is that of the key or that of its account,
    whichever has less remaining.
    """

    user_id: str
    key_id: str | None
    tier: str | None
    limits: Mapping[str, LimitUsage]


class AccountLimits:
    """`tiers` are the limits by tier, `budgets` what all accounts of a tier may use together. `changed` is
    called after every change, to invalidate cached keys.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        calendar: Calendar,
        tiers: Mapping[str, LimitSet],
        changed: Callable[[], object],
        budgets: Mapping[str, LimitSet] = MappingProxyType({}),
    ) -> None:
        self._store = store
        self._clock = clock
        self._calendar = calendar
        self._changed = changed
        self.tiers = tiers
        self._budgets = budgets

    async def shared_budgets(self) -> Mapping[str, SharedBudget]:
        """By tier, for the tiers that have one."""
        subjects = [f"tier:{name}" for name in self._budgets]
        quotas = await self._store.read(select_quotas, subjects) if subjects else {}
        date = self._calendar.date(self._clock.now_ms())
        found = {}
        for name, limits in self._budgets.items():
            used = _period_use(quotas.get(f"tier:{name}"), date)
            found[name] = SharedBudget(
                limits.usd_per_day, used["usd_per_day"], limits.usd_per_month, used["usd_per_month"]
            )
        return found

    async def of_key(self, key_id: str, owner: str | None, now: Callable[[str], InUse]) -> LimitsReport:
        """With `owner` None, a key of any user. `now` returns the current use of "key:ID" or "user:ID".
        Raises NotFound.
        """
        found = await self._store.read(_key_and_user, key_id, owner)
        if found is None:
            raise no_such_key()
        key, user, quotas = found
        own = self._usages(read_limits(key.limits), dict.fromkeys(NAMES, "key"), f"key:{key.id}", quotas, now)
        of_user = self._of_user(user, quotas, now)
        limits = {
            name: of_user[name] if of_user[name].remaining < own[name].remaining else own[name]
            for name in NAMES
        }
        return LimitsReport(user.id, key.id, user.tier, limits)

    async def of_user(self, user_id: str, now: Callable[[str], InUse]) -> LimitsReport:
        """Raises NotFound."""
        found = await self._store.read(_user, user_id)
        if found is None:
            raise no_such_user()
        user, quotas = found
        return LimitsReport(user.id, None, user.tier, self._of_user(user, quotas, now))

    async def change(self, actor: Actor, user_id: str, change: Callable[[LimitSet], LimitSet]) -> None:
        """Replace the limits that override the tier; `change` maps the current ones and must be pure. Stored
        limits that cannot be read are replaced completely. Raises NotFound.
        """

        def decide(user: UserRow) -> tuple[UserRow, AuditRow]:
            try:
                own = read_limits(user.limits)
                before: dict[str, object] = structs.asdict(own)
            except Unavailable:
                own, before = NO_LIMITS, {"unreadable": user.limits}
            after = change(own)
            audit = entry(
                self._clock, actor, "user.limits", user_id, before=before, after=structs.asdict(after)
            )
            return replace(user, limits=write_limits(after)), audit

        with trio.CancelScope(shield=True):  # a committed change must invalidate the caches
            try:
                await self._store.write(_update, user_id, decide)
            finally:
                self._changed()

    def _of_user(
        self, user: UserRow, quotas: Mapping[str, QuotaRow], now: Callable[[str], InUse]
    ) -> dict[str, LimitUsage]:
        own = read_limits(user.limits)
        limits = account_limits(self.tiers, user.tier, own)
        origins: dict[str, LimitOrigin] = {name: "user" if getattr(own, name) else "tier" for name in NAMES}
        return self._usages(limits, origins, f"user:{user.id}", quotas, now)

    def _usages(
        self,
        limits: LimitSet,
        origins: Mapping[str, LimitOrigin],
        subject: str,
        quotas: Mapping[str, QuotaRow],
        now: Callable[[str], InUse],
    ) -> dict[str, LimitUsage]:
        date = self._calendar.date(self._clock.now_ms())
        used = structs.asdict(now(subject)) | _period_use(quotas.get(subject), date)
        return {
            name: LimitUsage(limit, origins[name] if limit else None, used[name])
            for name, limit in structs.asdict(limits).items()
        }


def _period_use(quota: QuotaRow | None, date: Date) -> dict[str, int]:
    """The use in the current periods; counts of past periods are ignored."""
    if quota is None:
        quota = QuotaRow("", "", 0, 0, "", 0, 0, 0, 0)
    today, this_month = quota.day >= date.day, quota.month >= date.month
    return {
        "tokens_per_day": quota.day_tokens * today,
        "tokens_per_month": quota.month_tokens * this_month,
        "usd_per_day": quota.day_nano * today,
        "usd_per_month": quota.month_nano * this_month,
        "usd_total": quota.total_nano,
    }


async def _user(connection: Connection, user_id: str) -> tuple[UserRow, dict[str, QuotaRow]] | None:
    user = await select_user(connection, user_id)
    return None if user is None else (user, await select_quotas(connection, [f"user:{user_id}"]))


async def _key_and_user(
    connection: Connection, key_id: str, owner: str | None
) -> tuple[KeyRow, UserRow, dict[str, QuotaRow]] | None:
    key = await select_key(connection, key_id, owner)
    user = None if key is None else await select_user(connection, key.user_id)
    if key is None or user is None:
        return None
    return key, user, await select_quotas(connection, [f"key:{key.id}", f"user:{user.id}"])


async def _update(
    connection: Connection, user_id: str, decide: Callable[[UserRow], tuple[UserRow, AuditRow]]
) -> None:
    await lock_audit_head(connection)
    user = await select_user(connection, user_id)
    if user is None:
        raise no_such_user()
    changed, audit = decide(user)
    if changed != user:
        await insert_audit(connection, audit)
        await update_user(connection, changed)
