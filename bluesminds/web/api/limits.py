"""Effective limits of keys and accounts, with their origin and use."""

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from bluesminds.accounts.limits import (
    NAMES,
    AccountLimits,
    LimitOrigin,
    LimitsReport,
    LimitUsage,
    SharedBudget,
)
from bluesminds.common.money import write_usd
from bluesminds.common.values import InUse
from bluesminds.web.fields import LimitsInput, LimitsView
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import Page, Route, route


class EffectiveLimit(Struct, frozen=True):
    """`limit` is null if there is none. `origin` says where it is set: for the key, the user or the tier."""

    limit: int | None
    origin: LimitOrigin | None
    used: int


class EffectiveAmount(Struct, frozen=True):
    """An effective limit in USD, as decimal strings."""

    limit: str | None
    origin: LimitOrigin | None
    used: str


class EffectiveLimits(Struct, frozen=True):
    user_id: str
    key_id: str | None
    tier: str | None
    rpm: EffectiveLimit
    tpm: EffectiveLimit
    concurrency: EffectiveLimit
    tokens_per_day: EffectiveLimit
    tokens_per_month: EffectiveLimit
    usd_per_day: EffectiveAmount
    usd_per_month: EffectiveAmount
    usd_total: EffectiveAmount


class SharedAmount(Struct, frozen=True):
    """A budget in USD and its use, as decimal strings. `limit` is null if there is none."""

    limit: str | None
    used: str


class SharedBudgets(Struct, frozen=True):
    """The budgets of all accounts of a tier together."""

    usd_per_day: SharedAmount
    usd_per_month: SharedAmount


class TierView(Struct, frozen=True):
    """`null` means no limit. `shared` is null if the accounts of the tier have no common budget."""

    name: str
    limits: LimitsView
    shared: SharedBudgets | None


class LimitHandlers(Struct, frozen=True):
    """`now` returns the current use of a limited account, "key:ID" or "user:ID"."""

    limits: AccountLimits
    now: Callable[[str], InUse]

    async def own(self, principal: Principal) -> EffectiveLimits:
        """Show the effective limits of your account, and what is used."""
        return _view(await self.limits.of_user(principal.user_id, self.now))

    async def of_own_key(self, principal: Principal, key_id: str) -> EffectiveLimits:
        """Show the effective limits of a key, and what is used.

        A key has its own limits and those of its account. Each value is the limit with less remaining.
        """
        return _view(await self.limits.of_key(key_id, principal.user_id, self.now))

    async def of_key(self, key_id: str) -> EffectiveLimits:
        """Show the effective limits of a key, and what is used.

        A key has its own limits and those of its account. Each value is the limit with less remaining.
        """
        return _view(await self.limits.of_key(key_id, None, self.now))

    async def of_user(self, user_id: str) -> EffectiveLimits:
        """Show the effective limits of a user, and what is used."""
        return _view(await self.limits.of_user(user_id, self.now))

    async def change(self, principal: Principal, user_id: str, body: LimitsInput) -> EffectiveLimits:
        """Set limits of a user. They override those of the tier, and null removes the override.

        Omitted limits stay the same. Changes take effect immediately.
        """
        await self.limits.change(principal.actor, user_id, body.on)
        return await self.of_user(user_id)

    async def tiers(self) -> Page[TierView]:
        """List the tiers and their limits."""
        shared = await self.limits.shared_budgets()
        return Page(
            [
                TierView(name, LimitsView.of(limits), _shared_view(shared.get(name)))
                for name, limits in self.limits.tiers.items()
            ]
        )


def routes(handlers: LimitHandlers) -> list[Route]:
    tag = "Limits"
    return [
        route("GET", "/api/auth/limits", Access.SESSION, handlers.own, tag=tag),
        route("GET", "/api/keys/{key_id}/limits", Access.SESSION, handlers.of_own_key, tag=tag),
        route("GET", "/user/api-keys/{key_id}/limits", Access.SESSION, handlers.of_own_key, tag=tag),
        route("GET", "/api/admin/keys/{key_id}/limits", Access.ADMIN, handlers.of_key, tag=tag),
        route("GET", "/api/admin/users/{user_id}/limits", Access.ADMIN, handlers.of_user, tag=tag),
        route("PATCH", "/api/admin/users/{user_id}/limits", Access.ADMIN, handlers.change, tag=tag),
        route("GET", "/api/admin/tiers", Access.ADMIN, handlers.tiers, tag=tag),
    ]


def _view(found: LimitsReport) -> EffectiveLimits:
    limits: dict[str, Any] = {name: _limit_view(name, found.limits[name]) for name in NAMES}
    return EffectiveLimits(user_id=found.user_id, key_id=found.key_id, tier=found.tier, **limits)


def _shared_view(found: SharedBudget | None) -> SharedBudgets | None:
    if found is None:
        return None
    return SharedBudgets(
        _amount(found.per_day, found.used_today), _amount(found.per_month, found.used_this_month)
    )


def _amount(limit: int, used: int) -> SharedAmount:
    return SharedAmount(write_usd(limit) if limit else None, write_usd(used))


def _limit_view(name: str, usage: LimitUsage) -> EffectiveLimit | EffectiveAmount:
    if name.startswith("usd_"):
        limit = write_usd(usage.limit) if usage.limit else None
        return EffectiveAmount(limit, usage.origin, write_usd(usage.used))
    return EffectiveLimit(usage.limit or None, usage.origin, usage.used)
