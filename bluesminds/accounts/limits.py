"""Limits as people ask for them: what is in force, where it comes from, how much of it is used.

A key's own limits are checked besides the account's, and an account's are its tier's unless an administrator
has set others. What is counted now (minutes, requests at once) only a running gateway knows; days, months and
all time are in the store.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
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

Origin = Literal["key", "user", "tier"]
NAMES: Final = LimitSet.__struct_fields__


class LimitFigure(Struct, frozen=True):
    """One limit, 0 for none, with whose it is and how much of it is used. Money in nano-USD."""

    limit: int
    origin: Origin | None
    used: int

    @property
    def left(self) -> float:
        return self.limit - self.used if self.limit else float("inf")


class LimitsInForce(Struct, frozen=True):
    """By the names of LimitSet. For a key: of its own limits and its account's, what is nearer to its end."""

    user_id: str
    key_id: str | None
    tier: str | None
    figures: Mapping[str, LimitFigure]


class Limits:
    """`tiers` are the limits by tier; `changed` is called after every change, so that it is in force."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        calendar: Calendar,
        tiers: Mapping[str, LimitSet],
        changed: Callable[[], object],
    ) -> None:
        self._store = store
        self._clock = clock
        self._calendar = calendar
        self._changed = changed
        self.tiers = tiers

    async def of_key(self, key_id: str, owner: str | None, now: Callable[[str], InUse]) -> LimitsInForce:
        """`owner` None: anybody's key, for administrators. Raises NotFound."""
        found = await self._store.read(_key_and_user, key_id, owner)
        if found is None:
            raise no_such_key()
        key, user, quotas = found
        own = self._figures(
            read_limits(key.limits), dict.fromkeys(NAMES, "key"), f"key:{key.id}", quotas, now
        )
        of_user = self._of_user(user, quotas, now)
        nearer = {name: of_user[name] if of_user[name].left < own[name].left else own[name] for name in NAMES}
        return LimitsInForce(user.id, key.id, user.tier, nearer)

    async def of_user(self, user_id: str, now: Callable[[str], InUse]) -> LimitsInForce:
        """Raises NotFound."""
        found = await self._store.read(_user, user_id)
        if found is None:
            raise no_such_user()
        user, quotas = found
        return LimitsInForce(user.id, None, user.tier, self._of_user(user, quotas, now))

    async def change(self, actor: Actor, user_id: str, change: Callable[[LimitSet], LimitSet]) -> None:
        """Set what differs from the tier; `change` gets what does now, and is pure. Limits that cannot be
        read are replaced whole. In force when this returns. Raises NotFound.
        """

        def decide(user: UserRow) -> tuple[UserRow, AuditRow]:
            try:
                own = read_limits(user.limits)
                before: dict[str, object] = structs.asdict(own)
            except Unavailable:
                own, before = NO_LIMITS, {"unreadable": user.limits}
            after = change(own)
            told = entry(
                self._clock, actor, "user.limits", user_id, before=before, after=structs.asdict(after)
            )
            return replace(user, limits=write_limits(after)), told

        with trio.CancelScope(shield=True):  # the caches must learn of it, also when whoever asked has left
            try:
                await self._store.write(_update, user_id, decide)
            finally:
                self._changed()

    def _of_user(
        self, user: UserRow, quotas: Mapping[str, QuotaRow], now: Callable[[str], InUse]
    ) -> dict[str, LimitFigure]:
        own = read_limits(user.limits)
        limits = account_limits(self.tiers, user.tier, own)
        origins: dict[str, Origin] = {name: "user" if getattr(own, name) else "tier" for name in NAMES}
        return self._figures(limits, origins, f"user:{user.id}", quotas, now)

    def _figures(
        self,
        limits: LimitSet,
        origins: Mapping[str, Origin],
        subject: str,
        quotas: Mapping[str, QuotaRow],
        now: Callable[[str], InUse],
    ) -> dict[str, LimitFigure]:
        date = self._calendar.date(self._clock.now_ms())
        used = structs.asdict(now(subject)) | _counted(quotas.get(subject), date)
        return {
            name: LimitFigure(limit, origins[name] if limit else None, used[name])
            for name, limit in structs.asdict(limits).items()
        }


def _counted(quota: QuotaRow | None, date: Date) -> dict[str, int]:
    """Of the periods that are on; what an older one has counted is over."""
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
