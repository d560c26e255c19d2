"""API keys. The secret is stored as a digest. A key is revoked, never deleted, because usage rows refer to
it.

A rotated key has its current secret and at most one previous secret, which is accepted for a time.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage.base import Connection, Row
from storage.id_lists import IN_POSTGRES, IN_SQLITE, id_list
from storage.prompt_log import PromptLogChoice
from storage.vendor_keys import VendorKeyRow

NamePatterns = tuple[str, ...] | None
"""None: any."""


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key. A digest is the 32-byte HMAC-SHA256 of a secret; `prefix` and `last4` are parts of the current
    secret, for display.

    `limits` is a JSON object as text. The previous secret is accepted until `previous_until`; None: not at
    all.
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
    previous_digest: bytes | None = None
    previous_until: int | None = None
    prompt_log: PromptLogChoice | None = None


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """A key with the state of its user's account.

    `ends_at` is None if the key was found by its current secret. If it was found by the previous one, this is
    the time at which that ends, 0 if it has ended already. `vendor_keys` are those of the user.
    """

    key: KeyRow
    user_disabled_at: int | None
    tier: str | None
    user_limits: str | None
    ends_at: int | None
    user_prompt_log: PromptLogChoice | None = None
    vendor_keys: Sequence[VendorKeyRow] = ()


@dataclass(frozen=True, slots=True)
class KeyUse:
    """When a key was last used."""

    id: str
    at: int


_COLUMNS = """
    api_keys.id, user_id, name, digest, prefix, last4, scopes, allowed_models, allowed_ips, allowed_origins,
    api_keys.limits, metadata, expires_at, revoked_at, last_used_at, api_keys.created_at, rotated_at,
    previous_digest, previous_until, api_keys.prompt_log
"""
_WIDTH = len(KeyRow.__slots__)
_METADATA = KeyRow.__slots__.index("metadata")
_LISTS = [
    KeyRow.__slots__.index(name) for name in ("scopes", "allowed_models", "allowed_ips", "allowed_origins")
]


async def insert_key(connection: Connection, key: KeyRow) -> None:
    """Raises IntegrityError if the digest exists or the user does not."""
    await connection.execute(
        """
        INSERT INTO api_keys (
            id, user_id, name, digest, prefix, last4, scopes, allowed_models, allowed_ips, allowed_origins,
            limits, metadata, expires_at, revoked_at, last_used_at, created_at, rotated_at, previous_digest,
            previous_until, prompt_log
        ) VALUES (
            :id, :user_id, :name, :digest, :prefix, :last4, :scopes, :allowed_models, :allowed_ips,
            :allowed_origins, :limits, :metadata, :expires_at, :revoked_at, :last_used_at, :created_at,
            :rotated_at, :previous_digest, :previous_until, :prompt_log
        )
        """,
        last_used_at=key.last_used_at,
        created_at=key.created_at,
        **_changeable(key),
    )


def _changeable(key: KeyRow) -> dict[str, Any]:
    """What update_key writes, and the key's ID and user, as column values."""
    return {
        "id": key.id,
        "user_id": key.user_id,
        "name": key.name,
        "digest": key.digest,
        "prefix": key.prefix,
        "last4": key.last4,
        "scopes": _json(key.scopes),
        "allowed_models": _json(key.allowed_models),
        "allowed_ips": _json(key.allowed_ips),
        "allowed_origins": _json(key.allowed_origins),
        "limits": key.limits,
        "metadata": json.dumps(key.metadata),
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "rotated_at": key.rotated_at,
        "previous_digest": key.previous_digest,
        "previous_until": key.previous_until,
        "prompt_log": key.prompt_log,
    }


def _json(names: NamePatterns) -> str | None:
    return None if names is None else json.dumps(names)


async def select_key_digest(connection: Connection, user_id: str, key_id: str) -> bytes | None:
    """The current digest of a key of the account that is not revoked."""
    digest = await connection.value(
        "SELECT digest FROM api_keys WHERE id = :id AND user_id = :user_id AND revoked_at IS NULL",
        id=key_id,
        user_id=user_id,
    )
    return digest if isinstance(digest, bytes) else None


async def select_key_by_digest(connection: Connection, digest: bytes) -> KeyHolder | None:
    """The key with this current or previous digest, also if it is expired or revoked."""
    row = await connection.one(SELECT_HOLDER, digest=digest)
    return None if row is None else KeyHolder(_key_row(row), *row[_WIDTH:])


SELECT_HOLDER = (
    "SELECT"
    + _COLUMNS
    + """, disabled_at, tier, users.limits,
        CASE WHEN digest = :digest THEN NULL ELSE coalesce(previous_until, 0) END, users.prompt_log
    FROM api_keys JOIN users ON users.id = user_id
    WHERE digest = :digest OR previous_digest = :digest
    """
)


async def select_key(connection: Connection, key_id: str, user_id: str | None = None) -> KeyRow | None:
    """A key of this user; with None, of any user."""
    row = await connection.one(SELECT_KEY, key_id=key_id, user_id=user_id)
    return None if row is None else _key_row(row)


SELECT_KEY = (
    "SELECT"
    + _COLUMNS
    + "FROM api_keys WHERE id = :key_id AND (CAST(:user_id AS TEXT) IS NULL OR user_id = :user_id)"
)


