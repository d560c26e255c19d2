"""Everything in which a mailbox proves something: signing up, confirming an address, a forgotten password.

Answers do not tell whether an address has an account: whoever asks gets the same answer after the same work,
and the truth goes to the mailbox. A link confirms an address only together with the password of its account,
so that nobody can have somebody else confirm an account for him. The addresses that the settings name for
administrators make one when they are confirmed, never before.

The audit log gets what changes something. What strangers ask in vain is not in it: they could fill it.
"""

import secrets
from dataclasses import replace
from typing import Final

from msgspec import Struct

from bluesminds.accounts.audit import Actor, entry
from bluesminds.accounts.login import invalid_credentials
from bluesminds.accounts.throttle import Throttle
from bluesminds.accounts.tokens import invalid_token, new_token
from bluesminds.accounts.users import (
    BOOTSTRAP,
    email_taken,
    end_invites,
    is_taken,
    new_user,
    no_such_user,
    seen,
)
from bluesminds.common.clock import Clock
from bluesminds.common.crypto import is_uuid, token_digest
from bluesminds.common.emails import require_email
from bluesminds.common.errors import Conflict, Forbidden
from bluesminds.config import AccountSettings
from bluesminds.identity.password import Passwords
from bluesminds.notify.mail import Mail
from bluesminds.notify.mail_queue import MailQueue
from bluesminds.notify.mail_templates import MailTemplates
from storage.audit import insert_audit, lock_audit_head
from storage.base import Connection, IntegrityError, Store
from storage.sessions import delete_sessions
from storage.settings import delete_setting, put_setting
from storage.single_use_tokens import TokenRow, delete_tokens, insert_token, select_token, use_token
from storage.users import UserRow, insert_user, select_user, select_user_by_email, update_user

IN_VAIN: Final = "asked_in_vain"


class ResetLink(Struct, frozen=True):
    """To be shown once. `expires_at` in milliseconds since the epoch."""

    email: str
    url: str
    expires_at: int

    def __repr__(self) -> str:
        return f"ResetLink(expires_at={self.expires_at!r})"


