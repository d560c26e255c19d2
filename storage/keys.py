"""API keys: who may call, kept as a digest. A key is revoked, never deleted: usage refers to it."""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.base import Connection
from storage.members import Role


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key without its secret: `digest` is the 32-byte HMAC, `prefix` and `last4` are for display."""

    id: str
    user_id: str
    name: str
    digest: bytes
    prefix: str
    last4: str
    rpm: int | None
    concurrency: int | None
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None
    created_at: int


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """A key with what its owner's account says about using it."""

    key: KeyRow
    role: Role
    user_disabled_at: int | None


@dataclass(frozen=True, slots=True)
class KeyUse:
    """When a key was last seen."""

    id: str
    at: int


async def insert_key(connection: Connection, key: KeyRow) -> None:
    """Raises Conflict when the digest exists or the user does not."""
    await connection.many(
        """
        INSERT INTO api_keys (
            id, user_id, name, digest, prefix, last4, rpm, concurrency, expires_at, revoked_at,
            last_used_at, created_at
        ) VALUES (
            :id, :user_id, :name, :digest, :prefix, :last4, :rpm, :concurrency, :expires_at, :revoked_at,
            :last_used_at, :created_at
        )
        """,
        [key],
    )


async def select_key_by_digest(connection: Connection, digest: bytes) -> KeyHolder | None:
    """The key with this digest, whatever its state: judging it is the caller's work."""
    row = await connection.one(
        """
        SELECT
            api_keys.id, user_id, name, digest, prefix, last4, rpm, concurrency, expires_at, revoked_at,
            last_used_at, api_keys.created_at, role, disabled_at
        FROM api_keys JOIN users ON users.id = api_keys.user_id
        WHERE digest = :digest
        """,
        digest=digest,
    )
    return None if row is None else KeyHolder(KeyRow(*row[:12]), row[12], row[13])


async def select_key(connection: Connection, key_id: str) -> KeyRow | None:
    row = await connection.one(
        """
        SELECT
            id, user_id, name, digest, prefix, last4, rpm, concurrency, expires_at, revoked_at,
            last_used_at, created_at
        FROM api_keys WHERE id = :key_id
        """,
        key_id=key_id,
    )
    return None if row is None else KeyRow(*row)


async def select_keys(connection: Connection, user_id: str | None = None) -> Sequence[KeyRow]:
    """A user's keys, or everybody's, oldest first."""
    if user_id is None:
        rows = await connection.all(SELECT_ALL)
    else:
        rows = await connection.all(SELECT_OF_USER, user_id=user_id)
    return [KeyRow(*row) for row in rows]


SELECT_ALL = """
    SELECT
        id, user_id, name, digest, prefix, last4, rpm, concurrency, expires_at, revoked_at,
        last_used_at, created_at
    FROM api_keys ORDER BY id
"""

SELECT_OF_USER = """
    SELECT
        id, user_id, name, digest, prefix, last4, rpm, concurrency, expires_at, revoked_at,
        last_used_at, created_at
    FROM api_keys WHERE user_id = :user_id ORDER BY id
"""


async def revoke_key(connection: Connection, user_id: str, key_id: str, at: int) -> bool:
    """Revoke a user's key; False when there is none, or it was revoked before."""
    changed = await connection.execute(
        """
        UPDATE api_keys SET revoked_at = :at
        WHERE id = :key_id AND user_id = :user_id AND revoked_at IS NULL
        """,
        at=at,
        key_id=key_id,
        user_id=user_id,
    )
    return changed == 1


async def renew_key(connection: Connection, key: KeyRow) -> bool:
    """Give the key with this id another secret and another end; False when there is none that is active."""
    changed = await connection.execute(
        """
        UPDATE api_keys SET digest = :digest, prefix = :prefix, last4 = :last4, expires_at = :expires_at
        WHERE id = :id AND revoked_at IS NULL
        """,
        id=key.id,
        digest=key.digest,
        prefix=key.prefix,
        last4=key.last4,
        expires_at=key.expires_at,
    )
    return changed == 1


async def touch_keys(connection: Connection, uses: Sequence[KeyUse]) -> None:
    """Remember the latest use of each key."""
    await connection.many(
        """
        UPDATE api_keys SET last_used_at = :at
        WHERE id = :id AND (last_used_at IS NULL OR last_used_at < :at)
        """,
        uses,
    )
