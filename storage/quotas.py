"""What keys and users have used: in the day and month last counted, in all, and in the last minutes.

The counters are kept by `insert_batch` together with the usage rows, so they say exactly what the rows say.
Minutes are not counted there: the few rows of the last ones tell, and only a start has to ask them.
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


@dataclass(frozen=True, slots=True)
class RecentUse:
    """What requests with one key used that ended within one second, which is counted since the epoch."""

    key_id: str
    user_id: str
    second: int
    requests: int
    tokens: int


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


async def select_recent(connection: Connection, now: int, *, within: int, longest: int) -> list[RecentUse]:
    """Of requests with keys that ended at most `within` before `now` and took at most `longest`, all in
    milliseconds; those that ended first come first. A clock set back by less than `within` hides none.

    The log's key begins with the time of arrival, so this reads its end and no more.
    """
    ended = now - within
    rows = await connection.all(SELECT_RECENT, since=ended - longest, until=now + within, ended=ended)
    return [RecentUse(*row) for row in rows]


SELECT_RECENT = """
    SELECT
        key_id, user_id, (at + duration_ms) / 1000 AS second, count(*),
        CAST(sum(coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0)) AS BIGINT)
    FROM usage WHERE at > :since AND at <= :until AND at + duration_ms > :ended AND key_id <> ''
    GROUP BY key_id, user_id, second ORDER BY second
"""
