"""Responses that the gateway keeps itself, encrypted (sealed) by the caller.

A response continues the one in `previous_id`. The rows from a response back to the first one are its
conversation; all of them belong to one account.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.base import Connection
from storage.id_lists import IN_POSTGRES, IN_SQLITE, id_list

MAX_TURNS = 1000  # responses of one conversation


@dataclass(frozen=True, slots=True)
class StoredResponseRow:
    """`sealed` is input and response, encrypted; `size` the number of bytes before encryption."""

    id: str
    user_id: str
    key_id: str
    previous_id: str | None
    sealed: bytes
    size: int
    created_at: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class _ItemRow:
    id: str
    response_id: str


@dataclass(frozen=True, slots=True)
class StoredConversation:
    """`rows` are oldest first. They are empty if one is missing, and if the conversation is `too_long`."""

    rows: Sequence[StoredResponseRow]
    too_long: bool = False


async def insert_response(
    connection: Connection, row: StoredResponseRow, items: Sequence[str], continued: Sequence[str]
) -> None:
    """Store a response. `items`: the IDs of its items; `continued`: the IDs of responses that it builds on,
    which are then kept as long as it.

    Raises IntegrityError if the ID is taken or the account was deleted.
    """
    if continued:
        await connection.execute(
            EXTEND_SQLITE if connection.engine == "sqlite" else EXTEND_POSTGRES,
            ids=id_list(connection, continued),
            user_id=row.user_id,
            expires_at=row.expires_at,
        )
    await connection.many(
        """
        INSERT INTO stored_responses (
            id, user_id, key_id, previous_id, sealed, size, created_at, expires_at
        ) VALUES (:id, :user_id, :key_id, :previous_id, :sealed, :size, :created_at, :expires_at)
        """,
        [row],
    )
    await connection.many(
        "INSERT INTO stored_items (id, response_id) VALUES (:id, :response_id)",
        [_ItemRow(item, row.id) for item in dict.fromkeys(items)],
    )


async def select_response(
    connection: Connection, response_id: str, user_id: str, now: int
) -> StoredResponseRow | None:
    """The response if it belongs to the account and has not expired."""
    row = await connection.one(
        """
        SELECT id, user_id, key_id, previous_id, sealed, size, created_at, expires_at
        FROM stored_responses WHERE id = :id AND user_id = :user_id AND expires_at > :now
        """,
        id=response_id,
        user_id=user_id,
        now=now,
    )
    return None if row is None else StoredResponseRow(*row)


async def select_conversation(
    connection: Connection, response_id: str, user_id: str, now: int, limit: int
) -> StoredConversation:
    """The response and those that it continues, at most `limit` bytes and MAX_TURNS."""
    known = {"id": response_id, "user_id": user_id, "now": now, "turns": MAX_TURNS}
    turns = await connection.all(SELECT_TURNS, **known)
    complete = (
        bool(turns) and turns[-1][1] is None
    )  # else the oldest one continues a response that is missing
    if sum(turn[2] for turn in turns) > limit or (len(turns) == MAX_TURNS and not complete):
        return StoredConversation((), too_long=True)
    if not complete:
        return StoredConversation(())
    rows = await connection.all(SELECT_CONVERSATION, **known)
    return StoredConversation([StoredResponseRow(*row) for row in rows])


async def select_with_items(
    connection: Connection, items: Sequence[str], user_id: str, now: int, limit: int
) -> StoredConversation:
    """The responses with any of these items, at most `limit` bytes. Items that are missing are no error."""
    known = {"ids": id_list(connection, items), "user_id": user_id, "now": now}
    sqlite = connection.engine == "sqlite"
    sizes = await connection.all(SIZES_WITH_SQLITE if sqlite else SIZES_WITH_POSTGRES, **known)
    if sum(size for (size,) in sizes) > limit:
        return StoredConversation((), too_long=True)
    rows = await connection.all(SELECT_WITH_SQLITE if sqlite else SELECT_WITH_POSTGRES, **known)
    return StoredConversation([StoredResponseRow(*row) for row in rows])


async def delete_response(connection: Connection, response_id: str, user_id: str) -> bool:
    """False: the account has no such response."""
    deleted = await connection.execute(
        "DELETE FROM stored_responses WHERE id = :id AND user_id = :user_id", id=response_id, user_id=user_id
    )
    return deleted == 1


async def delete_expired_responses(connection: Connection, now: int, limit: int) -> int:
    """Delete up to `limit` expired responses. Returns how many."""
    return await connection.execute(
        """
        DELETE FROM stored_responses WHERE id IN (
            SELECT id FROM stored_responses WHERE expires_at <= :now ORDER BY expires_at LIMIT :limit
        )
        """,
        now=now,
        limit=limit,
    )


async def select_accounts_above(connection: Connection, size: int) -> Sequence[str]:
    """The IDs of accounts whose responses have more than `size` bytes."""
    rows = await connection.all(
        "SELECT user_id FROM stored_responses GROUP BY user_id HAVING sum(size) > :size", size=size
    )
    return [row[0] for row in rows]


async def delete_responses_above(connection: Connection, user_id: str, size: int) -> int:
    """Delete the oldest responses of an account until the rest has at most `size` bytes. Returns how many."""
    return await connection.execute(
        """
        DELETE FROM stored_responses WHERE id IN (
            SELECT id FROM (
                SELECT id, sum(size) OVER (ORDER BY created_at DESC, id DESC) AS total
                FROM stored_responses WHERE user_id = :user_id
            ) AS newest
            WHERE total > :size
        )
        """,
        user_id=user_id,
        size=size,
    )


_TURNS = """
    WITH RECURSIVE turns (id, previous_id, size, turn) AS (
        SELECT id, previous_id, size, 1
        FROM stored_responses WHERE id = :id AND user_id = :user_id AND expires_at > :now
        UNION ALL
        SELECT earlier.id, earlier.previous_id, earlier.size, turns.turn + 1
        FROM turns JOIN stored_responses AS earlier ON earlier.id = turns.previous_id
        WHERE earlier.user_id = :user_id AND earlier.expires_at > :now AND turns.turn < :turns
    )
