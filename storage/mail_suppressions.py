"""Addresses that get no mail, because a mail to them bounced or was reported as spam."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from storage.base import Connection

SuppressionReason = Literal["bounced", "complained"]


@dataclass(frozen=True, slots=True)
class SuppressionRow:
    id: str
    email: str
    reason: SuppressionReason
    created_at: int


async def insert_suppression(connection: Connection, row: SuppressionRow) -> bool:
    """False: the address is in the list already."""
    inserted = await connection.execute(
        """
        INSERT INTO mail_suppressions (id, email, reason, created_at)
        VALUES (:id, lower(:email), :reason, :created_at) ON CONFLICT (email) DO NOTHING
        """,
        id=row.id,
        email=row.email,
        reason=row.reason,
        created_at=row.created_at,
    )
    return inserted == 1


async def is_suppressed(connection: Connection, email: str) -> bool:
    found = await connection.value("SELECT 1 FROM mail_suppressions WHERE email = lower(:email)", email=email)
    return found is not None


async def select_suppressions(
    connection: Connection, email: str | None, after_id: str, limit: int
) -> Sequence[SuppressionRow]:
    """Rows with an ID above `after_id`, oldest first; with `email` only that of this address."""
    rows = await connection.all(
        """
        SELECT id, email, reason, created_at FROM mail_suppressions
        WHERE id > :after_id AND (CAST(:email AS TEXT) IS NULL OR email = lower(:email))
        ORDER BY id LIMIT :limit
        """,
        after_id=after_id,
        email=email,
        limit=limit,
    )
    return [SuppressionRow(*row) for row in rows]


async def delete_suppression(connection: Connection, suppression_id: str) -> SuppressionRow | None:
    """The deleted row, or None."""
    row = await connection.one(
        """
        DELETE FROM mail_suppressions WHERE id = :suppression_id
        RETURNING id, email, reason, created_at
        """,
        suppression_id=suppression_id,
    )
    return None if row is None else SuppressionRow(*row)
