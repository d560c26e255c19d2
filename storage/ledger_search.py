"""Entries of the ledger that match filters, newest first, with a bound on the rows that are read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, LiteralString

from storage.base import Connection
from storage.chain import ChainPosition
from storage.ledger import ChainedLedgerRow, EntryKind, LedgerRow

SCANNED: Final = 5_000
"""Entries that one page reads at most, so that a filter that matches few does not read the whole ledger."""
NEWEST: Final = 2**62


@dataclass(frozen=True, slots=True)
class LedgerQuery:
    """At most `limit` entries with a number below `before`. Times are in [since, until), in milliseconds.
    None for a filter means that it does not apply.
    """

    limit: int
    before: int = NEWEST
    user_id: str | None = None
    kind: EntryKind | None = None
    since: int | None = None
    until: int | None = None
    scan: int = SCANNED

    def after(self, page: "LedgerPage") -> "LedgerQuery":
        """The query of the page that follows."""
        return self if page.next is None else replace(self, before=page.next)


@dataclass(frozen=True, slots=True)
class LedgerPage:
    """`next` is the number that the next page is below; None after the last page. A page can have fewer
    entries than the limit and still have a next one, because a page reads at most `scan` entries.
    """

    rows: Sequence[ChainedLedgerRow]
    next: int | None


async def select_entries(connection: Connection, query: LedgerQuery) -> LedgerPage:
    within: dict[str, object] = {"before": query.before}
    if query.user_id is not None:
        within["user_id"] = query.user_id
    given = {name: value for name in _FILTERS if (value := getattr(query, name)) is not None}
    found = await connection.all(
        entries_statement(query), scan=query.scan, limit=query.limit + 1, **within, **given
    )
    rows = [ChainedLedgerRow(ChainPosition(*row[:2]), LedgerRow(*row[2:])) for row in found[: query.limit]]
    if len(found) > query.limit:
        return LedgerPage(rows, rows[-1].position.seq)
    last = await connection.value(_last_statement(query), last=query.scan - 1, **within)
    return LedgerPage(rows, None if last is None else int(str(last)))


def entries_statement(query: LedgerQuery) -> LiteralString:
    """The inner query reads entries in the order of an index, the outer one filters them."""
    conditions: LiteralString = "".join(
        text for name, text in _FILTERS.items() if getattr(query, name) is not None
    )
    return (
        "SELECT seq, hash, id, at, kind, debit, credit, amount_nano, user_id, reference, detail"  # noqa: S608
        " FROM (SELECT * FROM ledger WHERE"
        + _within(query)
        + " LIMIT :scan) AS scanned WHERE 1 = 1"
        + conditions
        + " ORDER BY seq DESC LIMIT :limit"
    )


def _last_statement(query: LedgerQuery) -> LiteralString:
    """The last entry that entries_statement reads, if it does not read all of them."""
    return "SELECT seq FROM ledger WHERE" + _within(query) + " LIMIT 1 OFFSET :last"  # noqa: S608 - literals


def _within(query: LedgerQuery) -> LiteralString:
    owner: LiteralString = "" if query.user_id is None else " AND user_id = :user_id"
    return " seq < :before" + owner + " ORDER BY seq DESC"


_FILTERS: Final[dict[str, LiteralString]] = {
    "kind": " AND kind = :kind",
    "since": " AND at >= :since",
    "until": " AND at < :until",
}
