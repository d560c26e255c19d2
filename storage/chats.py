"""Chats of the playground and their messages, encrypted (sealed) by the caller."""

from collections.abc import Sequence
from dataclasses import dataclass

from storage.base import Connection


@dataclass(frozen=True, slots=True)
class ChatRow:
    """`messages` and `size` (bytes before encryption, of all messages) count what the chat contains."""

    id: str
    user_id: str
    sealed: bytes
    messages: int
    size: int
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True)
class ChatMessageRow:
    """Message number `position`, from 0, of a chat. `size`: bytes before encryption."""

    chat_id: str
    position: int
    sealed: bytes
    size: int
    created_at: int


async def insert_chat(connection: Connection, row: ChatRow) -> None:
    """Raises IntegrityError if the account was deleted."""
    await connection.many(
        """
        INSERT INTO chats (id, user_id, sealed, messages, size, created_at, updated_at)
        VALUES (:id, :user_id, :sealed, :messages, :size, :created_at, :updated_at)
        """,
        [row],
    )


async def select_chats(
    connection: Connection, user_id: str, after: str | None, limit: int
) -> Sequence[ChatRow]:
    """The chats of an account, the most recently changed first. `after`: the ID of the last one before."""
    if after is None:
        rows = await connection.all(
            """
            SELECT id, user_id, sealed, messages, size, created_at, updated_at FROM chats
            WHERE user_id = :user_id ORDER BY updated_at DESC, id DESC LIMIT :limit
            """,
            user_id=user_id,
            limit=limit,
        )
    else:
        rows = await connection.all(
            """
            SELECT id, user_id, sealed, messages, size, created_at, updated_at FROM chats
            WHERE user_id = :user_id AND (updated_at, id) < (
                SELECT updated_at, id FROM chats WHERE id = :after AND user_id = :user_id
            )
            ORDER BY updated_at DESC, id DESC LIMIT :limit
            """,
            user_id=user_id,
            after=after,
            limit=limit,
        )
    return [ChatRow(*row) for row in rows]


async def select_chat(connection: Connection, user_id: str, chat_id: str) -> ChatRow | None:
    """The chat if it belongs to the account."""
    row = await connection.one(
        """
        SELECT id, user_id, sealed, messages, size, created_at, updated_at FROM chats
        WHERE id = :id AND user_id = :user_id
        """,
        id=chat_id,
        user_id=user_id,
    )
    return None if row is None else ChatRow(*row)


async def select_chat_messages(connection: Connection, chat_id: str) -> Sequence[ChatMessageRow]:
    """In order."""
    rows = await connection.all(
        """
        SELECT chat_id, position, sealed, size, created_at FROM chat_messages
        WHERE chat_id = :chat_id ORDER BY position
        """,
        chat_id=chat_id,
    )
    return [ChatMessageRow(*row) for row in rows]


async def update_chat(connection: Connection, chat_id: str, sealed: bytes, now: int) -> None:
    await connection.execute(
        "UPDATE chats SET sealed = :sealed, updated_at = :now WHERE id = :id",
        sealed=sealed,
        now=now,
        id=chat_id,
    )


async def lock_chat(connection: Connection, user_id: str, chat_id: str) -> ChatRow | None:
    """As `select_chat`. Other changes of the chat wait for the end of this transaction."""
    await connection.execute(
        "UPDATE chats SET size = size WHERE id = :id AND user_id = :user_id", id=chat_id, user_id=user_id
    )
    return await select_chat(connection, user_id, chat_id)


async def select_chats_size(connection: Connection, user_id: str) -> int:
    """Bytes of all messages of an account."""
    size = await connection.value(
        "SELECT coalesce(sum(size), 0) FROM chats WHERE user_id = :user_id", user_id=user_id
    )
    return int(str(size))


async def insert_chat_messages(
    connection: Connection, chat: ChatRow, rows: Sequence[ChatMessageRow], now: int
) -> None:
    """Add messages at the end of a chat that is locked."""
    await connection.many(
        """
        INSERT INTO chat_messages (chat_id, position, sealed, size, created_at)
        VALUES (:chat_id, :position, :sealed, :size, :created_at)
        """,
        rows,
    )
    await connection.execute(
        "UPDATE chats SET messages = :messages, size = :size, updated_at = :now WHERE id = :id",
        messages=chat.messages + len(rows),
        size=chat.size + sum(row.size for row in rows),
        now=now,
        id=chat.id,
    )


async def delete_chat_messages(connection: Connection, chat_id: str, position: int, now: int) -> None:
    """Delete the message at `position` of a locked chat and all messages after it."""
    await connection.execute(
        "DELETE FROM chat_messages WHERE chat_id = :id AND position >= :position",
        id=chat_id,
        position=position,
    )
    await connection.execute(
        """
        UPDATE chats SET
            messages = :position,
            size = (SELECT coalesce(sum(size), 0) FROM chat_messages WHERE chat_id = :id),
            updated_at = :now
        WHERE id = :id
        """,
        id=chat_id,
        position=position,
        now=now,
    )


async def delete_chat(connection: Connection, user_id: str, chat_id: str) -> bool:
    """False: the account has no such chat."""
    deleted = await connection.execute(
        "DELETE FROM chats WHERE id = :id AND user_id = :user_id", id=chat_id, user_id=user_id
    )
    return deleted == 1


async def delete_chats(connection: Connection, user_id: str) -> int:
    """Delete all chats of an account. Returns how many."""
    return await connection.execute("DELETE FROM chats WHERE user_id = :user_id", user_id=user_id)
