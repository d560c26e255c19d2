"""Statements: the entries of one user in the ledger over a time."""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.base import Connection
from storage.chain import ChainPosition
from storage.ledger import ChainedLedgerRow, EntryKind, LedgerRow


@dataclass(frozen=True, slots=True)
class KindSum:
    """The entries of one kind: their number, and their sum in nano-USD as a change of the balance."""

    kind: EntryKind
    entries: int
    nano: int


async def select_balance_before(connection: Connection, user_id: str, at: int) -> int | None:
    """The sum of all entries before `at` (milliseconds) in nano-USD; None if the user has no entry at all."""
    row = await connection.one(
        """
        SELECT count(*), CAST(coalesce(sum(
            CASE WHEN at >= :at THEN 0 WHEN credit = :wallet THEN amount_nano
                WHEN debit = :wallet THEN -amount_nano ELSE 0 END
        ), 0) AS BIGINT)
        FROM ledger WHERE user_id = :user_id
        """,
        user_id=user_id,
        at=at,
        wallet=f"wallet:{user_id}",
    )
    return None if row is None or not row[0] else int(row[1])


async def select_kind_sums(connection: Connection, user_id: str, since: int, until: int) -> Sequence[KindSum]:
    """The sums of the entries in [since, until), in milliseconds, by kind."""
    rows = await connection.all(
        """
        SELECT kind, count(*), CAST(sum(
            CASE WHEN credit = :wallet THEN amount_nano WHEN debit = :wallet THEN -amount_nano ELSE 0 END
        ) AS BIGINT)
        FROM ledger WHERE user_id = :user_id AND at >= :since AND at < :until
        GROUP BY kind ORDER BY kind
        """,
        user_id=user_id,
        since=since,
        until=until,
        wallet=f"wallet:{user_id}",
    )
    return [KindSum(*row) for row in rows]


async def select_entries_between(
    connection: Connection, user_id: str, since: int, until: int, after: int, limit: int
) -> Sequence[ChainedLedgerRow]:
    """The entries in [since, until), in milliseconds, with a number above `after`, oldest first."""
    rows = await connection.all(
        """
        SELECT seq, hash, id, at, kind, debit, credit, amount_nano, user_id, reference, detail
        FROM ledger
        WHERE user_id = :user_id AND seq > :after AND at >= :since AND at < :until
        ORDER BY seq LIMIT :limit
        """,
        user_id=user_id,
        since=since,
        until=until,
        after=after,
        limit=limit,
    )
    return [ChainedLedgerRow(ChainPosition(*row[:2]), LedgerRow(*row[2:])) for row in rows]
