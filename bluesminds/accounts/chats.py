"""Chats of the playground. Titles and messages are encrypted with the master key."""

from collections.abc import Sequence
from typing import Final, TypeVar

import msgspec
import trio
from msgspec import UNSET, Struct, UnsetType, structs

from bluesminds.common.clock import Clock
from bluesminds.common.crypto import Vault, is_uuid, uuid7
from bluesminds.common.errors import Conflict, NotFound
from storage.base import Connection, IntegrityError, Store
from storage.chats import (
    ChatMessageRow,
    ChatRow,
    delete_chat,
    delete_chat_messages,
    delete_chats,
    insert_chat,
    insert_chat_messages,
    lock_chat,
    select_chat,
    select_chat_messages,
    select_chats,
    select_chats_size,
    update_chat,
)

T = TypeVar("T")
MAX_MESSAGES: Final = 1000  # of one chat
MAX_CHAT_BYTES: Final = 4 * 1024 * 1024  # the messages of one chat
MAX_ACCOUNT_BYTES: Final = 32 * 1024 * 1024  # the messages of all chats of an account
SCANNED_BYTES: Final = 8 * 1024 * 1024  # that one search decrypts


class ChatParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """What the requests of a chat contain besides the messages. Null: the default of the model."""

    system: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None


class ChatFacts(Struct, frozen=True):
    """The sealed fields of a chat."""

    title: str = ""
    model: str = ""
    parameters: ChatParameters = ChatParameters()


class ChatMessage(Struct, frozen=True):
    """One message. `images` are data URLs. The other fields describe an answer: `request_id` finds its
    receipt, and `stopped` is true if the user stopped it.
    """

    role: str
    text: str
    images: tuple[str, ...] = ()
    model: str | None = None
    request_id: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: str | None = None
    first_byte_ms: int | None = None
    duration_ms: int | None = None
    stopped: bool = False


class Chat(Struct, frozen=True):
    """`size` in bytes; times are wall time in milliseconds."""

    id: str
    facts: ChatFacts
    messages: int
    size: int
    created_at: int
    updated_at: int


class PostedMessage(Struct, frozen=True):
    position: int
    message: ChatMessage
    created_at: int


class ChatChanges(Struct, frozen=True):
    """UNSET fields stay the same."""

    title: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    parameters: ChatParameters | UnsetType = UNSET


class ChatSearchPage(Struct, frozen=True):
    """`next_after` is set if there are more chats to search."""

    chats: Sequence[Chat]
    next_after: str | None


