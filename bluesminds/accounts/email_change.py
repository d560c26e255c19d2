"""Change of a user's e-mail address. It takes effect when the new address is confirmed."""

from msgspec import Struct

from bluesminds.accounts.audit import Actor, entry
from bluesminds.accounts.context import AccountContext
from bluesminds.accounts.email_verification import EmailVerification
from bluesminds.common.emails import require_email
from storage.audit import insert_audit, lock_audit_head
from storage.base import Connection
from storage.users import UserRow, select_user_by_email


class EmailChange(Struct, frozen=True):
    context: AccountContext
    verification: EmailVerification

    async def request(self, actor: Actor, user: UserRow, *, email: str) -> None:
        """Mail a confirmation link to the new address. The caller has checked the user's password. Raises
        InvalidRequest, RateLimited.
        """
        self.context.throttle.check_public_form(actor.address)
        email = require_email(email)
        may_mail = self.context.throttle.allow_mail("verify_email", email)
        await self.context.store.write(self._request, actor, user, email, may_mail)
        self.context.outbox.wake()

    async def _request(
        self, connection: Connection, actor: Actor, user: UserRow, email: str, may_mail: bool
    ) -> None:
        await lock_audit_head(connection)
        taken = await select_user_by_email(connection, email)
        if not may_mail:
            await self.verification.insert_decoy(connection, email)
            return
        if taken is not None and taken.id != user.id:
            await self.context.outbox.insert(connection, self.context.templates.email_taken(email))
            return
        audit = entry(self.context.clock, actor, "email.change", user.id, after={"email": email})
        await insert_audit(connection, audit)
        await self.verification.create_link(connection, user.id, email)
