"""Change of a user's e-mail address. It takes effect when the new address is confirmed."""

from msgspec import Struct

from bluesminds.accounts.audit import Actor, entry
from bluesminds.accounts.email_verification import EmailVerification
from bluesminds.accounts.throttle import Throttle
from bluesminds.common.clock import Clock
from bluesminds.common.emails import require_email
from bluesminds.notify.mail_templates import MailTemplates
from bluesminds.notify.outbox import MailOutbox
from storage.audit import insert_audit, lock_audit_head
from storage.base import Connection, Store
from storage.users import UserRow, select_user_by_email


class EmailChange(Struct, frozen=True, kw_only=True):
    store: Store
    clock: Clock
    throttle: Throttle
    outbox: MailOutbox
    templates: MailTemplates
    verification: EmailVerification

    async def request(self, actor: Actor, user: UserRow, *, email: str) -> None:
        """Mail a confirmation link to the new address. The caller has checked the user's password. Raises
        InvalidRequest, RateLimited.
        """
        self.throttle.check_public_form(actor.address)
        email = require_email(email)
        may_mail = self.throttle.allow_mail("verify_email", email)
        await self.store.write(self._request, actor, user, email, may_mail)
        self.outbox.wake()

    async def _request(
        self, connection: Connection, actor: Actor, user: UserRow, email: str, may_mail: bool
    ) -> None:
        await lock_audit_head(connection)
        taken = await select_user_by_email(connection, email)
        if not may_mail:
            await self.verification.insert_decoy(connection, email)
            return
        if taken is not None and taken.id != user.id:
            await self.outbox.insert(connection, self.templates.email_taken(email))
            return
        audit = entry(self.clock, actor, "email.change", user.id, after={"email": email})
        await insert_audit(connection, audit)
        await self.verification.create_link(connection, user.id, email)