class Chats:
    """The chats of each account. All methods treat the chat of another account as missing."""

    def __init__(self, store: Store, *, vault: Vault, clock: Clock) -> None:
        self._store = store
        self._vault = vault
        self._clock = clock

    async def list(self, user_id: str, after: str | None, limit: int) -> Sequence[Chat]:
        """The most recently changed chats first."""
        return [self._chat(row) for row in await self._store.read(select_chats, user_id, after, limit)]

    async def search(self, user_id: str, text: str, after: str | None, limit: int) -> ChatSearchPage:
        """The chats with `text` in the title or a message, in any case, the most recently changed first."""
        wanted, found, scanned = text.casefold(), list[Chat](), 0
        while rows := await self._store.read(select_chats, user_id, after, 1):
            (row,) = rows
            if len(found) == limit or scanned > SCANNED_BYTES:
                return ChatSearchPage(found, after)
            after = row.id
            scanned += row.size
            chat = self._chat(row)
            if wanted in chat.facts.title.casefold() or await self._contains(row.id, wanted):
                found.append(chat)
        return ChatSearchPage(found, None)

    async def create(self, user_id: str, facts: ChatFacts) -> Chat:
        """Raises NotFound if the account was deleted."""
        now = self._clock.now_ms()
        row = ChatRow(uuid7(now), user_id, self._seal(facts), 0, 0, now, now)
        try:
            await self._store.write(insert_chat, row)
        except IntegrityError as exc:
            raise _missing() from exc
        return self._chat(row)

    async def get(self, user_id: str, chat_id: str) -> tuple[Chat, Sequence[PostedMessage]]:
        """The chat with its messages. Raises NotFound."""
        row, messages = await self._store.read(_select_whole, user_id, _checked(chat_id))
        return self._chat(row), await self._open_messages(messages)

    async def change(self, user_id: str, chat_id: str, changes: ChatChanges) -> Chat:
        """Raises NotFound."""
        now = self._clock.now_ms()

        async def update(connection: Connection) -> ChatRow:
            row = await _locked(connection, user_id, chat_id)
            given = {name: value for name, value in structs.asdict(changes).items() if value is not UNSET}
            facts = structs.replace(self._chat(row).facts, **given)
            await update_chat(connection, row.id, self._seal(facts), now)
            return await _locked(connection, user_id, chat_id)

        return self._chat(await self._store.write(update))

    async def add(
        self, user_id: str, chat_id: str, messages: Sequence[ChatMessage]
    ) -> Sequence[PostedMessage]:
        """Add messages at the end. Raises NotFound, and Conflict if the chat or the account is full."""
        now = self._clock.now_ms()
        encoded = [msgspec.json.encode(message) for message in messages]
        sealed = [self._vault.seal_bytes(data) for data in encoded]

        async def insert(connection: Connection) -> int:
            chat = await _locked(connection, user_id, chat_id)
            size = sum(map(len, encoded))
            if chat.messages + len(messages) > MAX_MESSAGES or chat.size + size > MAX_CHAT_BYTES:
                raise Conflict("chat_full", "This chat is full. Start a new chat.")
            if await select_chats_size(connection, user_id) + size > MAX_ACCOUNT_BYTES:
                raise Conflict("chat_storage_full", "The space for your chats is full. Delete some chats.")
            rows = [
                ChatMessageRow(chat.id, chat.messages + index, data, len(encoded[index]), now)
                for index, data in enumerate(sealed)
            ]
            await insert_chat_messages(connection, chat, rows, now)
            return chat.messages

        first = await self._store.write(insert)
        return [PostedMessage(first + index, message, now) for index, message in enumerate(messages)]

    async def cut(self, user_id: str, chat_id: str, position: int) -> None:
        """Delete the message at `position` and all messages after it. Raises NotFound."""
        now = self._clock.now_ms()

        async def delete(connection: Connection) -> None:
            chat = await _locked(connection, user_id, chat_id)
            if not 0 <= position < chat.messages:
                raise NotFound("message_not_found", "The chat has no message at this position.")
            await delete_chat_messages(connection, chat.id, position, now)

        await self._store.write(delete)

    async def remove(self, user_id: str, chat_id: str) -> None:
        """Raises NotFound."""
        if not await self._store.write(delete_chat, user_id, _checked(chat_id)):
            raise _missing()

    async def remove_all(self, user_id: str) -> int:
        """Returns how many chats were deleted."""
        return await self._store.write(delete_chats, user_id)

    async def _contains(self, chat_id: str, wanted: str) -> bool:
        messages = await self._open_messages(await self._store.read(select_chat_messages, chat_id))
        return any(wanted in posted.message.text.casefold() for posted in messages)

    async def _open_messages(self, rows: Sequence[ChatMessageRow]) -> Sequence[PostedMessage]:
        def decrypt() -> list[PostedMessage]:
            return [
                PostedMessage(row.position, self._open(row.sealed, _messages), row.created_at) for row in rows
            ]

        return await trio.to_thread.run_sync(decrypt)  # megabytes would delay other requests

    def _chat(self, row: ChatRow) -> Chat:
        facts = self._open(row.sealed, _facts)
        return Chat(row.id, facts, row.messages, row.size, row.created_at, row.updated_at)

    def _seal(self, facts: ChatFacts) -> bytes:
        return self._vault.seal_bytes(msgspec.json.encode(facts))

    def _open(self, sealed: bytes, decoder: "msgspec.json.Decoder[T]") -> T:
        """Raises NotFound if the chat was encrypted with a master key that is missing."""
        try:
            return decoder.decode(self._vault.open_bytes(sealed))
        except ValueError as exc:
            raise NotFound(
                "chat_unreadable",
                "This chat was encrypted with another master key. Restore that key, or delete the chat.",
            ) from exc


_facts: Final = msgspec.json.Decoder(ChatFacts)
_messages: Final = msgspec.json.Decoder(ChatMessage)


async def _select_whole(
    connection: Connection, user_id: str, chat_id: str
) -> tuple[ChatRow, Sequence[ChatMessageRow]]:
    row = await select_chat(connection, user_id, chat_id)
    if row is None:
        raise _missing()
    return row, await select_chat_messages(connection, chat_id)


async def _locked(connection: Connection, user_id: str, chat_id: str) -> ChatRow:
    row = await lock_chat(connection, user_id, _checked(chat_id))
    if row is None:
        raise _missing()
    return row


def _checked(chat_id: str) -> str:
    if not is_uuid(chat_id):
        raise _missing()
    return chat_id


def _missing() -> NotFound:
    return NotFound("chat_not_found", "There is no chat with this id. GET /api/chats lists your chats.")