"""
SELECT_TURNS = _TURNS + "SELECT id, previous_id, size FROM turns ORDER BY turn"  # noqa: S608 - literals
SELECT_CONVERSATION = (
    _TURNS
    + """
    SELECT
        stored.id, stored.user_id, stored.key_id, stored.previous_id, stored.sealed, stored.size,
        stored.created_at, stored.expires_at
    FROM turns JOIN stored_responses AS stored ON stored.id = turns.id
    ORDER BY turns.turn DESC
    """
)
_EXTEND = """
    UPDATE stored_responses SET expires_at = :expires_at
    WHERE user_id = :user_id AND expires_at < :expires_at AND id
"""
EXTEND_SQLITE = _EXTEND + IN_SQLITE
EXTEND_POSTGRES = _EXTEND + IN_POSTGRES
_WITH = """
    FROM stored_responses WHERE user_id = :user_id AND expires_at > :now AND id IN (
        SELECT response_id FROM stored_items WHERE id
"""
_OLDEST_FIRST = ") ORDER BY created_at, id"
_SIZES = "SELECT size" + _WITH
_ALL = "SELECT id, user_id, key_id, previous_id, sealed, size, created_at, expires_at" + _WITH
SIZES_WITH_SQLITE = _SIZES + IN_SQLITE + _OLDEST_FIRST
SIZES_WITH_POSTGRES = _SIZES + IN_POSTGRES + _OLDEST_FIRST
SELECT_WITH_SQLITE = _ALL + IN_SQLITE + _OLDEST_FIRST
SELECT_WITH_POSTGRES = _ALL + IN_POSTGRES + _OLDEST_FIRST
