"""The audit log: who changed what. Append-only."""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.base import Connection


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One act. `detail` is a JSON object in text and holds no secret; `address` is where it came from."""

    id: str
    at: int
    actor: str
    action: str
    subject: str
    detail: str
    address: str


async def insert_audit(connection: Connection, entry: AuditRow) -> None:
    """To be called in the unit that does what the entry tells of."""
    await connection.many(
        """
        INSERT INTO audit (id, at, actor, action, subject, detail, address)
        VALUES (:id, :at, :actor, :action, :subject, :detail, :address)
        """,
        [entry],
    )


async def select_audit(connection: Connection, before: tuple[int, str], limit: int) -> Sequence[AuditRow]:
    """Entries below a position `(at, id)`, newest first."""
    rows = await connection.all(
        """
        SELECT id, at, actor, action, subject, detail, address
        FROM audit WHERE (at, id) < (:at, :id) ORDER BY at DESC, id DESC LIMIT :limit
        """,
        at=before[0],
        id=before[1],
        limit=limit,
    )
    return [AuditRow(*row) for row in rows]
