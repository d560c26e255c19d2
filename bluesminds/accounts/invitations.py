"""Invitations to sign up: links that work once, for one address and a limited time. SignUp uses them."""

from collections.abc import Sequence

from msgspec import Struct

from bluesminds.accounts.audit import Actor, entry
from bluesminds.accounts.context import AccountContext
from bluesminds.accounts.single_use_tokens import new_token
from bluesminds.accounts.users import email_taken, is_taken
from bluesminds.common.crypto import is_uuid
from bluesminds.common.emails import require_email
from bluesminds.common.errors import Conflict, NotFound
from storage.audit import AuditRow, insert_audit, lock_audit_head
from storage.base import Connection
from storage.single_use_tokens import (
    TokenRow,
    delete_invite,
    delete_invites,
    insert_token,
    select_invite,
    select_invites,
)
from storage.users import select_user_by_email


class Invitation(Struct, frozen=True):
    """A new invitation. `url` contains the token and is shown once."""

    row: TokenRow
    url: str

    def __repr__(self) -> str:
        return f"Invitation({self.row.id!r})"


class Invitations(Struct, frozen=True):
    context: AccountContext

    async def create(self, actor: Actor, *, email: str) -> Invitation:
        """Create an invitation and mail it. Raises InvalidRequest, Conflict when the address is taken or
        sign-up is closed.
        """
        if self.context.settings.signup == "closed":
            raise Conflict(
                "signup_closed", 'Sign-up is closed. Set signup = "invite" in [accounts] to use invitations.'
            )
        email = require_email(email)
        row, token = new_token(
            self.context.clock, "invite", email, user_id=None, seconds=self.context.settings.invite_lifetime
        )
        await self.context.store.write(self._create, actor, row, token)
        self.context.outbox.wake()
        return Invitation(row, self.context.templates.invite_link(token))

    async def list(self, *, email: str | None, after: str, limit: int) -> Sequence[TokenRow]:
        """Open invitations, optionally only those to one address; oldest first, after the id `after`."""
        return await self.context.store.read(select_invites, self.context.clock.now_ms(), email, after, limit)

    async def withdraw(self, actor: Actor, invite_id: str) -> None:
        """Raises NotFound if there is no open invitation with this id."""
        await self.context.store.write(self._withdraw, actor, invite_id)

    async def withdraw_all(self, actor: Actor, email: str) -> Sequence[TokenRow]:
        """Withdraw all open invitations to an address; their rows. Raises NotFound if there are none."""
        return await self.context.store.write(self._withdraw_all, actor, email)

    async def _create(self, connection: Connection, actor: Actor, row: TokenRow, token: str) -> None:
        audit = entry(self.context.clock, actor, "user.invite", row.email, after=_audit_fields(row))
        await insert_audit(connection, audit)
        if is_taken(await select_user_by_email(connection, row.email)):
            raise email_taken()
        await insert_token(connection, row)
        mail = self.context.templates.invite(row.email, token)
        await self.context.outbox.insert(connection, mail, lifetime=self.context.settings.invite_lifetime)

    async def _withdraw(self, connection: Connection, actor: Actor, invite_id: str) -> None:
        await lock_audit_head(connection)
        now = self.context.clock.now_ms()
        found = await select_invite(connection, invite_id, now) if is_uuid(invite_id) else None
        if found is None:
            raise NotFound("invite_not_found", "There is no open invitation with this id.")
        await insert_audit(connection, self._withdrawn(actor, found))
        await delete_invite(connection, invite_id)

    async def _withdraw_all(self, connection: Connection, actor: Actor, email: str) -> Sequence[TokenRow]:
        await lock_audit_head(connection)
        found = await delete_invites(connection, email, self.context.clock.now_ms())
        if not found:
            raise NotFound("invite_not_found", "There is no open invitation to this address.")
        for row in found:
            await insert_audit(connection, self._withdrawn(actor, row))
        return found

    def _withdrawn(self, actor: Actor, row: TokenRow) -> AuditRow:
        return entry(self.context.clock, actor, "user.uninvite", row.email, before=_audit_fields(row))


def _audit_fields(row: TokenRow) -> dict[str, object]:
    return {"invite_id": row.id, "expires_at": row.expires_at}
