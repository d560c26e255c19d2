"""API keys: who may call, kept as a digest. A key is revoked, never deleted: usage refers to it.

Whose a key is stands in every statement: with `user_id` None it is anybody's, for administrators.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage.base import Connection, Row

NamePatterns = tuple[str, ...] | None
"""None is any."""


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key without its secret: `digest` is the 32-byte HMAC, `prefix` and `last4` are for display.

    `limits` is a JSON object in text, None when the key has none of its own. `previous_until` is read only:
    when the last of the digests it had before ends, None when it had none or all ended at once.
    """

    id: str
    user_id: str
    name: str
    digest: bytes
    prefix: str
    last4: str
    scopes: NamePatterns
    allowed_models: NamePatterns
    allowed_ips: NamePatterns
    allowed_origins: NamePatterns
    limits: str | None
    metadata: Mapping[str, str]
    expires_at: int | None
    revoked_at: int | None
    last_used_at: int | None
    created_at: int
    rotated_at: int | None
    previous_until: int | None


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """A key with what its owner's account says about using it. `ends_at` is when the digest it was found by
    ends, None when it is the key's own.
    """

    key: KeyRow
    user_disabled_at: int | None
    tier: str | None
    user_limits: str | None
    ends_at: int | None


@dataclass(frozen=True, slots=True)
class KeyUse:
    """When a key was last seen."""

    id: str
    at: int


_COLUMNS = """
    api_keys.id, user_id, name, api_keys.digest, prefix, last4, scopes, allowed_models, allowed_ips,
    allowed_origins, api_keys.limits, metadata, expires_at, revoked_at, last_used_at, api_keys.created_at,
    rotated_at,
    (SELECT nullif(max(ends_at), 0) FROM replaced_digests WHERE key_id = api_keys.id) AS previous_until
"""
_WIDTH = len(KeyRow.__slots__)
_METADATA = KeyRow.__slots__.index("metadata")
_LISTS = [
    KeyRow.__slots__.index(name) for name in ("scopes", "allowed_models", "allowed_ips", "allowed_origins")
]


async def insert_key(connection: Connection, key: KeyRow) -> None:
    """Raises IntegrityError when the digest exists or the user does not."""
    await connection.execute(
        """
        INSERT INTO api_keys (
            id, user_id, name, digest, prefix, last4, scopes, allowed_models, allowed_ips, allowed_origins,
            limits, metadata, expires_at, revoked_at, last_used_at, created_at, rotated_at
        ) VALUES (
            :id, :user_id, :name, :digest, :prefix, :last4, :scopes, :allowed_models, :allowed_ips,
            :allowed_origins, :limits, :metadata, :expires_at, :revoked_at, :last_used_at, :created_at,
            :rotated_at
        )
        """,
        id=key.id,
        user_id=key.user_id,
        digest=key.digest,
        prefix=key.prefix,
        last4=key.last4,
        revoked_at=key.revoked_at,
        last_used_at=key.last_used_at,
        created_at=key.created_at,
        rotated_at=key.rotated_at,
        **_settings(key),
    )


def _settings(key: KeyRow) -> dict[str, Any]:
    """What the owner may change, as the columns hold it."""
    return {
        "name": key.name,
        "scopes": _json(key.scopes),
        "allowed_models": _json(key.allowed_models),
        "allowed_ips": _json(key.allowed_ips),
        "allowed_origins": _json(key.allowed_origins),
        "limits": key.limits,
        "metadata": json.dumps(key.metadata),
        "expires_at": key.expires_at,
    }


def _json(names: NamePatterns) -> str | None:
    return None if names is None else json.dumps(names)


async def select_key_by_digest(connection: Connection, digest: bytes) -> KeyHolder | None:
    """The key that has this digest or had it before, whatever its state: judging it is the caller's work."""
    row = await connection.one(SELECT_HOLDER, digest=digest)
    return None if row is None else KeyHolder(_key_row(row), *row[_WIDTH:])


SELECT_HOLDER = (
    "SELECT"
    + _COLUMNS
    + """, disabled_at, tier, users.limits, NULL
    FROM api_keys JOIN users ON users.id = api_keys.user_id
    WHERE api_keys.digest = :digest
    UNION ALL SELECT"""
    + _COLUMNS
    + """, disabled_at, tier, users.limits, replaced_digests.ends_at
    FROM replaced_digests
    JOIN api_keys ON api_keys.id = replaced_digests.key_id
    JOIN users ON users.id = api_keys.user_id
    WHERE replaced_digests.digest = :digest
    """
)


async def select_key(connection: Connection, key_id: str, user_id: str | None = None) -> KeyRow | None:
    """A key, if it is this user's; None for user_id is anybody's."""
    row = await connection.one(SELECT_KEY, key_id=key_id, user_id=user_id)
    return None if row is None else _key_row(row)


SELECT_KEY = (
    "SELECT"
    + _COLUMNS
    + "FROM api_keys WHERE id = :key_id AND (CAST(:user_id AS TEXT) IS NULL OR user_id = :user_id)"
)


@dataclass(frozen=True, slots=True)
class KeyQuery:
    """Which keys to list: the first `limit` above the id `after`. Active: neither revoked nor expired at
    `now`, in milliseconds; None asks for both kinds.
    """

    now: int
    user_id: str | None = None
    active: bool | None = None
    after: str = ""
    limit: int = 100


