"""Marks of events that are written once, such as one for each share of a budget in a month."""

from collections.abc import Sequence

from storage.base import Connection
from storage.events import EventRow, insert_event


async def insert_event_once(
    connection: Connection, marks: Sequence[str], event: EventRow | None, now: int
) -> bool:
    """Set the marks, and insert the event if the first one was not set yet. Returns whether it was not."""
    fresh = False
    for number, mark in enumerate(marks):
        added = await connection.execute(
            "INSERT INTO event_marks (mark, at) VALUES (:mark, :now) ON CONFLICT (mark) DO NOTHING",
            mark=mark,
            now=now,
        )
        fresh = fresh or (number == 0 and added == 1)
    if fresh and event is not None:
        await insert_event(connection, event)
    return fresh


async def delete_old_marks(connection: Connection, before: int, limit: int) -> int:
    """Delete up to `limit` marks that were set before `before`. Returns their number."""
    return await connection.execute(
        """
        DELETE FROM event_marks WHERE mark IN (
            SELECT mark FROM event_marks WHERE at < :before ORDER BY at LIMIT :limit
        )
        """,
        before=before,
        limit=limit,
    )
