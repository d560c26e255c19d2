"""Login, logout and password change.

A failed login does not reveal whether the account exists: an unknown address, a wrong password and an
unconfirmed address get the same response after the same work. A disabled account is only reported after the
correct password. A login or a password change creates a session; a password change ends all others.
"""

from contextlib import suppress
from dataclasses import replace
from typing import Final

from bluesminds.accounts.audit import Actor, entry
from bluesminds.accounts.context import AccountContext
from bluesminds.accounts.second_factors import SecondFactors, code_required
from bluesminds.accounts.sessions import NewSession, Sessions
from bluesminds.common.emails import read_email
from bluesminds.common.errors import Forbidden, GatewayError, RateLimited, Unauthenticated
from bluesminds.common.log import Log
from storage.audit import AuditRow, insert_audit, lock_audit_head
from storage.base import Connection, StorageError
from storage.sessions import delete_session, delete_sessions
from storage.single_use_tokens import delete_tokens
from storage.users import UserRow, select_user, select_user_by_email, set_password_hash, update_user

RECENT_MS: Final = 900_000


class Login:
    def __init__(
        self, context: AccountContext, sessions: Sessions, second_factors: SecondFactors, log: Log
    ) -> None:
        self._context = context
        self._sessions = sessions
        self._second_factors = second_factors
        self._log = log

    async def login(
        self,
        actor: Actor,
        *,
        email: str,
        password: str,
        user_agent: str,
        code: str | None = None,
        instead_of: str = "",
    ) -> tuple[UserRow, NewSession]:
        """A new session, which replaces the session with the token `instead_of`. `code` is of the second
        factor. Raises Unauthenticated, RateLimited.
        """
        user = await self.authenticate(actor, email, password)
        if await self._second_factors.is_on(user.id):
            await self._check_code(actor, user, code)
        session = self._sessions.new(user.id, address=actor.address, user_agent=user_agent)
        await self._context.store.write(self._login, as_user(actor, user), user, session, instead_of)
        await self._improve_hash(user, password)
        return user, session

    async def _check_code(self, actor: Actor, user: UserRow, code: str | None) -> None:
        if code is None:
            raise code_required()
        try:
            await self._second_factors.check(as_user(actor, user), user.id, code)
        except Unauthenticated:
            self._log.warning("sign_in_failed", client=actor.address, user_id=user.id)
            raise

    async def logout(self, actor: Actor, user_id: str, session_id: str) -> None:
        await self._context.store.write(self._logout, actor, user_id, session_id)

    async def change_password(
        self, actor: Actor, user_id: str, *, current: str, new: str, user_agent: str
    ) -> tuple[UserRow, NewSession]:
        """A new session, which replaces all others. Raises Unauthenticated for a wrong `current`,
        InvalidRequest, RateLimited.
        """
        user = await self.reauthenticate(actor, user_id, current)
        password_hash = await self._context.passwords.hash(new, param="new_password")
        session = self._sessions.new(user.id, address=actor.address, user_agent=user_agent)
        changed = await self._context.store.write(self._change_password, actor, user, password_hash, session)
        self._context.outbox.wake()
        return changed, session

    async def _improve_hash(self, user: UserRow, password: str) -> None:
        """Replace a hash with outdated parameters. A failure is ignored: the next login tries again."""
        if user.password_hash is not None and self._context.passwords.is_outdated(user.password_hash):
            with suppress(GatewayError, StorageError):
                better = await self._context.passwords.hash(password)
                await self._context.store.write(set_password_hash, user.id, user.password_hash, better)

    async def authenticate(self, actor: Actor, email: str, password: str) -> UserRow:
        """The user with this e-mail address and password. Raises Unauthenticated, RateLimited."""
        self._context.throttle.count_login_attempt(email, actor.address)
        address = read_email(email)
        user = None if address is None else await self._context.store.read(select_user_by_email, address)
        return await self._check_password(actor, email, user, password)

    async def reauthenticate(self, actor: Actor, user_id: str, password: str) -> UserRow:
        """The logged-in user, after checking the password again. Raises Unauthenticated, RateLimited."""
        self._context.throttle.count_login_attempt(user_id, actor.address)
        user = await self._context.store.read(select_user, user_id)
        return await self._check_password(actor, user_id, user, password)

    async def require_recent(
        self, actor: Actor, user_id: str, session_id: str, password: str | None
    ) -> UserRow:
        """The logged-in user, after checking the password again. Without one, the session must have begun in
        the last RECENT_MS. Raises Forbidden, Unauthenticated, RateLimited.
        """
        if password is not None:
            return await self.reauthenticate(actor, user_id, password)
        sessions = await self._sessions.list(user_id)
        begun = next((row.created_at for row in sessions if row.id == session_id), 0)
        user = await self._context.store.read(select_user, user_id)
        if user is None or self._context.clock.now_ms() - begun > RECENT_MS:
            raise Forbidden(
                "recent_sign_in_required",
                "Send your password, or sign in again and repeat this within 15 minutes.",
            )
        return user

    async def confirm(self, actor: Actor, user_id: str, session_id: str, password: str | None) -> UserRow:
        """Like `require_recent`, but an account that has a password needs it."""
        user = await self._context.store.read(select_user, user_id)
        has_password = user is not None and user.password_hash is not None
        return await self.require_recent(
            actor, user_id, session_id, (password or "") if has_password else password
        )

    async def _check_password(
        self, actor: Actor, account: str, user: UserRow | None, password: str
    ) -> UserRow:
        try:
            matches = await self._context.passwords.verify(
                password, None if user is None else user.password_hash
            )
        except RateLimited:
            self._context.throttle.release(account, actor.address)
            raise
        if user is None or not matches or user.email_verified_at is None:
            self._log.warning("sign_in_failed", client=actor.address, user_id="" if user is None else user.id)
            raise invalid_credentials()
        self._context.throttle.reset_on_success(account, actor.address)
        if user.disabled_at is not None:
            raise Unauthenticated("user_disabled", "This account is disabled. Contact an administrator.")
        return user

    async def _login(
        self, connection: Connection, actor: Actor, user: UserRow, session: NewSession, instead_of: str
    ) -> None:
        await insert_audit(connection, self._session_entry(actor, "session.begin", session))
        await require_unchanged(connection, user)
        await self._sessions.announce(connection, session, "password")
        await self._sessions.revoke_token(connection, actor, instead_of)
        await self._sessions.insert(connection, session)

    async def _logout(self, connection: Connection, actor: Actor, user_id: str, session_id: str) -> None:
        audit = entry(self._context.clock, actor, "session.end", user_id, before={"session_id": session_id})
        await lock_audit_head(connection)
        if await delete_session(connection, user_id, session_id):
            await insert_audit(connection, audit)

    async def _change_password(
        self, connection: Connection, actor: Actor, user: UserRow, password_hash: str, session: NewSession
    ) -> UserRow:
        await lock_audit_head(connection)
        changed = replace(await require_unchanged(connection, user), password_hash=password_hash)
        await insert_audit(connection, self._session_entry(actor, "password.change", session))
        await update_user(connection, changed)
        await delete_sessions(connection, user.id)
        await delete_tokens(connection, user.id, "reset_password")
        await self._sessions.insert(connection, session)
        if changed.email is not None:
            await self._context.outbox.insert(
                connection, self._context.templates.password_changed(changed.email)
            )
        return changed

    def _session_entry(self, actor: Actor, action: str, session: NewSession) -> AuditRow:
        row = session.row
        after = {"session_id": row.id, "user_agent": row.user_agent}
        return entry(self._context.clock, actor, action, row.user_id, after=after)


def as_user(actor: Actor, user: UserRow) -> Actor:
    """The actor of a login request, as the user it logged in."""
    return Actor(name=user.id, address=actor.address)


def invalid_credentials() -> Unauthenticated:
    return Unauthenticated(
        "invalid_credentials",
        "Wrong e-mail address or password, or the address is not confirmed yet.",
    )


async def require_unchanged(connection: Connection, user: UserRow) -> UserRow:
    """The current account. Raises Unauthenticated if it was disabled or its password changed meanwhile."""
    now = await select_user(connection, user.id)
    if now is None or now.disabled_at is not None or now.password_hash != user.password_hash:
        raise invalid_credentials()
    return now
