"""Login sessions. The token is shown once and stored as a digest.

Nothing is cached: each lookup reads the session and its account, so that a revoked session or a disabled
account takes effect with the next request, in every process on the same database.
"""

import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from msgspec import Struct

from bluesminds.accounts.audit import Actor, entry
from bluesminds.common.clock import Clock
from bluesminds.common.crypto import token_digest, uuid7
from bluesminds.common.errors import NotFound
from bluesminds.notify.events import new_event
from storage.audit import AuditQuery, insert_audit, lock_audit_head, select_audit
from storage.base import Connection, StorageError, Store
from storage.events import insert_event
from storage.sessions import (
    SessionRow,
    delete_oldest_sessions,
    delete_session,
    delete_sessions,
    insert_session,
    select_last_seen,
    select_session,
    select_sessions,
    touch_session,
)
from storage.users import Role

PREFIX: Final = "bms_"
TOUCH_INTERVAL_MS: Final = 60_000  # the last use of a session is stored at most this often
_TOKEN: Final = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")


class ActiveSession(Struct, frozen=True):
    """`csrf` is the token that a browser must send with every change."""

    user_id: str
    role: Role
    session_id: str
    csrf: str
    full_name: str
    email: str | None
    has_second_factor: bool


class NewSession(Struct, frozen=True):
    """A new session. `token` is shown once."""

    row: SessionRow
    token: str
    csrf: str

    def __repr__(self) -> str:
        return f"NewSession({self.row.id!r})"


class Sessions:
    """`idle` and `lifetime` are in seconds. A user has at most `keep` sessions; a new one replaces the
    oldest.
    """

    def __init__(
        self, store: Store, *, pepper: bytes, clock: Clock, idle: float, lifetime: float, keep: int
    ) -> None:
        self._store = store
        self._csrf_key = hmac.digest(pepper, b"bluesminds csrf", "sha256")
        self._clock = clock
        self._idle_ms = int(idle * 1000)
        self._lifetime_ms = int(lifetime * 1000)
        self._keep = keep

    async def find(self, token: str, address: str) -> ActiveSession | None:
        """None for a token that is unknown, expired or revoked, and for a disabled user."""
        if not _TOKEN.fullmatch(token):
            return None
        found = await self._store.read(select_session, token_digest(token))
        now = self._clock.now_ms()
        if found is None or found.user_disabled_at is not None or not self._is_active(found.session, now):
            return None
        row = found.session
        if now - row.last_seen_at >= TOUCH_INTERVAL_MS:
            with suppress(StorageError):  # a database that cannot be written can still be read
                await self._store.write(touch_session, row.digest, now, address)
        csrf = self._csrf(row.digest)
        return ActiveSession(
            user_id=row.user_id,
            role=found.role,
            session_id=row.id,
            csrf=csrf,
            full_name=found.full_name,
            email=found.email,
            has_second_factor=bool(found.has_second_factor),  # SQLite has 0 and 1
        )

    def new(self, user_id: str, *, address: str, user_agent: str) -> NewSession:
        """A session that is valid when `insert` has stored it."""
        token = PREFIX + secrets.token_urlsafe(32)
        now = self._clock.now_ms()
        row = SessionRow(
            digest=token_digest(token),
            id=uuid7(now),
            user_id=user_id,
            created_at=now,
            expires_at=now + self._lifetime_ms,
            last_seen_at=now,
            address=address,
            user_agent=user_agent,
        )
        return NewSession(row, token, self._csrf(row.digest))

    async def insert(self, connection: Connection, session: NewSession) -> None:
        """Part of a transaction."""
        # Delete before inserting: if the clock was set back, the new session would look like the oldest.
        await delete_oldest_sessions(connection, session.row.user_id, self._keep - 1)
        await insert_session(connection, session.row)

    async def announce(self, connection: Connection, session: NewSession, method: str) -> None:
        """Part of a transaction, before `insert` and after the audit entry: an event for a sign-in from
        another browser or address than those of the active sessions. The first one of an account is not an
        event. `method` is "password" or the name of a provider.
        """
        row = session.row
        begun = AuditQuery(before=2**62, limit=2, action="session.begin", subject=row.user_id)
        if len(await select_audit(connection, begun)) < 2:
            return
        known = await self._active_sessions(connection, row.user_id)
        if all((one.address, one.user_agent) != (row.address, row.user_agent) for one in known):
            data = {
                "user_id": row.user_id,
                "session_id": row.id,
                "address": row.address,
                "user_agent": row.user_agent,
                "method": method,
            }
            await insert_event(connection, new_event(row.created_at, "sign_in.new", row.user_id, data))

    async def list(self, user_id: str) -> Sequence[SessionRow]:
        """The active sessions of a user, newest first."""
        return (await self._store.read(self._active_sessions, user_id))[::-1]

    async def last_seen(self, user_ids: Sequence[str]) -> Mapping[str, int]:
        """When each of these users was seen last, of those with a session."""
        return await self._store.read(select_last_seen, user_ids) if user_ids else {}

    async def revoke(self, actor: Actor, user_id: str, session_id: str) -> None:
        """Raises NotFound."""
        await self._store.write(self._revoke, actor, user_id, session_id)

    async def revoke_others(self, actor: Actor, user_id: str, session_id: str) -> None:
        """Revoke all sessions of a user except this one."""
        await self._store.write(self._revoke_all_but, actor, "session.end_others", user_id, session_id)

    async def revoke_all(self, actor: Actor, user_id: str) -> None:
        """Revoke all sessions of a user."""
        await self._store.write(self._revoke_all_but, actor, "session.end_all", user_id, "")

    async def revoke_token(self, connection: Connection, actor: Actor, token: str) -> None:
        """Part of a transaction: revoke the session with this token, if there is one."""
        found = await select_session(connection, token_digest(token)) if _TOKEN.fullmatch(token) else None
        if found is not None and self._is_active(row := found.session, self._clock.now_ms()):
            audit = entry(self._clock, actor, "session.end", row.user_id, before={"session_id": row.id})
            await insert_audit(connection, audit)
            await delete_session(connection, row.user_id, row.id)

    def idle_since(self, now: int) -> int:
        """Sessions that were last used before this time have expired. Milliseconds since the epoch."""
        return now - self._idle_ms

    def _is_active(self, row: SessionRow, now: int) -> bool:
        return now < row.expires_at and row.last_seen_at > self.idle_since(now)

    def _csrf(self, digest: bytes) -> str:
        return hmac.digest(self._csrf_key, digest, "sha256").hex()

    async def _active_sessions(self, connection: Connection, user_id: str) -> Sequence[SessionRow]:
        now = self._clock.now_ms()
        return [row for row in await select_sessions(connection, user_id) if self._is_active(row, now)]

    async def _revoke(self, connection: Connection, actor: Actor, user_id: str, session_id: str) -> None:
        await lock_audit_head(connection)
        if all(row.id != session_id for row in await self._active_sessions(connection, user_id)):
            raise NotFound("session_not_found", "There is no session with this id.")
        audit = entry(self._clock, actor, "session.end", user_id, before={"session_id": session_id})
        await insert_audit(connection, audit)
        await delete_session(connection, user_id, session_id)

    async def _revoke_all_but(
        self, connection: Connection, actor: Actor, action: str, user_id: str, but: str
    ) -> None:
        await lock_audit_head(connection)
        revoked = [row.id for row in await self._active_sessions(connection, user_id) if row.id != but]
        if revoked:
            await insert_audit(
                connection, entry(self._clock, actor, action, user_id, before={"session_ids": revoked})
            )
            await delete_sessions(connection, user_id, but=but)
