"""/api/admin/invites: who is asked to sign up."""

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
    """An invitation that is neither used nor too old, to an address that nobody has."""

    id: str
    email: str
    created_at: str
    expires_at: str


class CreatedInvite(InviteView, frozen=True):
    """The link is shown this once."""

    url: str


class InviteQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Whose invitations."""

    email: Annotated[str, Meta(description="a whole e-mail address")]


class WithdrawnInvites(Struct, frozen=True):
    """The ids, the oldest first."""

    withdrawn: list[str]


class InviteHandlers(Struct, frozen=True):
    invitations: Invitations

    async def list(self, query: AddressFilter) -> Page[InviteView]:
        """List the open invitations, oldest first; or find those to an address."""
        rows = await self.invitations.list(email=query.address, after=query.after, limit=query.limit + 1)
        return Page.of(rows, query.limit, _view, cursor=lambda row: row.id)

    async def create(self, who: Principal, body: NewInvite) -> CreatedInvite:
        """Invite somebody to sign up. The link goes to the address by mail too."""
        made = await self.invitations.create(who.actor, email=body.email)
        return CreatedInvite(**structs.asdict(_view(made.row)), url=made.url)

    async def withdraw_all(self, who: Principal, query: InviteQuery) -> WithdrawnInvites:
        """Withdraw all open invitations to an address, together. Their links do not work any more."""
        found = await self.invitations.withdraw_all(who.actor, read_email(query.email) or "")
        return WithdrawnInvites([row.id for row in found])

    async def withdraw(self, who: Principal, invite_id: str) -> None:
        """Withdraw an invitation. Its link does not work any more."""
        await self.invitations.withdraw(who.actor, invite_id)


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
