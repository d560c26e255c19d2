"""Users, and how the first administrator comes to be.

Keys made at the command line belong to one plain user, the local operator. While there is no administrator
every start makes a new bootstrap token, shown once and kept as a digest; whoever presents it becomes the
first administrator, and the token is gone.
"""

import hmac
import secrets

from bluesminds.accounts.audit import Actor, entry
from bluesminds.clock import Clock
from bluesminds.crypto import token_digest, uuid7
from bluesminds.errors import Conflict as EmailTaken
from bluesminds.errors import Forbidden, InvalidRequest
from storage.audit import AuditRow, insert_audit
from storage.base import Conflict, Connection, Store
from storage.members import Role, UserRow, has_admin, insert_user, select_users
from storage.settings import delete_setting, put_setting, select_setting

BOOTSTRAP = "bootstrap_token_sha256"
LOCAL_USER = "local_user_id"


class Members:
    def __init__(self, store: Store, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def has_admin(self) -> bool:
        return await self._store.read(has_admin)

    async def local_user(self, actor: Actor) -> tuple[str, bool]:
        """The id of the user who owns the keys made at the command line, and whether it was made just now."""
        user = self._user("user", email=None, full_name="Local operator", password_hash=None)
        return await self._store.write(_local_user, user, entry(self._clock, actor, "user.create", user.id))

    async def new_bootstrap_token(self, actor: Actor) -> str | None:
        """A token to be shown once, in the place of any before it; None when there is an administrator."""
        token = secrets.token_urlsafe(32)
        audit = entry(self._clock, actor, "bootstrap.issue", BOOTSTRAP)
        issued = await self._store.write(_issue_token, token_digest(token).hex(), audit)
        return token if issued else None

    async def require_token(self, token: str) -> None:
        """Raises Forbidden for a wrong or used token, before anything expensive is done for a stranger."""
        expected = await self._store.read(select_setting, BOOTSTRAP)
        if expected is None or not hmac.compare_digest(expected, token_digest(token).hex()):
            raise _bad_token()

    async def claim(self, actor: Actor, *, token: str, email: str, password_hash: str) -> UserRow:
        """The first administrator. Raises Forbidden for a wrong or used token, EmailTaken."""
        user = self._user("admin", email=email, full_name="", password_hash=password_hash)
        audit = entry(self._clock, actor, "admin.claim", user.id, email=email)
        try:
            claimed = await self._store.write(_claim, user, token_digest(token).hex(), audit)
        except Conflict as exc:
            raise EmailTaken("email_taken", "There is already an account with this address.") from exc
        if not claimed:
            raise _bad_token()
        return user

    async def create(self, actor: Actor, *, role: Role, email: str, password_hash: str) -> UserRow:
        """Raises EmailTaken. The first administrator made this way ends the bootstrap token."""
        user = self._user(role, email=email, full_name="", password_hash=password_hash)
        audit = entry(self._clock, actor, "user.create", user.id, email=email, role=role)
        try:
            await self._store.write(_create, user, audit)
        except Conflict as exc:
            raise EmailTaken("email_taken", "There is already an account with this address.") from exc
        return user

    async def list(self) -> list[UserRow]:
        return list(await self._store.read(select_users))

    def _user(self, role: Role, *, email: str | None, full_name: str, password_hash: str | None) -> UserRow:
        now = self._clock.now_ms()
        return UserRow(
            id=uuid7(now),
            email=email,
            full_name=full_name,
            role=role,
            password_hash=password_hash,
            disabled_at=None,
            created_at=now,
        )


def _bad_token() -> Forbidden:
    return Forbidden("invalid_bootstrap_token", "The bootstrap token is wrong or has been used.")


def require_email(email: str) -> str:
    """A plausible address; only sending mail proves one. Raises InvalidRequest."""
    local, at, domain = email.strip().rpartition("@")
    if not (local and at and "." in domain) or len(email) > 254 or any(c.isspace() for c in local + domain):
        raise InvalidRequest("invalid_email", "This is not an e-mail address.", param="email")
    return email.strip()


async def _local_user(connection: Connection, user: UserRow, audit: AuditRow) -> tuple[str, bool]:
    existing = await select_setting(connection, LOCAL_USER)
    if existing is not None:
        return existing, False
    await put_setting(connection, LOCAL_USER, user.id)
    await insert_audit(connection, audit)
    await insert_user(connection, user)
    return user.id, True


async def _issue_token(connection: Connection, digest: str, audit: AuditRow) -> bool:
    if await has_admin(connection):
        return False
    await put_setting(connection, BOOTSTRAP, digest)
    await insert_audit(connection, audit)
    return True


async def _create(connection: Connection, user: UserRow, audit: AuditRow) -> None:
    if user.role == "admin":
        await delete_setting(connection, BOOTSTRAP)
    await insert_audit(connection, audit)
    await insert_user(connection, user)


async def _claim(connection: Connection, user: UserRow, digest: str, audit: AuditRow) -> bool:
    expected = await select_setting(connection, BOOTSTRAP)
    if expected is None or not hmac.compare_digest(expected, digest):
        return False
    await delete_setting(connection, BOOTSTRAP)
    await insert_audit(connection, audit)
    await insert_user(connection, user)
    return True
