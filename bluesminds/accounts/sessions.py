"""Sessions: who is signed in. The token is shown once and kept as a digest.

Nothing is cached: each look-up reads the session together with its account, so a session that has been ended,
or whose account has been disabled, is over for the very next request, in every process on the same database.
"""

import hmac
import re
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from msgspec import Struct

from bluesminds.accounts.audit import Actor, entry
from bluesminds.common.clock import Clock
from bluesminds.common.crypto import token_digest, uuid7
from bluesminds.common.errors import NotFound
from storage.audit import insert_audit, lock_audit_head
from storage.base import Connection, StorageError, Store
from storage.sessions import (
    SessionRow,
    delete_oldest_sessions,
    delete_session,
    delete_sessions,
    insert_session,
    select_session,
    select_sessions,
    touch_session,
)
from storage.users import Role

PREFIX: Final = "bms_"
SEEN_EVERY_MS: Final = 60_000  # how often at most the last use of a session is written down
_SHAPE: Final = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")


class ActiveSession(Struct, frozen=True):
    """A live session. `csrf` is what a browser must send along with a change."""

    user_id: str
    role: Role
    session_id: str
    csrf: str


class NewSession(Struct, frozen=True):
    """A session just made. `token` is to be shown once."""

    row: SessionRow
    token: str
    csrf: str

    def __repr__(self) -> str:
        return f"Opened({self.row.id!r})"


class Sessions:
    """`idle` and `lifetime` are in seconds. A user has at most `keep` sessions: the oldest ends for a new
    one.
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
        """None for a token that is unknown, over, or of a disabled user."""
        if not _SHAPE.fullmatch(token):
            return None
        found = await self._store.read(select_session, token_digest(token))
        now = self._clock.now_ms()
        if found is None or found.user_disabled_at is not None or not self._is_live(found.session, now):
            return None
        row = found.session
        if now - row.last_seen_at >= SEEN_EVERY_MS:
            with suppress(StorageError):  # while nothing can be written one may still look
                await self._store.write(touch_session, row.digest, now, address)
        return ActiveSession(row.user_id, found.role, row.id, self._csrf(row.digest))

    def new(self, user_id: str, *, address: str, user_agent: str) -> NewSession:
        """A session that begins when `open_in` has stored it."""
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

    async def open_in(self, connection: Connection, opened: NewSession) -> None:
        """Part of a unit of work."""
        # Before it is there: while the clock is behind where it was, the newest session looks the oldest.
        await delete_oldest_sessions(connection, opened.row.user_id, self._keep - 1)
        await insert_session(connection, opened.row)

    async def list(self, user_id: str) -> Sequence[SessionRow]:
        """A user's live sessions, the newest first."""
        return (await self._store.read(self._live_in, user_id))[::-1]

    async def end(self, actor: Actor, user_id: str, session_id: str) -> None:
        """In force when this returns. Raises NotFound."""
        await self._store.write(self._end, actor, user_id, session_id)

    async def end_others(self, actor: Actor, user_id: str, session_id: str) -> None:
        """Leave a user nothing but this session."""
        await self._store.write(self._end_but, actor, "session.end_others", user_id, session_id)

    async def end_all(self, actor: Actor, user_id: str) -> None:
        """Sign a user out everywhere. In force when this returns."""
        await self._store.write(self._end_but, actor, "session.end_all", user_id, "")

    async def end_in(self, connection: Connection, actor: Actor, token: str) -> None:
        """Part of a unit of work: end whatever session the token is of."""
        found = await select_session(connection, token_digest(token)) if _SHAPE.fullmatch(token) else None
        if found is not None and self._is_live(row := found.session, self._clock.now_ms()):
            audit = entry(self._clock, actor, "session.end", row.user_id, before={"session_id": row.id})
            await insert_audit(connection, audit)
            await delete_session(connection, row.user_id, row.id)

    def idle_since(self, now: int) -> int:
        """Sessions not used since then are over."""
        return now - self._idle_ms

    def _is_live(self, row: SessionRow, now: int) -> bool:
        return now < row.expires_at and row.last_seen_at > self.idle_since(now)

    def _csrf(self, digest: bytes) -> str:
        return hmac.digest(self._csrf_key, digest, "sha256").hex()

    async def _live_in(self, connection: Connection, user_id: str) -> Sequence[SessionRow]:
        now = self._clock.now_ms()
        return [row for row in await select_sessions(connection, user_id) if self._is_live(row, now)]

    async def _end(self, connection: Connection, actor: Actor, user_id: str, session_id: str) -> None:
        await lock_audit_head(connection)
        if all(row.id != session_id for row in await self._live_in(connection, user_id)):
            raise NotFound("session_not_found", "There is no session with this id.")
        audit = entry(self._clock, actor, "session.end", user_id, before={"session_id": session_id})
        await insert_audit(connection, audit)
        await delete_session(connection, user_id, session_id)

    async def _end_but(
        self, connection: Connection, actor: Actor, action: str, user_id: str, but: str
    ) -> None:
        await lock_audit_head(connection)
        ended = [row.id for row in await self._live_in(connection, user_id) if row.id != but]
        if ended:
            await insert_audit(
                connection, entry(self._clock, actor, action, user_id, before={"session_ids": ended})
            )
            await delete_sessions(connection, user_id, but=but)
