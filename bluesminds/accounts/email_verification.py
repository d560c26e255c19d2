"""Confirmation of e-mail addresses.

A link confirms an address only together with the password of its account. Otherwise an attacker could sign up
with the address of a victim and let the victim confirm the account. Addresses in `admin_emails` get the role
when they are confirmed, never before.

Public forms do not reveal whether an address has an account: the response and the work are the same in every
case, and the mail says the rest. Requests that change nothing are not in the audit log, because anonymous
clients could fill it.
"""

import secrets
from dataclasses import replace

from msgspec import Struct

from bluesminds.accounts.audit import Actor, entry
from bluesminds.accounts.context import AccountContext
from bluesminds.accounts.login import invalid_credentials
from bluesminds.accounts.single_use_tokens import invalid_token, new_token
from bluesminds.accounts.users import (
    BOOTSTRAP,
    audit_fields,
    created_event,
    email_taken,
    end_invites,
    is_taken,
)
from bluesminds.common.crypto import token_digest
from bluesminds.common.emails import require_email
from storage.audit import insert_audit, lock_audit_head
from storage.base import Connection, IntegrityError
from storage.events import insert_event
from storage.sessions import delete_sessions
from storage.settings import delete_setting
from storage.single_use_tokens import TokenRow, delete_tokens, insert_token, select_token, use_token
from storage.users import UserRow, select_user, select_user_by_email, update_user


class EmailVerification(Struct, frozen=True):
    context: AccountContext

    async def resend(self, actor: Actor, *, email: str) -> None:
        """Mail a new link if the address is not confirmed yet. Raises InvalidRequest, RateLimited."""
        self.context.throttle.check_public_form(actor.address)
        email = require_email(email)
        may_mail = self.context.throttle.allow_mail("verify_email", email)
        await self.context.store.write(self._resend, actor, email, may_mail)
        self.context.outbox.wake()

    async def verify(self, actor: Actor, *, token: str, password: str) -> UserRow:
        """Confirm an address; the updated user.

        Raises Forbidden for an invalid token, Unauthenticated for a wrong password, after which the token
        stays valid, Conflict for an address that another account uses by now, RateLimited.
        """
        self.context.throttle.check_public_form(actor.address)
        store, now = self.context.store, self.context.clock.now_ms()
        row = await store.read(select_token, token_digest(token), "verify_email", now)
        user = None if row is None or row.user_id is None else await store.read(select_user, row.user_id)
        if row is None or user is None:
            raise invalid_token()
        if not await self.context.passwords.verify(password, user.password_hash):
            raise invalid_credentials()
        try:
            confirmed = await store.write(self._verify, actor, row, user)
        except IntegrityError as exc:
            raise email_taken() from exc
        self.context.outbox.wake()
        return confirmed

    async def create_link(self, connection: Connection, user_id: str, email: str) -> None:
        """Part of a transaction: mail a link that replaces earlier ones."""
        await delete_tokens(connection, user_id, "verify_email")
        seconds = self.context.settings.verify_lifetime
        row, token = new_token(self.context.clock, "verify_email", email, user_id=user_id, seconds=seconds)
        await insert_token(connection, row)
        await self.context.outbox.insert(
            connection, self.context.templates.verify(email, token), lifetime=seconds
        )

    async def insert_decoy(self, connection: Connection, email: str) -> None:
        """Part of a transaction that sends no mail: it takes as long as one that does."""
        mail = self.context.templates.verify(email, secrets.token_urlsafe(32))
        await self.context.outbox.insert(connection, mail, decoy=True)

    async def confirm(
        self, connection: Connection, actor: Actor, action: str, before: UserRow, after: UserRow
    ) -> UserRow:
        """Part of a transaction: store an account whose address is proven now.

        An address in `admin_emails` gives the role only when it is new: a demoted administrator does not get
        the role back by a password reset.
        """
        email = (after.email or "").lower()
        is_new = before.email_verified_at is None or email != (before.email or "").lower()
        after = replace(after, email_verified_at=self.context.clock.now_ms())
        if is_new and email in {admin.lower() for admin in self.context.settings.admin_emails}:
            after = replace(after, role="admin")
        logged = audit_fields(after) | await end_invites(connection, after)
        audit = entry(self.context.clock, actor, action, after.id, before=audit_fields(before), after=logged)
        await insert_audit(connection, audit)
        await update_user(connection, after)
        if before.email_verified_at is None:
            await insert_event(connection, created_event(self.context.clock.now_ms(), after))
        # Links that were sent to another address, or for another password, are no longer valid.
        await delete_tokens(connection, after.id, "reset_password")
        await delete_tokens(connection, after.id, "verify_email")
        if after.role != before.role:
            await delete_sessions(connection, after.id)
            await delete_setting(connection, BOOTSTRAP)
        return after

    async def _resend(self, connection: Connection, actor: Actor, email: str, may_mail: bool) -> None:
        await lock_audit_head(connection)
        user = await select_user_by_email(connection, email)
        # If no mail may be sent, the existing link must stay valid.
        if user is None or is_taken(user) or not may_mail:
            await self.insert_decoy(connection, email)
            return
        await insert_audit(connection, entry(self.context.clock, actor, "email.resend", user.id))
        await self.create_link(connection, user.id, email)

    async def _verify(self, connection: Connection, actor: Actor, row: TokenRow, proven: UserRow) -> UserRow:
        await lock_audit_head(connection)
        if not await use_token(connection, row.digest, "verify_email", self.context.clock.now_ms()):
            raise invalid_token()
        user = await select_user(connection, proven.id)
        if user is None or user.password_hash != proven.password_hash or user.disabled_at is not None:
            raise invalid_credentials()
        confirmed = await self.confirm(
            connection, actor, "email.verify", user, replace(user, email=row.email)
        )
        if user.email_verified_at is not None and user.email is not None and user.email != confirmed.email:
            await self.context.outbox.insert(connection, self.context.templates.email_changed(user.email))
        return confirmed
