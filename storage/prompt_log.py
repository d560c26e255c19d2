"""Requests and responses in full, encrypted (sealed) by the caller. Ids are those of the usage rows, and
UUIDv7, which orders them by time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, LiteralString

from storage.base import Connection

PromptLogChoice = Literal["on", "off"]
"""What a key or an account says about the log; None follows the account, and then the settings."""


@dataclass(frozen=True, slots=True)
class PromptRow:
    """`at`: arrival of the request, in milliseconds. `size`: bytes before encryption."""

    id: str
    user_id: str
    key_id: str
    at: int
    endpoint: str
    model: str
    sealed_preview: bytes
    sealed: bytes
    size: int


@dataclass(frozen=True, slots=True)
class PromptSummary:
    """A row without its text, and what the usage row of the request says. `status` and what follows is None
    if the usage row is gone.
    """

    id: str
    user_id: str
    key_id: str
    at: int
    endpoint: str
    model: str
    sealed_preview: bytes
    size: int
    status: int | None
    outcome: str | None
    input_tokens: int | None
    output_tokens: int | None
    duration_ms: int | None
    cost_nano: int | None


@dataclass(frozen=True, slots=True)
class PromptQuery:
    """At most `limit` rows whose id is below `before` ("" for the newest) and not below `since`. None for a
    filter means that it does not apply.
    """

    limit: int
    before: str = ""
    since: str = ""
    user_id: str | None = None
    key_id: str | None = None
    model: str | None = None


async def insert_prompts(connection: Connection, rows: Sequence[PromptRow]) -> None:
    """Rows that exist already stay. Raises IntegrityError if the account of a row was deleted."""
    await connection.many(
        """
        INSERT INTO prompt_log (id, user_id, key_id, at, endpoint, model, sealed_preview, sealed, size)
        VALUES (:id, :user_id, :key_id, :at, :endpoint, :model, :sealed_preview, :sealed, :size)
        ON CONFLICT DO NOTHING
        """,
        rows,
    )


_SUMMARY: Final[LiteralString] = """
    SELECT
        prompt_log.id, prompt_log.user_id, prompt_log.key_id, prompt_log.at, prompt_log.endpoint,
        prompt_log.model, sealed_preview, size, status, outcome, input_tokens, output_tokens, duration_ms,
        cost_nano
    FROM prompt_log LEFT JOIN usage ON usage.at = prompt_log.at AND usage.id = prompt_log.id
"""


def prompts_statement(query: PromptQuery) -> LiteralString:
    conditions: LiteralString = " WHERE 1 = 1"
    if query.user_id is not None:
        conditions += " AND prompt_log.user_id = :user_id"
    if query.key_id is not None:
        conditions += " AND prompt_log.key_id = :key_id"
    if query.model is not None:
        conditions += " AND prompt_log.model = :model"
    if query.before:
        conditions += " AND prompt_log.id < :before"
    return _SUMMARY + conditions + " AND prompt_log.id >= :since ORDER BY prompt_log.id DESC LIMIT :limit"


async def select_prompts(connection: Connection, query: PromptQuery) -> list[PromptSummary]:
    """Newest first."""
    given = {"user_id": query.user_id, "key_id": query.key_id, "model": query.model}
    filters = {name: value for name, value in given.items() if value is not None}
    if query.before:
        filters["before"] = query.before
    rows = await connection.all(prompts_statement(query), since=query.since, limit=query.limit, **filters)
    return [PromptSummary(*row) for row in rows]


async def select_prompt(connection: Connection, prompt_id: str, user_id: str | None) -> PromptRow | None:
    """The row, if it is of this user; of any user with None."""
    row = await connection.one(
        """
        SELECT id, user_id, key_id, at, endpoint, model, sealed_preview, sealed, size FROM prompt_log
        WHERE id = :id AND (CAST(:user_id AS TEXT) IS NULL OR user_id = :user_id)
        """,
        id=prompt_id,
        user_id=user_id,
    )
    return None if row is None else PromptRow(*row)


async def has_prompt(connection: Connection, prompt_id: str) -> bool:
    return bool(await connection.value("SELECT count(*) FROM prompt_log WHERE id = :id", id=prompt_id))


async def delete_prompt(connection: Connection, prompt_id: str, user_id: str | None) -> bool:
    """Delete the row, if it is of this user; of any user with None. False: there is no such row."""
    deleted = await connection.execute(
        "DELETE FROM prompt_log WHERE id = :id AND (CAST(:user_id AS TEXT) IS NULL OR user_id = :user_id)",
        id=prompt_id,
        user_id=user_id,
    )
    return deleted == 1


async def delete_prompts_of(connection: Connection, user_id: str, limit: int) -> int:
    """Delete up to `limit` rows of a user, the oldest first. Returns their number."""
    return await connection.execute(
        """
        DELETE FROM prompt_log WHERE id IN (
            SELECT id FROM prompt_log WHERE user_id = :user_id ORDER BY id LIMIT :limit
        )
        """,
        user_id=user_id,
        limit=limit,
    )


async def delete_old_prompts(connection: Connection, before: str, limit: int) -> int:
    """Delete up to `limit` rows whose id is below `before`, the oldest first. Returns their number."""
    return await connection.execute(
        """
        DELETE FROM prompt_log WHERE id IN (
            SELECT id FROM prompt_log WHERE id < :before ORDER BY id LIMIT :limit
        )
        """,
        before=before,
        limit=limit,
    )


async def select_prompt_accounts_above(connection: Connection, size: int) -> Sequence[str]:
    """The accounts whose rows have more than `size` bytes."""
    rows = await connection.all(
        "SELECT user_id FROM prompt_log GROUP BY user_id HAVING sum(size) > :size", size=size
    )
    return [row[0] for row in rows]


async def delete_prompts_above(connection: Connection, user_id: str, size: int) -> int:
    """Delete the oldest rows of an account, so that the others have at most `size` bytes."""
    return await connection.execute(
        """
        DELETE FROM prompt_log WHERE id IN (
            SELECT id FROM (
                SELECT id, sum(size) OVER (ORDER BY id DESC) AS total FROM prompt_log WHERE user_id = :user_id
            ) AS newest
            WHERE total > :size
        )
        """,
        user_id=user_id,
        size=size,
    )
