"""The audit log: who changed what. Rows are only appended; they form the hash chain "audit".

A unit of work that changes something first calls insert_audit, or lock_audit_head if it must read before it
knows what it changes. It locks nothing before that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Final, LiteralString

from storage.base import Connection, Row
from storage.chain import START, ChainCheck, ChainPosition, check_rows, lock_head, next_position

CHAIN: Final = "audit"


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One change. `detail` is a JSON object as text and holds no secret; `address` is the client's."""

    id: str
    at: int
    actor: str
    action: str
    subject: str
    detail: str
    address: str


@dataclass(frozen=True, slots=True)
class ChainedAuditRow:
    position: ChainPosition
    row: AuditRow


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """Selects at most `limit` rows, newest first, rows of one time by falling number.

    Only rows that follow row number `before` in that order. Times are in [since, until). A filter that is
    None does not apply.
    """

    before: int
    limit: int
    actor: str | None = None
    action: str | None = None
    subject: str | None = None
    since: int = 0
    until: int = 2**62

    @property
    def filters(self) -> dict[str, str]:
        given = {"actor": self.actor, "action": self.action, "subject": self.subject}
        return {name: value for name, value in given.items() if value is not None}


async def lock_audit_head(connection: Connection) -> ChainPosition | None:
    """Until the unit ends, no other unit appends to the audit log."""
    return await lock_head(connection, CHAIN)


async def insert_audit(connection: Connection, row: AuditRow) -> None:
    head = await lock_audit_head(connection)
    newest = await connection.one("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1")
    last = START if newest is None else ChainPosition(*newest)
    position = await next_position(connection, CHAIN, head, last, astuple(row))
    await connection.execute(
        """
        INSERT INTO audit (seq, id, at, actor, action, subject, detail, address, hash)
        VALUES (:seq, :id, :at, :actor, :action, :subject, :detail, :address, :hash)
        """,
        seq=position.seq,
        id=row.id,
        at=row.at,
        actor=row.actor,
        action=row.action,
        subject=row.subject,
        detail=row.detail,
        address=row.address,
        hash=position.hash,
    )


async def check_audit(
    connection: Connection, at: ChainPosition, expected: ChainPosition | None, limit: int
) -> ChainCheck:
    """Check at most `limit` rows after `at`, which was checked before. See storage.chain.check_rows."""
    rows = await connection.all(
        """
        SELECT seq, hash, id, at, actor, action, subject, detail, address
        FROM audit WHERE seq > :after ORDER BY seq LIMIT :limit
        """,
        after=at.seq,
        limit=limit,
    )
    links = ((ChainPosition(*row[:2]), tuple(row[2:])) for row in rows)
    return await check_rows(connection, CHAIN, at, links, expected=expected, last=len(rows) < limit)


async def select_audit(connection: Connection, query: AuditQuery) -> Sequence[ChainedAuditRow]:
    # If the row `before` is missing, the next higher one has its place; above all rows there is no bound.
    row = await connection.one(
        "SELECT at FROM audit WHERE seq >= :before ORDER BY seq LIMIT 1", before=query.before
    )
    end = (query.until, 0)
    end_at, end_seq = end if row is None else min(end, (row[0], query.before))
    rows = await connection.all(
        audit_statement(query),
        since=query.since,
        end_at=end_at,
        end_seq=end_seq,
        limit=query.limit,
        **query.filters,
    )
    return [_chained_row(row) for row in rows]


def _chained_row(row: Row) -> ChainedAuditRow:
    return ChainedAuditRow(ChainPosition(*row[:2]), AuditRow(*row[2:]))


_CONDITIONS: Final[Mapping[str, LiteralString]] = {
    "actor": " AND actor = :actor",
    "action": " AND action = :action",
    "subject": " AND subject = :subject",
}


def audit_statement(query: AuditQuery) -> LiteralString:
    """Names only the filters that are given: `:actor IS NULL OR actor = :actor` would not use an index. The
    combined bound of time and number lets a page start at its first row.
    """
    conditions = "".join(_CONDITIONS[name] for name in query.filters)
    return (
        "SELECT seq, hash, id, at, actor, action, subject, detail, address FROM audit"  # noqa: S608 - literals
        " WHERE at >= :since AND (at, seq) < (:end_at, :end_seq)"
        + conditions
        + " ORDER BY at DESC, seq DESC LIMIT :limit"
    )
