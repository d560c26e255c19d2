"""/api/admin/invites: invitations to sign up."""

from typing import Annotated

from msgspec import Meta, Struct, structs

from bluesminds.accounts.invitations import Invitations
from bluesminds.common.clock import format_time
from bluesminds.common.emails import read_email
from bluesminds.web.fields import AddressFilter, Email
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import Page, Route, route
from storage.single_use_tokens import TokenRow


class NewInvite(Struct, forbid_unknown_fields=True):
    email: Email


class InviteView(Struct, frozen=True):
    """An open invitation: neither used nor expired, and its address has no account."""

    id: str
    email: str
    created_at: str
    expires_at: str


class CreatedInvite(InviteView, frozen=True):
    """`url` is shown once."""

    url: str


class InviteQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Selects the invitations to one address."""

    email: Annotated[str, Meta(description="a complete e-mail address")]


class WithdrawnInvites(Struct, frozen=True):
    """Ids of the withdrawn invitations, oldest first."""

    withdrawn: list[str]


class InviteHandlers(Struct, frozen=True):
    invitations: Invitations

    async def list(self, query: AddressFilter) -> Page[InviteView]:
        """List open invitations, oldest first. With `email`, only those to this address."""
        rows = await self.invitations.list(email=query.address, after=query.after, limit=query.limit + 1)
        return Page.of(rows, query.limit, _view, cursor=lambda row: row.id)

    async def create(self, principal: Principal, body: NewInvite) -> CreatedInvite:
        """Create an invitation. The link is also mailed."""
        invitation = await self.invitations.create(principal.actor, email=body.email)
        return CreatedInvite(**structs.asdict(_view(invitation.row)), url=invitation.url)

    async def withdraw_all(self, principal: Principal, query: InviteQuery) -> WithdrawnInvites:
        """Withdraw all open invitations to an address. Their links stop working."""
        rows = await self.invitations.withdraw_all(principal.actor, read_email(query.email) or "")
        return WithdrawnInvites([row.id for row in rows])

    async def withdraw(self, principal: Principal, invite_id: str) -> None:
        """Withdraw an invitation. Its link stops working."""
        await self.invitations.withdraw(principal.actor, invite_id)


def routes(handlers: InviteHandlers) -> list[Route]:
    path, tag = "/api/admin/invites", "Users"
    return [
        route("GET", path, Access.ADMIN, handlers.list, tag=tag),
        route("POST", path, Access.ADMIN, handlers.create, tag=tag, status=201),
        route("DELETE", path, Access.ADMIN, handlers.withdraw_all, tag=tag),
        route("DELETE", f"{path}/{{invite_id}}", Access.ADMIN, handlers.withdraw, tag=tag),
    ]


def _view(row: TokenRow) -> InviteView:
    return InviteView(row.id, row.email, format_time(row.created_at), format_time(row.expires_at))