class Mailboxes:
    """Every method that anybody may call raises RateLimited."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        passwords: Passwords,
        throttle: Throttle,
        mail_queue: MailQueue,
        templates: MailTemplates,
        settings: AccountSettings,
    ) -> None:
        self._store = store
        self._clock = clock
        self._passwords = passwords
        self._throttle = throttle
        self._mail_queue = mail_queue
        self._templates = templates
        self._settings = settings
        self._admins = frozenset(email.lower() for email in settings.admin_emails)

    async def sign_up(
        self, actor: Actor, *, email: str, password: str, full_name: str, invite: str | None
    ) -> None:
        """An account that can be used once its address is confirmed; with an invitation at once.

        Raises Forbidden when strangers, or those without a good invitation, are not taken; InvalidRequest.
        """
        self._require_open(invite)
        self._throttle.check_public_form(actor.address)
        email = require_email(email)
        password_hash = await self._passwords.hash(password)
        user = new_user(
            self._clock,
            "user",
            email=email,
            password_hash=password_hash,
            full_name=full_name,
            tier=self._settings.default_tier,
        )
        may_mail = invite is not None or self._throttle.allow_mail("verify_email", email)
        self._post(await self._store.write(self._sign_up, actor, user, invite, may_mail))

    async def resend(self, actor: Actor, *, email: str) -> None:
        """Send a new link to an address that waits for its confirmation. Raises InvalidRequest."""
        self._throttle.check_public_form(actor.address)
        email = require_email(email)
        may_mail = self._throttle.allow_mail("verify_email", email)
        self._post(await self._store.write(self._resend, actor, email, may_mail))

    async def verify(self, actor: Actor, *, token: str, password: str) -> UserRow:
        """The user whose address is confirmed. Raises Forbidden for a token that is no good, Unauthenticated
        for a wrong password, which leaves the token good, and Conflict.
        """
        self._throttle.check_public_form(actor.address)
        row = await self._store.read(select_token, token_digest(token), "verify_email", self._clock.now_ms())
        user = (
            None if row is None or row.user_id is None else await self._store.read(select_user, row.user_id)
        )
        if row is None or user is None:
            raise invalid_token()
        if not await self._passwords.verify(password, user.password_hash):
            raise invalid_credentials()
        try:
            confirmed = await self._store.write(self._verify, actor, row, user)
        except IntegrityError as exc:
            raise email_taken() from exc
        if user.email_verified_at is not None and user.email is not None and user.email != confirmed.email:
            self._mail_queue.post(self._templates.email_changed(user.email))
        return confirmed

    async def change(self, actor: Actor, user: UserRow, *, email: str) -> None:
        """Send a link to the new address of a user who has given the password; following it changes the
        address. Raises InvalidRequest.
        """
        self._throttle.check_public_form(actor.address)
        email = require_email(email)
        may_mail = self._throttle.allow_mail("verify_email", email)
        self._post(await self._store.write(self._change, actor, user, email, may_mail))

    async def forgot(self, actor: Actor, *, email: str) -> None:
        """Raises InvalidRequest."""
        self._throttle.check_public_form(actor.address)
        email = require_email(email)
        may_mail = self._throttle.allow_mail("reset_password", email)
        self._post(await self._store.write(self._forgot, actor, email, may_mail))

    async def reset(self, actor: Actor, *, token: str, password: str) -> None:
        """Set a new password; every session ends. Raises Forbidden for a token that is no good,
        InvalidRequest.
        """
        self._throttle.check_public_form(actor.address)
        now = self._clock.now_ms()
        if await self._store.read(select_token, token_digest(token), "reset_password", now) is None:
            raise invalid_token()
        password_hash = await self._passwords.hash(password)
        user = await self._store.write(self._reset, actor, token, password_hash)
        if user.email is not None:
            self._mail_queue.post(self._templates.password_changed(user.email))

    async def reset_link(self, actor: Actor, user_id: str) -> ResetLink:
        """By an administrator, for somebody who is locked out. Raises NotFound, Conflict."""
        if not is_uuid(user_id):
            raise no_such_user()
        row, token = await self._store.write(self._reset_link, actor, user_id)
        self._mail_queue.post(self._templates.reset(row.email, token))
        return ResetLink(row.email, self._templates.reset_link(token), row.expires_at)

    def _require_open(self, invite: str | None) -> None:
        if self._settings.signup == "closed":
            raise Forbidden("signup_closed", "Accounts are made by an administrator here.")
        if self._settings.signup == "invite" and invite is None:
            raise Forbidden(
                "invite_required", "Signing up takes an invitation. Ask an administrator for one."
            )

    def _post(self, mail: Mail | None) -> None:
        if mail is not None:
            self._mail_queue.post(mail)

    async def _sign_up(
        self, connection: Connection, actor: Actor, new: UserRow, invite: str | None, may_mail: bool
    ) -> Mail | None:
        await lock_audit_head(connection)
        email = new.email or ""
        if invite is not None:
            await self._use_invite(connection, actor, invite, email)
        known = await select_user_by_email(connection, email)
        if is_taken(known) or not may_mail:
            if invite is None:
                await _change_nothing(connection)
            has_account = known is not None and is_taken(known) and known.disabled_at is None
            return self._templates.taken(email) if has_account and may_mail else None
        user = await self._write_stranger(connection, actor, known, new)
        if invite is None:
            return await self._verification(connection, user.id, email)
        await self._confirm(connection, actor, "email.verify", user, user)
        return None

    async def _write_stranger(
        self, connection: Connection, actor: Actor, known: UserRow | None, new: UserRow
    ) -> UserRow:
        """An account that waits for its confirmation; the latest who asks for one address decides of it."""
        if known is None:
            after = entry(self._clock, actor, "user.signup", new.id, after=seen(new))
            await insert_audit(connection, after)
            await insert_user(connection, new)
            return new
        user = replace(known, email=new.email, full_name=new.full_name, password_hash=new.password_hash)
        change = entry(self._clock, actor, "user.signup", user.id, before=seen(known), after=seen(user))
        await insert_audit(connection, change)
        await update_user(connection, user)
        return user

    async def _use_invite(self, connection: Connection, actor: Actor, invite: str, email: str) -> None:
        digest, now = token_digest(invite), self._clock.now_ms()
        row = await select_token(connection, digest, "invite", now)
        if row is None or row.email.lower() != email.lower():
            raise invalid_token()
        if not await use_token(connection, digest, "invite", now):
            raise invalid_token()
        audit = entry(self._clock, actor, "invite.use", row.email, before={"invite_id": row.id})
        await insert_audit(connection, audit)

    async def _verification(self, connection: Connection, user_id: str, email: str) -> Mail:
        """A link that takes the place of those before it."""
        await delete_tokens(connection, user_id, "verify_email")
        seconds = self._settings.verify_lifetime
        row, token = new_token(self._clock, "verify_email", email, user_id=user_id, seconds=seconds)
        await insert_token(connection, row)
        return self._templates.verify(email, token)

    async def _resend(self, connection: Connection, actor: Actor, email: str, may_mail: bool) -> Mail | None:
        await lock_audit_head(connection)
        user = await select_user_by_email(connection, email)
        # Without a mail the link that is there stays good.
        if user is None or is_taken(user) or not may_mail:
            await _change_nothing(connection)
            return None
        await insert_audit(connection, entry(self._clock, actor, "email.resend", user.id))
        return await self._verification(connection, user.id, email)

    async def _change(
        self, connection: Connection, actor: Actor, user: UserRow, email: str, may_mail: bool
    ) -> Mail | None:
        await lock_audit_head(connection)
        taken = await select_user_by_email(connection, email)
        if not may_mail:
            await _change_nothing(connection)
            return None
        if taken is not None and taken.id != user.id:
            await _change_nothing(connection)
            return self._templates.taken(email)
        audit = entry(self._clock, actor, "email.change", user.id, after={"email": email})
        await insert_audit(connection, audit)
        return await self._verification(connection, user.id, email)

    async def _verify(self, connection: Connection, actor: Actor, row: TokenRow, proven: UserRow) -> UserRow:
        await lock_audit_head(connection)
        now = self._clock.now_ms()
        if not await use_token(connection, row.digest, "verify_email", now):
            raise invalid_token()
        user = await select_user(connection, proven.id)
        if user is None or user.password_hash != proven.password_hash or user.disabled_at is not None:
            raise invalid_credentials()
        return await self._confirm(connection, actor, "email.verify", user, replace(user, email=row.email))

    async def _confirm(
        self, connection: Connection, actor: Actor, action: str, before: UserRow, after: UserRow
    ) -> UserRow:
        """Write an account whose mailbox has just proven itself. What was proven before makes nobody an
        administrator again who has been demoted since.
        """
        email = (after.email or "").lower()
        is_news = before.email_verified_at is None or email != (before.email or "").lower()
        after = replace(after, email_verified_at=self._clock.now_ms())
        if is_news and email in self._admins:
            after = replace(after, role="admin")
        told = seen(after) | await end_invites(connection, after)
        audit = entry(self._clock, actor, action, after.id, before=seen(before), after=told)
        await insert_audit(connection, audit)
        await update_user(connection, after)
        # What was sent to another address, or for another password, is worth nothing any more.
        await delete_tokens(connection, after.id, "reset_password")
        await delete_tokens(connection, after.id, "verify_email")
        if after.role != before.role:
            await delete_sessions(connection, after.id)
            await delete_setting(connection, BOOTSTRAP)
        return after

    async def _forgot(self, connection: Connection, actor: Actor, email: str, may_mail: bool) -> Mail | None:
        await lock_audit_head(connection)
        user = await select_user_by_email(connection, email)
        if user is None or user.disabled_at is not None or not may_mail:
            await _change_nothing(connection)
            return None
        await insert_audit(connection, entry(self._clock, actor, "password.forgot", user.id))
        row, token = self._new_reset(user.id, user.email or email)
        await insert_token(connection, row)
        return self._templates.reset(row.email, token)

    def _new_reset(self, user_id: str, email: str) -> tuple[TokenRow, str]:
        seconds = self._settings.reset_lifetime
        return new_token(self._clock, "reset_password", email, user_id=user_id, seconds=seconds)

    async def _reset(self, connection: Connection, actor: Actor, token: str, password_hash: str) -> UserRow:
        await lock_audit_head(connection)
        digest, now = token_digest(token), self._clock.now_ms()
        row = await select_token(connection, digest, "reset_password", now)
        if row is None or row.user_id is None:
            raise invalid_token()
        user = await select_user(connection, row.user_id)
        if user is None or user.disabled_at is not None or user.email != row.email:
            raise invalid_token()
        if not await use_token(connection, digest, "reset_password", now):
            raise invalid_token()
        changed = replace(user, password_hash=password_hash)
        confirmed = await self._confirm(connection, actor, "password.reset", user, changed)
        await delete_sessions(connection, user.id)
        return confirmed

    async def _reset_link(self, connection: Connection, actor: Actor, user_id: str) -> tuple[TokenRow, str]:
        await lock_audit_head(connection)
        user = await select_user(connection, user_id)
        if user is None:
            raise no_such_user()
        if user.email is None:
            raise Conflict("user_without_email", "This user has no address and signs in nowhere.")
        await insert_audit(connection, entry(self._clock, actor, "password.reset_link", user_id))
        row, token = self._new_reset(user_id, user.email)
        await insert_token(connection, row)
        return row, token


async def _change_nothing(connection: Connection) -> None:
    """Take as long as those who change something: they wait for the disk, and that is most of it."""
    await put_setting(connection, IN_VAIN, secrets.token_hex(16))
