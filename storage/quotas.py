"""What keys and users have used, in the day and month last counted and in all.

The counters are kept by `insert_batch` together with the usage rows, so they say exactly what the rows say,
but for a key that took the place of another: that one goes on from what the other had used.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.base import Connection
from storage.keys import KeyHolder, select_key_by_digest


@dataclass(frozen=True, slots=True)
class QuotaRow:
    """`day` and `month` name the periods as the gateway's calendar does; money in nano-USD."""

    subject: str
    day: str
    day_tokens: int
    day_nano: int
    month: str
    month_tokens: int
    month_nano: int
    total_tokens: int
    total_nano: int


async def select_quota(connection: Connection, subject: str) -> QuotaRow | None:
    """None when nothing has been counted yet. `subject` is key:ID or user:ID."""
    row = await connection.one(
        """
        SELECT
            subject, day, day_tokens, day_nano, month, month_tokens, month_nano, total_tokens, total_nano
        FROM quota_counters WHERE subject = :subject
        """,
        subject=subject,
    )
    return None if row is None else QuotaRow(*row)


async def select_quotas(connection: Connection, subjects: Sequence[str]) -> dict[str, QuotaRow]:
    """Those there are, by subject."""
    found = [await select_quota(connection, subject) for subject in subjects]
    return {row.subject: row for row in found if row is not None}


async def select_holder_with_quotas(
    connection: Connection, digest: bytes
) -> tuple[KeyHolder, QuotaRow | None, QuotaRow | None] | None:
    """The key with this digest, and what it and its owner have used; None when there is no such key."""
    holder = await select_key_by_digest(connection, digest)
    if holder is None:
        return None
    key = await select_quota(connection, f"key:{holder.key.id}")
    return holder, key, await select_quota(connection, f"user:{holder.key.user_id}")


async def copy_quota(connection: Connection, subject: str, heir: str) -> None:
    """Let a subject that has used nothing yet go on from what another has used."""
    await connection.execute(
        """
        INSERT INTO quota_counters (
            subject, day, day_tokens, day_nano, month, month_tokens, month_nano, total_tokens, total_nano
        )
        SELECT
            CAST(:heir AS TEXT), day, day_tokens, day_nano, month, month_tokens, month_nano, total_tokens,
            total_nano
        FROM quota_counters WHERE subject = :subject
        """,
        subject=subject,
        heir=heir,
    )
