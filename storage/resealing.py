"""All columns that are encrypted with the master key, to encrypt them with another one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, LiteralString

from storage.base import Connection

Position = tuple[str, int]
START: Final[Position] = ("", -1)


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """`select` gives ID, position and value of the next rows, `update` replaces a value."""

    name: str
    select: LiteralString
    update: LiteralString


SEALED_COLUMNS: Final = (
    SealedColumn(
        "servers.sealed_api_keys",
        """
        SELECT id, 0, sealed_api_keys FROM servers
        WHERE sealed_api_keys IS NOT NULL AND (id, 0) > (:id, CAST(:position AS BIGINT))
        ORDER BY id LIMIT :limit
        """,
        "UPDATE servers SET sealed_api_keys = :sealed WHERE id = :id AND CAST(:position AS BIGINT) = 0",
    ),
    SealedColumn(
        "servers.sealed_headers",
        """
        SELECT id, 0, sealed_headers FROM servers
        WHERE sealed_headers IS NOT NULL AND (id, 0) > (:id, CAST(:position AS BIGINT))
        ORDER BY id LIMIT :limit
        """,
        "UPDATE servers SET sealed_headers = :sealed WHERE id = :id AND CAST(:position AS BIGINT) = 0",
    ),
    SealedColumn(
        "vendor_keys.sealed_api_key",
        """
        SELECT id, 0, sealed_api_key FROM vendor_keys WHERE (id, 0) > (:id, CAST(:position AS BIGINT))
        ORDER BY id LIMIT :limit
        """,
        "UPDATE vendor_keys SET sealed_api_key = :sealed WHERE id = :id AND CAST(:position AS BIGINT) = 0",
    ),
    SealedColumn(
        "webhooks.sealed_secret",
        """
        SELECT id, 0, sealed_secret FROM webhooks WHERE (id, 0) > (:id, CAST(:position AS BIGINT))
        ORDER BY id LIMIT :limit
        """,
        "UPDATE webhooks SET sealed_secret = :sealed WHERE id = :id AND CAST(:position AS BIGINT) = 0",
    ),
    SealedColumn(
        "webhooks.sealed_previous",
        """
        SELECT id, 0, sealed_previous FROM webhooks
        WHERE sealed_previous IS NOT NULL AND (id, 0) > (:id, CAST(:position AS BIGINT))
        ORDER BY id LIMIT :limit
        """,
        "UPDATE webhooks SET sealed_previous = :sealed WHERE id = :id AND CAST(:position AS BIGINT) = 0",
    ),
    SealedColumn(
        "mail_outbox.sealed",
        """
        SELECT id, 0, sealed FROM mail_outbox WHERE (id, 0) > (:id, CAST(:position AS BIGINT))
        ORDER BY id LIMIT :limit
        """,
        "UPDATE mail_outbox SET sealed = :sealed WHERE id = :id AND CAST(:position AS BIGINT) = 0",
    ),
    SealedColumn(
        "second_factors.sealed_secret",
        """
        SELECT user_id, 0, sealed_secret FROM second_factors
        WHERE (user_id, 0) > (:id, CAST(:position AS BIGINT))
        ORDER BY user_id LIMIT :limit
        """,
        """
        UPDATE second_factors SET sealed_secret = :sealed
        WHERE user_id = :id AND CAST(:position AS BIGINT) = 0
        """,
    ),
    SealedColumn(
        "stored_responses.sealed",
        """
        SELECT id, 0, sealed FROM stored_responses WHERE (id, 0) > (:id, CAST(:position AS BIGINT))
        ORDER BY id LIMIT :limit
        """,
        "UPDATE stored_responses SET sealed = :sealed WHERE id = :id AND CAST(:position AS BIGINT) = 0",
    ),
    SealedColumn(
        "prompt_log.sealed_preview",
        """
        SELECT id, 0, sealed_preview FROM prompt_log WHERE (id, 0) > (:id, CAST(:position AS BIGINT))
        ORDER BY id LIMIT :limit
        """,
        "UPDATE prompt_log SET sealed_preview = :sealed WHERE id = :id AND CAST(:position AS BIGINT) = 0",
    ),
    SealedColumn(
        "prompt_log.sealed",
        """
        SELECT id, 0, sealed FROM prompt_log WHERE (id, 0) > (:id, CAST(:position AS BIGINT))
        ORDER BY id LIMIT :limit
        """,
        "UPDATE prompt_log SET sealed = :sealed WHERE id = :id AND CAST(:position AS BIGINT) = 0",
    ),
    SealedColumn(
        "chats.sealed",
        """
        SELECT id, 0, sealed FROM chats WHERE (id, 0) > (:id, CAST(:position AS BIGINT))
        ORDER BY id LIMIT :limit
        """,
        "UPDATE chats SET sealed = :sealed WHERE id = :id AND CAST(:position AS BIGINT) = 0",
    ),
    SealedColumn(
        "chat_messages.sealed",
        """
        SELECT chat_id, position, sealed FROM chat_messages
        WHERE (chat_id, position) > (:id, CAST(:position AS BIGINT))
        ORDER BY chat_id, position LIMIT :limit
        """,
        """
        UPDATE chat_messages SET sealed = :sealed
        WHERE chat_id = :id AND position = CAST(:position AS BIGINT)
        """,
    ),
)


@dataclass(frozen=True, slots=True)
class ResealedBatch:
    """`end` is None after the last row. `unreadable` values stay as they are."""

    end: Position | None
    changed: int
    unreadable: int


async def reseal_batch(
    connection: Connection,
    column: SealedColumn,
    after: Position,
    limit: int,
    reseal: Callable[[bytes], bytes | None],
) -> ResealedBatch:
    """`reseal` gives the new value, or None for one that it cannot decrypt."""
    rows = await connection.all(column.select, id=after[0], position=after[1], limit=limit)
    unreadable = 0
    for row_id, position, sealed in rows:
        new = reseal(bytes(sealed))
        if new is None:
            unreadable += 1
        else:
            await connection.execute(column.update, id=row_id, position=position, sealed=new)
    end = (str(rows[-1][0]), int(rows[-1][1])) if len(rows) == limit else None
    return ResealedBatch(end, len(rows) - unreadable, unreadable)
