"""Users and invitations, and one user with limits, keys and usage."""

from collections.abc import Callable, Sequence
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from bluesminds.accounts.invitations import Invitations
from bluesminds.accounts.key_reports import KeyReports
from bluesminds.accounts.ledger import Ledger
from bluesminds.accounts.limits import AccountLimits
from bluesminds.accounts.second_factors import SecondFactors
from bluesminds.accounts.sessions import Sessions
from bluesminds.accounts.usage import UsageReports
from bluesminds.accounts.users import Users
from bluesminds.accounts.vendor_keys import VendorKeys
from bluesminds.accounts.webhooks import Webhooks
from bluesminds.common.clock import Clock
from bluesminds.common.crypto import UUID, uuid7
from bluesminds.common.values import InUse, read_limits
from bluesminds.dashboard import words
from bluesminds.dashboard.frame import HOME, HTML, Frame, link
from bluesminds.dashboard.keys import LIMIT_FIELDS, KeyLimitField, limit_kind, written_limit
from bluesminds.dashboard.series import RANGES, TimeRange, TimeSlots, UsageTotal, chart_of, groups_of
from bluesminds.dashboard.webhooks import webhook_lines
from bluesminds.web.api.vendor_keys import vendor_key_view
from bluesminds.web.browser_request import BrowserRequest
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, RawBody, Route, route
from storage.users import UserRow, UserSearch

ROWS: Final = 50


class UsersQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """`q` is a part of the address or of the name. `show` is a state or a role, `tier` the name of a tier."""

    q: Annotated[str, Meta(max_length=254, description="at most 254 characters")] = ""
    show: Annotated[Literal["", "admins", "disabled"], Meta(description="admins, disabled or empty")] = ""
    tier: Annotated[str, Meta(max_length=63, description="the name of a tier, or empty")] = ""
    after: Annotated[str, Meta(pattern=rf"^({UUID})?\Z", description="the id of a user")] = ""


class UserPageQuery(Struct, frozen=True, forbid_unknown_fields=True):
    range: TimeRange = "30d"


class UserLine(Struct, frozen=True):
    """A user with the use of the last 30 days. `seen_at` is None without a session."""

    user: UserRow
    total: UsageTotal
    seen_at: int | None


class UsersPages(Struct, frozen=True):
    frame: Frame
    users: Users
    invitations: Invitations
    sessions: Sessions
    second_factors: SecondFactors
    keys: KeyReports
    limits: AccountLimits
    usage: UsageReports
    clock: Clock
    usage_now: Callable[[str], InUse]
    ledger: Ledger
    vendor_keys: VendorKeys
    has_billing: bool
    webhooks: Webhooks | None

    async def list(
        self, principal: Principal, browser: BrowserRequest, query: UsersQuery
    ) -> HandlerResponse[RawBody]:
        """Users and open invitations."""
        search = UserSearch(
            text=query.q.strip(),
            role="admin" if query.show == "admins" else None,
            tier=query.tier or None,
            disabled=True if query.show == "disabled" else None,
        )
        found = await self.users.search(search, after=query.after, limit=ROWS + 1)
        ids = [user.id for user in found[:ROWS]]
        use, seen = await self.usage.of_users(ids), await self.sessions.last_seen(ids)
        filters = {"q": query.q, "show": query.show, "tier": query.tier}
        return self.frame.page(
            "users.html",
            browser,
            principal,
            lines=[
                UserLine(user, UsageTotal.of(use.get(user.id, [])), seen.get(user.id))
                for user in found[:ROWS]
            ],
            query=query,
            is_filtered=any(filters.values()),
            first=link("/admin/users", **filters),
            more=link("/admin/users", **filters, after=found[ROWS - 1].id) if len(found) > ROWS else "",
            invites=[]
            if any(filters.values())
            else await self.invitations.list(email=None, after="", limit=ROWS),
            tiers=list(self.limits.tiers),
        )

    async def one(
        self, principal: Principal, browser: BrowserRequest, query: UserPageQuery, user_id: str
    ) -> HandlerResponse[RawBody]:
        """One user."""
        user = await self.users.get(user_id)
        slots = TimeSlots.until_now(query.range, self.clock.now_ms())
        found = await self.usage.figures(slots.query("model", user.id), latest=6)
        groups = groups_of(found.rows, "spend", {})
        return self.frame.page(
            "user.html",
            browser,
            principal,
            user=user,
            is_self=user.id == principal.user_id,
            tiers=list(self.limits.tiers),
            fields=await self._limit_fields(user),
            keys=await self.keys.list(user.id, limit=ROWS),
            sessions=await self.sessions.list(user.id),
            has_second_factor=await self.second_factors.is_on(user.id),
            vendor_keys=[
                vendor_key_view(self.vendor_keys, row) for row in await self.vendor_keys.list(user.id)
            ],
            wallet=await self.ledger.balance(user.id),
            has_billing=self.has_billing,
            webhooks=[] if self.webhooks is None else await webhook_lines(self.webhooks, user.id),
            entry_key=uuid7(self.clock.now_ms()),
            slots=slots,
            total=UsageTotal.of(found.rows),
            latest=found.latest,
            chart=chart_of(slots, found.rows, groups, "spend") if found.rows else None,
            ranges=[(name, name, link(f"/admin/users/{user.id}", range=name)) for name in RANGES],
        )

    async def _limit_fields(self, user: UserRow) -> Sequence[KeyLimitField]:
        own, report = read_limits(user.limits), await self.limits.of_user(user.id, self.usage_now)
        fields = []
        for name, label in LIMIT_FIELDS:
            found, write = report.limits[name], words.usd if name.startswith("usd") else words.count
            fields.append(
                KeyLimitField(
                    name=name,
                    label=label,
                    value=written_limit(own, name),
                    hint=f"{write(found.limit)}, of the tier" if found.limit else "no limit",
                    kind=limit_kind(name),
                    used=f"{write(found.used)} used" if found.used else "",
                )
            )
        return fields


def routes(pages: UsersPages) -> list[Route]:
    path = f"{HOME}/admin/users"
    return [
        route("GET", path, Access.ADMIN, pages.list, tag="Pages", media=HTML),
        route("GET", f"{path}/{{user_id}}", Access.ADMIN, pages.one, tag="Pages", media=HTML),
    ]
