"""Password reset with a mailed link, which also confirms the address."""

from dataclasses import replace

from msgspec import Struct

from bluesminds.accounts.audit import Actor, entry
from bluesminds.accounts.context import AccountContext
from bluesminds.accounts.email_verification import EmailVerification
from bluesminds.accounts.single_use_tokens import invalid_token, new_token
from bluesminds.accounts.users import no_such_user
from bluesminds.common.crypto import is_uuid, token_digest
from bluesminds.common.emails import require_email
from bluesminds.common.errors import Conflict
from storage.audit import insert_audit, lock_audit_head
from storage.base import Connection
from storage.sessions import delete_sessions
from storage.single_use_tokens import TokenRow, insert_token, select_token, use_token
from storage.users import select_user, select_user_by_email


class ResetLink(Struct, frozen=True):
    """`url` contains the token and is shown once. `expires_at` is in milliseconds since the epoch."""

    email: str
    url: str
    expires_at: int

    def __repr__(self) -> str:
        return f"ResetLink(expires_at={self.expires_at!r})"


class PasswordReset(Struct, frozen=True):
    context: AccountContext
    verification: EmailVerification

    async def request(self, actor: Actor, *, email: str) -> None:
        """Mail a link if the address has an account. Raises InvalidRequest, RateLimited."""
        self.context.throttle.check_public_form(actor.address)
        email = require_email(email)
        may_mail = self.context.throttle.allow_mail("reset_password", email)
        await self.context.store.write(self._request, actor, email, may_mail)
        self.context.outbox.wake()

    async def reset(self, actor: Actor, *, token: str, password: str) -> None:
        """Set a new password and end all sessions. Raises Forbidden for an invalid token, InvalidRequest,
        RateLimited.
        """
        self.context.throttle.check_public_form(actor.address)
        now = self.context.clock.now_ms()
        if await self.context.store.read(select_token, token_digest(token), "reset_password", now) is None:
            raise invalid_token()
        password_hash = await self.context.passwords.hash(password)
        await self.context.store.write(self._reset, actor, token, password_hash)
        self.context.outbox.wake()

    async def create_link(self, actor: Actor, user_id: str) -> ResetLink:
        """For an administrator. The link is also mailed to the user. Raises NotFound, Conflict."""
        if not is_uuid(user_id):
            raise no_such_user()
        row, token = await self.context.store.write(self._create_link, actor, user_id)
        self.context.outbox.wake()
        return ResetLink(row.email, self.context.templates.reset_link(token), row.expires_at)

    async def _request(self, connection: Connection, actor: Actor, email: str, may_mail: bool) -> None:
        await lock_audit_head(connection)
        user = await select_user_by_email(connection, email)
        if user is None or user.disabled_at is not None or not may_mail:
            await self.verification.insert_decoy(connection, email)
            return
        await insert_audit(connection, entry(self.context.clock, actor, "password.forgot", user.id))
        await self._insert_token(connection, user.id, user.email or email)

    async def _reset(self, connection: Connection, actor: Actor, token: str, password_hash: str) -> None:
        await lock_audit_head(connection)
        digest, now = token_digest(token), self.context.clock.now_ms()
        row = await select_token(connection, digest, "reset_password", now)
        if row is None or row.user_id is None:
            raise invalid_token()
        user = await select_user(connection, row.user_id)
        if user is None or user.disabled_at is not None or user.email != row.email:
            raise invalid_token()
        if not await use_token(connection, digest, "reset_password", now):
            raise invalid_token()
        changed = replace(user, password_hash=password_hash)
        await self.verification.confirm(connection, actor, "password.reset", user, changed)
        await delete_sessions(connection, user.id)
        await self.context.outbox.insert(connection, self.context.templates.password_changed(row.email))

    async def _create_link(self, connection: Connection, actor: Actor, user_id: str) -> tuple[TokenRow, str]:
        await lock_audit_head(connection)
        user = await select_user(connection, user_id)
        if user is None:
            raise no_such_user()
        if user.email is None:
            raise Conflict("user_without_email", "This user has no e-mail address and cannot sign in.")
        await insert_audit(connection, entry(self.context.clock, actor, "password.reset_link", user_id))
        return await self._insert_token(connection, user_id, user.email)

    async def _insert_token(self, connection: Connection, user_id: str, email: str) -> tuple[TokenRow, str]:
        seconds = self.context.settings.reset_lifetime
        row, token = new_token(self.context.clock, "reset_password", email, user_id=user_id, seconds=seconds)
        await insert_token(connection, row)
        await self.context.outbox.insert(
            connection, self.context.templates.reset(email, token), lifetime=seconds
        )
        return row, token