async def select_keys(connection: Connection, query: KeyQuery) -> Sequence[KeyRow]:
    """A page of a user's keys, or of everybody's, oldest first."""
    wanted = {
        "now": query.now,
        "active": None if query.active is None else int(query.active),
        "after": query.after,
        "limit": query.limit,
    }
    if query.user_id is None:
        rows = await connection.all(SELECT_ALL, **wanted)
    else:
        rows = await connection.all(SELECT_OF_USER, user_id=query.user_id, **wanted)
    return [_key_row(row) for row in rows]


_ACTIVE = "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > :now)"
_PAGE = (
    " AND (CAST(:active AS BIGINT) IS NULL OR (CASE WHEN "
    + _ACTIVE
    + " THEN 1 ELSE 0 END) = :active) ORDER BY id LIMIT :limit"
)
SELECT_ALL = "SELECT" + _COLUMNS + "FROM api_keys WHERE id > :after" + _PAGE
SELECT_OF_USER = "SELECT" + _COLUMNS + "FROM api_keys WHERE user_id = :user_id AND id > :after" + _PAGE


async def count_active_keys(connection: Connection, user_id: str, now: int) -> int:
    """How many of a user's keys are neither revoked nor expired."""
    row = await connection.one(COUNT_ACTIVE, user_id=user_id, now=now)
    return 0 if row is None else int(row[0])


_COUNT = "SELECT count(*)"
COUNT_ACTIVE = _COUNT + " FROM api_keys WHERE user_id = :user_id AND " + _ACTIVE


async def update_key(connection: Connection, key: KeyRow) -> bool:
    """Write what an owner may change; False when there is no such key of this user, or it is revoked."""
    changed = await connection.execute(
        """
        UPDATE api_keys SET
            name = :name, scopes = :scopes, allowed_models = :allowed_models, allowed_ips = :allowed_ips,
            allowed_origins = :allowed_origins, limits = :limits, metadata = :metadata,
            expires_at = :expires_at
        WHERE id = :id AND user_id = :user_id AND revoked_at IS NULL
        """,
        id=key.id,
        user_id=key.user_id,
        **_settings(key),
    )
    return changed == 1


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
    """Give the key with this id another digest and end; False when there is none, or it is revoked."""
    changed = await connection.execute(
        """
        UPDATE api_keys SET
            digest = :digest, prefix = :prefix, last4 = :last4, expires_at = :expires_at,
            rotated_at = :rotated_at
        WHERE id = :id AND revoked_at IS NULL
        """,
        id=key.id,
        digest=key.digest,
        prefix=key.prefix,
        last4=key.last4,
        expires_at=key.expires_at,
        rotated_at=key.rotated_at,
    )
    return changed == 1


async def replace_digest(
    connection: Connection, key_id: str, digest: bytes, *, at: int, ends_at: int
) -> None:
    """Remember what a key was until now: it goes on until `ends_at`, 0 being not at all."""
    await connection.execute(
        """
        INSERT INTO replaced_digests (digest, key_id, ends_at, replaced_at)
        VALUES (:digest, :key_id, :ends_at, :at)
        """,
        digest=digest,
        key_id=key_id,
        ends_at=ends_at,
        at=at,
    )


async def end_replaced(connection: Connection, key_id: str, ends_at: int) -> None:
    """Let all that a key was before end then at the latest."""
    await connection.execute(
        "UPDATE replaced_digests SET ends_at = :ends_at WHERE key_id = :key_id AND ends_at > :ends_at",
        key_id=key_id,
        ends_at=ends_at,
    )


async def forget_replaced(connection: Connection, key_id: str, now: int, *, but: int) -> None:
    """Remember of the digests that have ended only the latest."""
    await connection.execute(
        """
        DELETE FROM replaced_digests
        WHERE key_id = :key_id AND ends_at <= :now AND digest NOT IN (
            SELECT digest FROM replaced_digests WHERE key_id = :key_id AND ends_at <= :now
            ORDER BY replaced_at DESC, digest LIMIT :but
        )
        """,
        key_id=key_id,
        now=now,
        but=but,
    )


async def count_replaced(connection: Connection, key_id: str, now: int) -> int:
    """How many digests that a key had before have not ended."""
    row = await connection.one(
        "SELECT count(*) FROM replaced_digests WHERE key_id = :key_id AND ends_at > :now",
        key_id=key_id,
        now=now,
    )
    return 0 if row is None else int(row[0])


async def select_replaced(connection: Connection, key_id: str) -> list[bytes]:
    """The digests that a key had before."""
    rows = await connection.all("SELECT digest FROM replaced_digests WHERE key_id = :key_id", key_id=key_id)
    return [row[0] for row in rows]


async def touch_keys(connection: Connection, uses: Sequence[KeyUse]) -> None:
    """Remember the latest use of each key."""
    await connection.many(
        """
        UPDATE api_keys SET last_used_at = :at
        WHERE id = :id AND (last_used_at IS NULL OR last_used_at < :at)
        """,
        uses,
    )


def _key_row(row: Row) -> KeyRow:
    values = list(row[:_WIDTH])
    for at in _LISTS:
        values[at] = None if values[at] is None else tuple(json.loads(values[at]))
    values[_METADATA] = json.loads(values[_METADATA])
    return KeyRow(*values)
