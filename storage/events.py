"""Events: what has happened, for consumers such as mail and webhooks.

A unit of work inserts its event in the transaction that changes something, so that neither exists without the
other. Later the dispatcher hands new events to the consumers and marks them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.base import Connection


@dataclass(frozen=True, slots=True)
class EventRow:
    """`id` is a UUIDv7, which orders events. `account_id`: the user that it concerns; None: only operators.
    `data` is a JSON object as text and holds no secret.
    """

    id: str
    kind: str
    account_id: str | None
    at: int
    data: str


async def insert_event(connection: Connection, row: EventRow) -> None:
    """Part of a transaction."""
    await insert_events(connection, (row,))


async def insert_events(connection: Connection, rows: Sequence[EventRow]) -> None:
    """Part of a transaction. An event whose id exists already is left out."""
    if not rows:
        return
    connection.has_events = True
    await connection.many(
        """
        INSERT INTO events (id, kind, account_id, at, data, dispatched_at)
        VALUES (:id, :kind, :account_id, :at, :data, NULL) ON CONFLICT (id) DO NOTHING
        """,
        rows,
    )


async def select_new_events(connection: Connection, limit: int) -> Sequence[EventRow]:
    """Events that were not dispatched, oldest first."""
    rows = await connection.all(
        """
        SELECT id, kind, account_id, at, data FROM events
        WHERE dispatched_at IS NULL ORDER BY id LIMIT :limit
        """,
        limit=limit,
    )
    return [EventRow(*row) for row in rows]


async def mark_event_dispatched(connection: Connection, event_id: str, now: int) -> bool:
    """False: it is marked already."""
    changed = await connection.execute(
        "UPDATE events SET dispatched_at = :now WHERE id = :event_id AND dispatched_at IS NULL",
        event_id=event_id,
        now=now,
    )
    return changed == 1


async def delete_events(connection: Connection, before: str, limit: int) -> int:
    """Delete up to `limit` events whose id is below `before`, the oldest first. Returns their number."""
    return await connection.execute(
        """
        DELETE FROM events WHERE id IN (
            SELECT id FROM events WHERE id < :before ORDER BY id LIMIT :limit
        )
        """,
        before=before,
        limit=limit,
    )
