"""The limits in force for a key or an account: what they are, where they come from, what is used."""

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from bluesminds.accounts.limits import NAMES, LimitFigure, Limits, LimitsInForce, Origin
from bluesminds.common.money import write_usd
from bluesminds.common.values import InUse
from bluesminds.web.fields import LimitsInput, LimitsView
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import Page, Route, route


class EffectiveLimit(Struct, frozen=True):
    """`limit` null: not limited. `origin`: the key's own, set for the account, or its tier's."""

    limit: int | None
    origin: Origin | None
    used: int


class EffectiveAmount(Struct, frozen=True):
    """The same in USD, as decimal text."""

    limit: str | None
    origin: Origin | None
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


class TierView(Struct, frozen=True):
    """Null is no limit."""

    name: str
    limits: LimitsView


class LimitHandlers(Struct, frozen=True):
    """`now` tells what a subject (key:ID, user:ID) has in use at this moment."""

    limits: Limits
    now: Callable[[str], InUse]

    async def own(self, who: Principal) -> EffectiveLimits:
        """Show the limits of your account, where each comes from, and how much of it is used."""
        return _view(await self.limits.of_user(who.user_id, self.now))

    async def of_own_key(self, who: Principal, key_id: str) -> EffectiveLimits:
        """Show what limits a key of yours: of its own limits and the account's, the one nearer to its end."""
        return _view(await self.limits.of_key(key_id, who.user_id, self.now))

    async def of_key(self, key_id: str) -> EffectiveLimits:
        """Show what limits a key: of its own limits and the account's, the one nearer to its end."""
        return _view(await self.limits.of_key(key_id, None, self.now))

    async def of_user(self, user_id: str) -> EffectiveLimits:
        """Show the limits of an account, where each comes from, and how much of it is used."""
        return _view(await self.limits.of_user(user_id, self.now))

    async def change(self, who: Principal, user_id: str, body: LimitsInput) -> EffectiveLimits:
        """Set limits of an account in the place of its tier's; null is as the tier says. In force at once."""
        await self.limits.change(who.actor, user_id, body.on)
        return await self.of_user(user_id)

    async def tiers(self) -> Page[TierView]:
        """List the tiers of the settings."""
        return Page([TierView(name, LimitsView.of(limits)) for name, limits in self.limits.tiers.items()])


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


def _view(found: LimitsInForce) -> EffectiveLimits:
    figures: dict[str, Any] = {name: _figure(name, found.figures[name]) for name in NAMES}
    return EffectiveLimits(user_id=found.user_id, key_id=found.key_id, tier=found.tier, **figures)


def _figure(name: str, figure: LimitFigure) -> EffectiveLimit | EffectiveAmount:
    if name.startswith("usd_"):
        limit = write_usd(figure.limit) if figure.limit else None
        return EffectiveAmount(limit, figure.origin, write_usd(figure.used))
    return EffectiveLimit(figure.limit or None, figure.origin, figure.used)
