"""Used amounts of keys, users and tiers: in the latest day and month, in total, and in the last minutes.

`insert_batch` updates the counters together with the usage rows. The last minutes are not counted there: they
are read from the usage rows when the product starts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from storage.base import Connection
from storage.keys import KeyHolder, select_key_by_digest
from storage.ledger import WalletRow, select_wallet
from storage.vendor_keys import select_vendor_keys


@dataclass(frozen=True, slots=True)
class QuotaRow:
    """`subject` is key:ID, user:ID or tier:NAME. `day` and `month` are like 2026-02-28 and 2026-02. Money:
    nano-USD.
    """

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
    """The requests of one key that ended within one second. `second` is counted from the epoch."""

    key_id: str
    user_id: str
    second: int
    requests: int
    tokens: int


async def select_quota(connection: Connection, subject: str) -> QuotaRow | None:
    """None if nothing has been counted yet."""
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
    """The counters that exist, by subject."""
    found = [await select_quota(connection, subject) for subject in subjects]
    return {row.subject: row for row in found if row is not None}


async def select_holder_with_quotas(
    connection: Connection, digest: bytes
) -> tuple[KeyHolder, QuotaRow | None, QuotaRow | None, WalletRow | None] | None:
    """The key with this digest, its counters, those of its user, and the user's wallet; None if there is no
    such key.
    """
    holder = await select_key_by_digest(connection, digest)
    if holder is None:
        return None
    key = await select_quota(connection, f"key:{holder.key.id}")
    user = await select_quota(connection, f"user:{holder.key.user_id}")
    wallet = await select_wallet(connection, holder.key.user_id)
    holder = replace(holder, vendor_keys=await select_vendor_keys(connection, holder.key.user_id))
    return holder, key, user, wallet


async def select_recent(connection: Connection, now: int, *, within: int, longest: int) -> list[RecentUse]:
    """Requests with a key that ended at most `within` before `now` and took at most `longest` milliseconds,
    ordered by their end.

    Requests up to `within` after `now` are included, because the clock may have been set back. The primary
    key starts with the time of arrival, so only the end of the log is read.
    """
    ended = now - within
    rows = await connection.all(SELECT_RECENT, since=ended - longest, until=now + within, ended=ended)
    return [RecentUse(*row) for row in rows]


SELECT_RECENT = """
    SELECT
        key_id, user_id, (at + duration_ms) / 1000 AS second, count(*),
        CAST(sum(coalesce(input_tokens, 0) + coalesce(output_tokens, 0)) AS BIGINT)
    FROM usage WHERE at > :since AND at <= :until AND at + duration_ms > :ended AND key_id <> ''
    GROUP BY key_id, user_id, second ORDER BY second
"""
