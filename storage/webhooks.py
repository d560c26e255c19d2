"""Endpoints of webhooks. Their secrets are encrypted (sealed) by the caller."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from storage.base import Connection, Row

OPERATORS: Final = ""
"""The owner of endpoints of the operators, which get the events of all accounts."""


@dataclass(frozen=True, slots=True)
class WebhookRow:
    """`owner`: the ID of a user, or OPERATORS. `events`: kinds, groups such as "payment.*", or "*". The
    previous secret signs too until `previous_until`. `disabled_reason` is empty if the owner disabled it.
    """

    id: str
    owner: str
    url: str
    description: str
    events: tuple[str, ...]
    sealed_secret: bytes
    sealed_previous: bytes | None
    previous_until: int | None
    enabled: bool
    disabled_reason: str
    last_success_at: int | None
    created_at: int
    updated_at: int


async def insert_webhook(connection: Connection, row: WebhookRow) -> None:
    await connection.execute(
        """
        INSERT INTO webhooks (
            id, owner, url, description, events, sealed_secret, sealed_previous, previous_until, enabled,
            disabled_reason, last_success_at, created_at, updated_at
        ) VALUES (
            :id, :owner, :url, :description, :events, :sealed_secret, :sealed_previous, :previous_until,
            :enabled, :disabled_reason, :last_success_at, :created_at, :updated_at
        )
        """,
        owner=row.owner,
        last_success_at=row.last_success_at,
        created_at=row.created_at,
        **_changeable(row),
    )


async def select_webhooks(connection: Connection, owner: str) -> Sequence[WebhookRow]:
    """All endpoints of an owner, in the order of their creation."""
    rows = await connection.all(
        """
        SELECT
            id, owner, url, description, events, sealed_secret, sealed_previous, previous_until, enabled,
            disabled_reason, last_success_at, created_at, updated_at
        FROM webhooks WHERE owner = :owner ORDER BY id
        """,
        owner=owner,
    )
    return [_row(row) for row in rows]


async def select_listening_webhooks(connection: Connection, account: str | None) -> Sequence[WebhookRow]:
    """Enabled endpoints that get the events of an account: those of the operators and its own. A disabled
    account gets none.
    """
    rows = await connection.all(
        """
        SELECT
            id, owner, url, description, events, sealed_secret, sealed_previous, previous_until, enabled,
            disabled_reason, last_success_at, created_at, updated_at
        FROM webhooks
        WHERE enabled = 1 AND (
            owner = '' OR owner IN (SELECT id FROM users WHERE id = :account AND disabled_at IS NULL)
        )
        ORDER BY owner, id
        """,
        account=account,
    )
    return [_row(row) for row in rows]


async def select_webhook(connection: Connection, webhook_id: str) -> WebhookRow | None:
    row = await connection.one(
        """
        SELECT
            id, owner, url, description, events, sealed_secret, sealed_previous, previous_until, enabled,
            disabled_reason, last_success_at, created_at, updated_at
        FROM webhooks WHERE id = :id
        """,
        id=webhook_id,
    )
    return None if row is None else _row(row)


async def update_webhook(connection: Connection, row: WebhookRow) -> None:
    """Write all columns but ID, owner, the last success and the creation time."""
    await connection.execute(
        """
        UPDATE webhooks SET
            url = :url, description = :description, events = :events, sealed_secret = :sealed_secret,
            sealed_previous = :sealed_previous, previous_until = :previous_until, enabled = :enabled,
            disabled_reason = :disabled_reason, updated_at = :updated_at
        WHERE id = :id
        """,
        **_changeable(row),
    )


async def set_webhook_success(connection: Connection, webhook_id: str, now: int) -> None:
    await connection.execute(
        "UPDATE webhooks SET last_success_at = :now WHERE id = :id", id=webhook_id, now=now
    )


async def delete_webhook(connection: Connection, webhook_id: str) -> None:
    """Delete an endpoint with its deliveries."""
    await connection.execute("DELETE FROM webhooks WHERE id = :id", id=webhook_id)


def _changeable(row: WebhookRow) -> dict[str, Any]:
    """What `update_webhook` writes, and the ID, as column values."""
    return {
        "id": row.id,
        "url": row.url,
        "description": row.description,
        "events": json.dumps(row.events),
        "sealed_secret": row.sealed_secret,
        "sealed_previous": row.sealed_previous,
        "previous_until": row.previous_until,
        "enabled": int(row.enabled),
        "disabled_reason": row.disabled_reason,
        "updated_at": row.updated_at,
    }


def _row(row: Row) -> WebhookRow:
    values = list(row)
    values[4] = tuple(json.loads(values[4]))
    values[8] = bool(values[8])
    return WebhookRow(*values)