@dataclass(frozen=True, slots=True)
class KeyQuery:
    """Selects the first `limit` keys whose ID is above `after`, of one user or of all.

    `active` selects keys that are neither revoked nor expired at `now` (milliseconds), or the others; None
    selects both.
    """

    now: int
    user_id: str | None = None
    active: bool | None = None
    after: str = ""
    limit: int = 100


async def select_keys(connection: Connection, query: KeyQuery) -> Sequence[KeyRow]:
    """Oldest first."""
    params = {
        "now": query.now,
        "active": None if query.active is None else int(query.active),
        "after": query.after,
        "limit": query.limit,
    }
    if query.user_id is None:
        rows = await connection.all(SELECT_ALL, **params)
    else:
        rows = await connection.all(SELECT_OF_USER, user_id=query.user_id, **params)
    return [_key_row(row) for row in rows]


_ACTIVE = "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > :now)"
_PAGE = (
    " AND (CAST(:active AS BIGINT) IS NULL OR (CASE WHEN "
    + _ACTIVE
    + " THEN 1 ELSE 0 END) = :active) ORDER BY id LIMIT :limit"
)
SELECT_ALL = "SELECT" + _COLUMNS + "FROM api_keys WHERE id > :after" + _PAGE
SELECT_OF_USER = "SELECT" + _COLUMNS + "FROM api_keys WHERE user_id = :user_id AND id > :after" + _PAGE


async def select_key_digests(connection: Connection, user_id: str) -> list[bytes]:
    """All digests of the keys of a user, also those of secrets that are no longer accepted."""
    rows = await connection.all(
        "SELECT digest, previous_digest FROM api_keys WHERE user_id = :user_id", user_id=user_id
    )
    return [bytes(digest) for row in rows for digest in row if digest is not None]


async def select_key_names(connection: Connection, user_id: str) -> dict[str, str]:
    """The names of a user's keys by id, also of revoked ones."""
    rows = await connection.all("SELECT id, name FROM api_keys WHERE user_id = :user_id", user_id=user_id)
    return {row[0]: row[1] for row in rows}


async def select_names_of_keys(connection: Connection, ids: Sequence[str]) -> dict[str, str]:
    """The names of these keys by id, also of revoked ones."""
    statement = _NAMES_SQLITE if connection.engine == "sqlite" else _NAMES_POSTGRES
    return {row[0]: row[1] for row in await connection.all(statement, ids=id_list(connection, ids))}


_NAMES = "SELECT id, name FROM api_keys WHERE id"
_NAMES_SQLITE = _NAMES + IN_SQLITE
_NAMES_POSTGRES = _NAMES + IN_POSTGRES


async def select_keys_that_expire(
    connection: Connection, now: int, milliseconds: int, ending: str, limit: int
) -> Sequence[KeyRow]:
    """Keys that expire within some time, were made for longer, and have no mark of the event; those that end
    first come first. `ending` is of the mark.
    """
    rows = await connection.all(
        SELECT_EXPIRING,
        now=now,
        until=now + milliseconds,
        least=milliseconds,
        ending=ending,
        limit=limit,
    )
    return [_key_row(row) for row in rows]


SELECT_EXPIRING = (
    "SELECT"  # noqa: S608 - literals
    + _COLUMNS
    + "FROM api_keys WHERE expires_at > :now AND expires_at <= :until AND revoked_at IS NULL"
    " AND expires_at - created_at > :least AND NOT EXISTS ("
    "SELECT 1 FROM event_marks WHERE mark = 'key.expiring:' || id || ':' || CAST(expires_at AS TEXT)"
    " || CAST(:ending AS TEXT))"
    " ORDER BY expires_at LIMIT :limit"
)


async def count_active_keys(connection: Connection, user_id: str, now: int) -> int:
    """The number of a user's keys that are neither revoked nor expired."""
    row = await connection.one(COUNT_ACTIVE, user_id=user_id, now=now)
    return 0 if row is None else int(row[0])


_COUNT = "SELECT count(*)"
COUNT_ACTIVE = _COUNT + " FROM api_keys WHERE user_id = :user_id AND " + _ACTIVE


async def select_allowed_origins(connection: Connection, now: int) -> frozenset[str]:
    """The origins that keys list which are neither revoked nor expired."""
    rows = await connection.all(SELECT_ORIGINS, now=now)
    return frozenset(origin for (origins,) in rows for origin in json.loads(origins))


_ORIGINS = "SELECT DISTINCT allowed_origins"
SELECT_ORIGINS = _ORIGINS + " FROM api_keys WHERE allowed_origins IS NOT NULL AND " + _ACTIVE


async def update_key(connection: Connection, key: KeyRow) -> bool:
    """Write all columns but the times of creation and last use. False: the user has no such key, or it is
    revoked.
    """
    changed = await connection.execute(
        """
        UPDATE api_keys SET
            name = :name, digest = :digest, prefix = :prefix, last4 = :last4, scopes = :scopes,
            allowed_models = :allowed_models, allowed_ips = :allowed_ips, allowed_origins = :allowed_origins,
            limits = :limits, metadata = :metadata, expires_at = :expires_at, revoked_at = :revoked_at,
            rotated_at = :rotated_at, previous_digest = :previous_digest, previous_until = :previous_until,
            prompt_log = :prompt_log
        WHERE id = :id AND user_id = :user_id AND revoked_at IS NULL
        """,
        **_changeable(key),
    )
    return changed == 1


async def touch_keys(connection: Connection, uses: Sequence[KeyUse]) -> None:
    """Store the latest use of each key."""
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
