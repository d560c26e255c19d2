"""Where the responses of an account are: in the database, sealed with the master key, or at a server.

The gateway stores responses that it has translated. Of others it only knows the server, which stores them.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar, TypeVarTuple, Unpack

import msgspec
import trio
from msgspec import Raw, Struct

from bluesminds.common.clock import Clock
from bluesminds.common.crypto import Vault
from bluesminds.common.errors import InvalidRequest, NotFound, Unavailable
from bluesminds.common.log import Log
from bluesminds.common.values import Caller
from bluesminds.gateway.server_objects import ServerObjects, is_object_id
from bluesminds.wire.json_text import Fields
from bluesminds.wire.responses_items import output_items
from storage.base import Connection, StorageError, Store
from storage.responses import (
    StoredConversation,
    StoredResponseRow,
    delete_response,
    insert_response,
    select_conversation,
    select_response,
    select_with_items,
)
from storage.server_objects import ServerObjectRow, select_objects

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
RESPONSES: Final = "responses"  # the kind of a response at a server
ITEMS: Final = "items"  # the kind of an item of such a response
REASONING: Final = "rs_"  # how the ids of reasoning begin
MAX_STORED: Final = 4 * 1024 * 1024  # bytes of one stored response, with its input
MAX_HISTORY: Final = 16 * 1024 * 1024  # bytes of the stored responses that one request continues
DAY_MS: Final = 86_400_000


class StoredResponse(Struct, frozen=True):
    """What is sealed. `id` and `user_id` tie it to its row. `input` are the items of the request alone,
    `response` is the whole Response object, and `previous_id` the id of the response that it continues.
    """

    id: str
    user_id: str
    previous_id: str | None
    input: list[Fields]
    response: Raw


class History(Struct, frozen=True):
    """What a request builds on: items to put before its input, the ids of the stored responses that they are
    from, and the servers that can continue it (None: all).
    """

    items: Sequence[Fields] = ()
    used: tuple[str, ...] = ()
    servers: frozenset[str] | None = None
    size: int = 0  # bytes


class FoundItems(Struct, frozen=True):
    """Items that a request refers to. `stored` are in the database, by id; others are at `servers` (None:
    there are no others).
    """

    stored: dict[str, Fields]
    used: tuple[str, ...]
    servers: frozenset[str] | None
    size: int = 0


class ResponseStore:
    """`retention_days` 0: nothing is stored. `timeout`: seconds for one write."""

    def __init__(
        self,
        store: Store,
        objects: ServerObjects,
        vault: Vault,
        *,
        clock: Clock,
        log: Log,
        retention_days: int,
        timeout: float,
    ) -> None:
        self._store = store
        self._objects = objects
        self._vault = vault
        self._clock = clock
        self._log = log
        self._retention_ms = retention_days * DAY_MS
        self._timeout = timeout

    @property
    def stores(self) -> bool:
        return self._retention_ms > 0

    async def find(self, caller: Caller, response_id: str) -> StoredResponse | frozenset[str]:
        """The response, or the names of the servers that have it. Raises NotFound and Unavailable."""
        missing = NotFound("response_not_found", f"Response with id '{response_id[:200]}' not found.")
        if not is_object_id(response_id):
            raise missing
        row, objects = await self._read(self._select_one, response_id, caller.user_id)
        if row is not None and (stored := self._open(row)) is not None:
            return stored
        if servers := _servers_with(objects, caller, RESPONSES):
            return servers
        raise missing

    async def history(self, caller: Caller, response_id: str) -> History:
        """What a request with this `previous_response_id` continues. Raises InvalidRequest, Unavailable."""
        missing = InvalidRequest(
            "previous_response_not_found",
            f"Previous response with id '{response_id[:200]}' not found.",
            param="previous_response_id",
        )
        if not is_object_id(response_id):
            raise missing
        found, objects = await self._read(self._select_history, response_id, caller.user_id)
        if found.too_long:
            raise _too_long("previous_response_id")
        opened = [stored for row in found.rows if (stored := self._open(row)) is not None]
        if opened and len(opened) == len(found.rows):
            items = [item for one in opened for item in (*one.input, *output_items(bytes(one.response)))]
            used = tuple(row.id for row in found.rows)
            return History(items, used, size=sum(row.size for row in found.rows))
        if servers := _servers_with(objects, caller, RESPONSES):
            return History(servers=servers)
        raise missing

    async def find_items(self, caller: Caller, ids: Sequence[str]) -> FoundItems:
        """The items that a request refers to. Reasoning that is not stored is no error, because translations
        leave out the reference. Raises NotFound, InvalidRequest and Unavailable.
        """
        for one in ids:
            if not is_object_id(one):
                raise _no_such_item(one)
        found, objects = await self._read(self._select_items, ids, caller.user_id)
        if found.too_long:
            raise _too_long("input")
        wanted = set(ids)
        stored: dict[str, Fields] = {}
        for row in found.rows:
            opened = self._open(row)
            for item in () if opened is None else (*opened.input, *output_items(bytes(opened.response))):
                if (item_id := id_of(item)) in wanted:
                    stored[item_id] = item
        servers: frozenset[str] | None = None
        for one_id in sorted(wanted - stored.keys()):
            known = [row for row in objects if row.id == one_id]
            if not known and one_id.startswith(REASONING):
                continue
            at = _servers_with(known, caller, ITEMS)
            if not at:
                raise _no_such_item(one_id)
            servers = at if servers is None else servers & at
        used = tuple(row.id for row in found.rows)
        return FoundItems(stored, used, servers, sum(row.size for row in found.rows))

    async def keep(
        self,
        caller: Caller,
        response: StoredResponse,
        *,
        used: Sequence[str],
        item_ids: Sequence[str],
    ) -> bool:
        """Store a response. False if that failed: it is logged, and the response cannot be used later."""
        data = msgspec.json.encode(response)
        if len(data) > MAX_STORED:
            self._log.warning("response_not_stored", reason="too_large", size=len(data))
            return False
        now = self._clock.now_ms()
        row = StoredResponseRow(
            id=response.id,
            user_id=caller.user_id,
            key_id=caller.key_id,
            previous_id=response.previous_id,
            sealed=self._vault.seal_bytes(data),
            size=len(data),
            created_at=now,
            expires_at=now + self._retention_ms,
        )
        reason = "timeout"
        try:
            with trio.move_on_after(self._timeout):
                await self._store.write(insert_response, row, item_ids, used)
                return True
        except StorageError as exc:
            reason = type(exc).__name__
        self._log.error("response_not_stored", reason=reason, size=len(data))
        return False

    async def keep_at_server(
        self, caller: Caller, server: str, response_id: str, item_ids: Sequence[str]
    ) -> None:
        """Record which server has a response. A failure is logged."""
        kinds = {one: ITEMS for one in item_ids if is_object_id(one)}
        if is_object_id(response_id):
            kinds[response_id] = RESPONSES
        await self._objects.add(caller, server, kinds, lifetime_ms=self._retention_ms)

    async def delete(self, caller: Caller, response_id: str) -> None:
        """Delete a response that the gateway stores. Raises Unavailable."""
        try:
            await self._store.write(delete_response, response_id, caller.user_id)
        except StorageError as exc:
            raise _unavailable() from exc

    async def _select_one(
        self, connection: Connection, response_id: str, user_id: str
    ) -> tuple[StoredResponseRow | None, Sequence[ServerObjectRow]]:
        now = self._clock.now_ms()
        row = await select_response(connection, response_id, user_id, now)
        return row, await select_objects(connection, [response_id], now)

    async def _select_history(
        self, connection: Connection, response_id: str, user_id: str
    ) -> tuple[StoredConversation, Sequence[ServerObjectRow]]:
        now = self._clock.now_ms()
        found = await select_conversation(connection, response_id, user_id, now, MAX_HISTORY)
        return found, await select_objects(connection, [response_id], now)

    async def _select_items(
        self, connection: Connection, ids: Sequence[str], user_id: str
    ) -> tuple[StoredConversation, Sequence[ServerObjectRow]]:
        now = self._clock.now_ms()
        found = await select_with_items(connection, ids, user_id, now, MAX_HISTORY)
        return found, await select_objects(connection, ids, now)

    async def _read(self, unit: Callable[[Connection, Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        try:
            return await self._store.read(unit, *args)
        except StorageError as exc:
            raise _unavailable() from exc

    def _open(self, row: StoredResponseRow) -> StoredResponse | None:
        """None, and a line in the log, if it cannot be decrypted or is that of another row."""
        try:
            stored = _sealed.decode(self._vault.open_bytes(row.sealed))
        except ValueError:
            stored = None
        if stored is None or (stored.id, stored.user_id) != (row.id, row.user_id):
            self._log.warning("response_unreadable", id=row.id)
            return None
        return stored


_sealed = msgspec.json.Decoder(StoredResponse)
_text = msgspec.json.Decoder(str)


def _servers_with(objects: Sequence[ServerObjectRow], caller: Caller, kind: str) -> frozenset[str]:
    return frozenset(row.server for row in objects if row.user_id == caller.user_id and row.kind == kind)


def id_of(item: Fields) -> str:
    """The id of an item; "" if it has none."""
    try:
        return _text.decode(item["id"])
    except (KeyError, msgspec.DecodeError):
        return ""


def _no_such_item(item_id: str) -> NotFound:
    message = (
        f"Item with id '{item_id[:200]}' not found. Items of responses with `store` false are not stored."
    )
    return NotFound("item_not_found", message, param="input")


def _too_long(param: str) -> InvalidRequest:
    message = "The stored conversation is too long to be continued. Send the items that matter as `input`."
    return InvalidRequest("conversation_too_long", message, param=param)


def _unavailable() -> Unavailable:
    return Unavailable(
        "storage_unavailable", "Stored responses cannot be read now. Try again in a few seconds."
    )
