"""Deliveries of events to endpoints of webhooks, and their attempts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from storage.base import Connection

DeliveryState = Literal["pending", "delivered", "failed"]


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """An event for an endpoint. `since`: when the current schedule of tries began, `tries`: how many tries of
    it failed. `next_at` is None unless it is pending.
    """

    id: str
    webhook_id: str
    event_id: str
    kind: str
    body: str
    state: DeliveryState
    tries: int
    since: int
    next_at: int | None
    created_at: int


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """`status` is None without an answer; then `error` says why. `answer`: the beginning of the body."""

    delivery_id: str
    number: int
    at: int
    status: int | None
    error: str
    duration_ms: int
    answer: str


async def insert_deliveries(connection: Connection, rows: Sequence[DeliveryRow]) -> None:
    if rows:
        await connection.many(
            """
            INSERT INTO webhook_deliveries (
                id, webhook_id, event_id, kind, body, state, tries, since, next_at, created_at
            ) VALUES (
                :id, :webhook_id, :event_id, :kind, :body, :state, :tries, :since, :next_at, :created_at
            )
            """,
            rows,
        )


async def has_many_pending(connection: Connection, webhook_id: str, limit: int) -> bool:
    """Whether more than `limit` deliveries of an endpoint wait."""
    found = await connection.value(
        """
        SELECT 1 FROM webhook_deliveries WHERE webhook_id = :webhook_id AND next_at IS NOT NULL
        ORDER BY webhook_id, next_at LIMIT 1 OFFSET :limit
        """,
        webhook_id=webhook_id,
        limit=limit,
    )
    return found is not None


async def select_due_webhooks(connection: Connection) -> Sequence[tuple[str, int]]:
    """Endpoints with deliveries that wait, and when the first of them is due. Those of disabled accounts get
    nothing.
    """
    rows = await connection.all(
        """
        SELECT id, due FROM (
            SELECT webhooks.id AS id, (
                SELECT min(next_at) FROM webhook_deliveries
                WHERE webhook_id = webhooks.id AND next_at IS NOT NULL
            ) AS due
            FROM webhooks
            WHERE enabled = 1
            AND NOT EXISTS (SELECT 1 FROM users WHERE id = webhooks.owner AND disabled_at IS NOT NULL)
        ) AS waiting WHERE due IS NOT NULL ORDER BY due
        """
    )
    return [(row[0], row[1]) for row in rows]


async def select_due_deliveries(
    connection: Connection, webhook_id: str, now: int, limit: int
) -> Sequence[DeliveryRow]:
    """Those that have waited longest first."""
    rows = await connection.all(
        """
        SELECT id, webhook_id, event_id, kind, body, state, tries, since, next_at, created_at
        FROM webhook_deliveries WHERE webhook_id = :webhook_id AND next_at <= :now
        ORDER BY webhook_id, next_at, id LIMIT :limit
        """,
        webhook_id=webhook_id,
        now=now,
        limit=limit,
    )
    return [DeliveryRow(*row) for row in rows]


async def select_deliveries(
    connection: Connection, webhook_id: str, before: str, limit: int
) -> Sequence[DeliveryRow]:
    """The log of an endpoint: deliveries with an ID below `before`, newest first."""
    rows = await connection.all(
        """
        SELECT id, webhook_id, event_id, kind, body, state, tries, since, next_at, created_at
        FROM webhook_deliveries WHERE webhook_id = :webhook_id AND id < :before
        ORDER BY webhook_id DESC, id DESC LIMIT :limit
        """,
        webhook_id=webhook_id,
        before=before,
        limit=limit,
    )
    return [DeliveryRow(*row) for row in rows]


async def select_delivery(connection: Connection, webhook_id: str, delivery_id: str) -> DeliveryRow | None:
    row = await connection.one(
        """
        SELECT id, webhook_id, event_id, kind, body, state, tries, since, next_at, created_at
        FROM webhook_deliveries WHERE id = :id AND webhook_id = :webhook_id
        """,
        id=delivery_id,
        webhook_id=webhook_id,
    )
    return None if row is None else DeliveryRow(*row)


async def update_delivery(connection: Connection, row: DeliveryRow) -> bool:
    """Write what changes with an attempt. False: it does not exist any more."""
    changed = await connection.execute(
        """
        UPDATE webhook_deliveries SET state = :state, tries = :tries, since = :since, next_at = :next_at
        WHERE id = :id
        """,
        id=row.id,
        state=row.state,
        tries=row.tries,
        since=row.since,
        next_at=row.next_at,
    )
    return changed == 1


async def fail_pending_deliveries(connection: Connection, webhook_id: str) -> int:
    """Those that wait are not tried any more. Returns their number."""
    return await connection.execute(
        """
        UPDATE webhook_deliveries SET state = 'failed', next_at = NULL
        WHERE webhook_id = :webhook_id AND next_at IS NOT NULL
        """,
        webhook_id=webhook_id,
    )


async def insert_attempt(connection: Connection, row: AttemptRow) -> None:
    """`number` of the row is ignored: the next one is used."""
    await connection.many(
        """
        INSERT INTO webhook_attempts (delivery_id, number, at, status, error, duration_ms, answer)
        SELECT
            CAST(:delivery_id AS TEXT), coalesce(max(number), 0) + 1, CAST(:at AS BIGINT),
            CAST(:status AS BIGINT), CAST(:error AS TEXT), CAST(:duration_ms AS BIGINT), CAST(:answer AS TEXT)
        FROM webhook_attempts WHERE delivery_id = CAST(:delivery_id AS TEXT)
        """,
        [row],
    )


async def select_attempts(connection: Connection, delivery_id: str) -> Sequence[AttemptRow]:
    """Oldest first."""
    rows = await connection.all(
        """
        SELECT delivery_id, number, at, status, error, duration_ms, answer
        FROM webhook_attempts WHERE delivery_id = :delivery_id ORDER BY number
        """,
        delivery_id=delivery_id,
    )
    return [AttemptRow(*row) for row in rows]


async def delete_old_deliveries(connection: Connection, before: str, limit: int) -> int:
    """Delete up to `limit` finished deliveries with an ID below `before`. Returns their number."""
    return await connection.execute(
        """
        DELETE FROM webhook_deliveries WHERE id IN (
            SELECT id FROM webhook_deliveries WHERE id < :before AND next_at IS NULL ORDER BY id LIMIT :limit
        )
        """,
        before=before,
        limit=limit,
    )
