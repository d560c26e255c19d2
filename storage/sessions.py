"""Sessions of logged-in users. Only the digest of a session token is stored."""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.base import Connection
from storage.id_lists import IN_POSTGRES, IN_SQLITE, id_list
from storage.users import Role


@dataclass(frozen=True, slots=True)
class SessionRow:
    """`digest` is the 32-byte SHA-256 of the token. Users see and end a session by its `id`."""

    digest: bytes
    id: str
    user_id: str
    created_at: int
    expires_at: int
    last_seen_at: int
    address: str
    user_agent: str


@dataclass(frozen=True, slots=True)
class SessionHolder:
    """A session with the state of its user's account."""

    session: SessionRow
    role: Role
    user_disabled_at: int | None
    full_name: str
    email: str | None
    has_second_factor: bool


async def insert_session(connection: Connection, session: SessionRow) -> None:
    """Raises IntegrityError if the user does not exist."""
    await connection.many(
        """
        INSERT INTO sessions (
            digest, id, user_id, created_at, expires_at, last_seen_at, address, user_agent
        ) VALUES (
            :digest, :id, :user_id, :created_at, :expires_at, :last_seen_at, :address, :user_agent
        )
        """,
        [session],
    )


async def select_session(connection: Connection, digest: bytes) -> SessionHolder | None:
    """The session with this digest, also if it has ended."""
    row = await connection.one(
        """
        SELECT
            digest, sessions.id, user_id, sessions.created_at, expires_at, last_seen_at, address, user_agent,
            role, disabled_at, full_name, email,
            EXISTS (SELECT 1 FROM second_factors WHERE user_id = users.id AND confirmed_at IS NOT NULL)
        FROM sessions JOIN users ON users.id = sessions.user_id
        WHERE digest = :digest
        """,
        digest=digest,
    )
    return None if row is None else SessionHolder(SessionRow(*row[:8]), *row[8:])


async def select_sessions(connection: Connection, user_id: str) -> Sequence[SessionRow]:
    """A user's sessions, oldest first. Includes ended ones that are not deleted yet."""
    rows = await connection.all(
        """
        SELECT digest, id, user_id, created_at, expires_at, last_seen_at, address, user_agent
        FROM sessions WHERE user_id = :user_id ORDER BY id
        """,
        user_id=user_id,
    )
    return [SessionRow(*row) for row in rows]


async def touch_session(connection: Connection, digest: bytes, at: int, address: str) -> None:
    """Store time and address of the last use, unless a later one is stored."""
    await connection.execute(
        """
        UPDATE sessions SET last_seen_at = :at, address = :address
        WHERE digest = :digest AND last_seen_at < :at
        """,
        digest=digest,
        at=at,
        address=address,
    )


async def delete_session(connection: Connection, user_id: str, session_id: str) -> bool:
    """End a user's session. False: there is no such session."""
    ended = await connection.execute(
        "DELETE FROM sessions WHERE id = :session_id AND user_id = :user_id",
        session_id=session_id,
        user_id=user_id,
    )
    return ended == 1


async def delete_sessions(connection: Connection, user_id: str, *, but: str = "") -> int:
    """End all sessions of a user except `but`. Returns how many were ended."""
    return await connection.execute(
        "DELETE FROM sessions WHERE user_id = :user_id AND id <> :but", user_id=user_id, but=but
    )


async def delete_oldest_sessions(connection: Connection, user_id: str, keep: int) -> None:
    """End all but the `keep` newest sessions of a user."""
    await connection.execute(
        """
        DELETE FROM sessions WHERE user_id = :user_id AND id NOT IN (
            SELECT id FROM sessions WHERE user_id = :user_id ORDER BY created_at DESC, id DESC LIMIT :keep
        )
        """,
        user_id=user_id,
        keep=keep,
    )


async def delete_ended_sessions(connection: Connection, now: int, idle_since: int) -> int:
    """Delete expired sessions and those not used since `idle_since`. Returns how many."""
    return await connection.execute(
        "DELETE FROM sessions WHERE expires_at <= :now OR last_seen_at <= :idle_since",
        now=now,
        idle_since=idle_since,
    )


async def select_last_seen(connection: Connection, user_ids: Sequence[str]) -> dict[str, int]:
    """When each of these users was seen last, of those with a session."""
    statement = _LAST_SEEN + (IN_SQLITE if connection.engine == "sqlite" else IN_POSTGRES) + _BY_USER
    return {row[0]: row[1] for row in await connection.all(statement, ids=id_list(connection, user_ids))}


_LAST_SEEN = "SELECT user_id, max(last_seen_at) FROM sessions WHERE user_id"
_BY_USER = " GROUP BY user_id"
