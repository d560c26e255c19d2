"""What a request to a model refers to: an earlier response, stored items, a conversation, files.

Items that the gateway stores take the place of the references to them, for every server. Everything else is
at one server, so that only this server can serve the request.
"""

from typing import Final

import msgspec
from msgspec import Raw, Struct

from bluesminds.common.clock import Clock
from bluesminds.common.crypto import uuid7
from bluesminds.common.errors import InvalidRequest
from bluesminds.common.values import Caller
from bluesminds.gateway.bodies import Body, BodyMemory, HeldMemory
from bluesminds.gateway.operations import Operation
from bluesminds.gateway.passthrough.references import ids_in_json
from bluesminds.gateway.routing.catalog import ServerRegistry
from bluesminds.gateway.server_objects import KnownObjects, ServerObjects
from bluesminds.gateway.stand_ins import StandIns, make_stand_ins, use_stand_ins
from bluesminds.gateway.stored_responses.keeper import ResponseKeeper
from bluesminds.gateway.stored_responses.store import FoundItems, ResponseStore
from bluesminds.wire.conversation import NO_LINKS, ReplyLinks
from bluesminds.wire.json_text import ABSENT, NOT_JSON, Fields
from bluesminds.wire.requests import read_body
from bluesminds.wire.responses_items import input_items, referenced_ids, with_history, with_references

_LINKED: Final = ("responses", "input_tokens", "compact")  # formats whose requests can continue others
# What fields that name objects at servers contain. An escape may hide it.
_MARKS: Final = (b"file_id", b"container", b"vector_store", b"\\u")


class LinkedRequest(Struct, frozen=True):
    """`fields` are to be read instead of the client's. `servers`: the only ones that can serve the request;
    None: all. `keeper` stores the answer, if `links` has an id for it. `stand_ins`: see stand_ins.py.
    """

    fields: Fields
    servers: frozenset[str] | None = None
    links: ReplyLinks = NO_LINKS
    keeper: ResponseKeeper | None = None
    stand_ins: StandIns = ()

    def release(self) -> None:
        """The request has ended."""
        if self.keeper is not None:
            self.keeper.release()


class RequestLinks(Struct, frozen=True):
    responses: ResponseStore
    objects: ServerObjects
    registry: ServerRegistry
    bodies: BodyMemory
    clock: Clock

    def concerns(self, operation: Operation, caller: Caller, body: Body) -> bool:
        """Whether `resolve` is needed. A client with its own key of the server has its own objects there."""
        if caller.address:
            return False
        if operation.format in _LINKED:
            return True
        return self._has_objects(caller) and any(mark in body.data for mark in _MARKS)

    async def resolve(self, operation: Operation, caller: Caller, body: Body) -> LinkedRequest:
        """Raises InvalidRequest, NotFound and Unavailable."""
        fields = read_body(body.data)
        if operation.format not in _LINKED:
            known = await self._find_objects(caller, body.data)
            hidden = make_stand_ins(known.foreign)
            return LinkedRequest(use_stand_ins(fields, hidden), known.servers, stand_ins=hidden)
        found = await self._find_items(caller, fields, body)
        servers = found.servers
        if found.stored or found.servers is not None:
            fields = with_references(fields, _Referenced(found.stored))
        keeper = None
        stand_ins: StandIns = ()
        previous = _text_in(fields, "previous_response_id")
        used = found.used
        own = fields
        if previous:
            history = await self.responses.history(caller, previous)
            servers = _both(servers, history.servers)
            if history.servers is None:
                body.acquire(history.size)
                fields = with_history(fields, history.items)
                used += history.used
        servers = _both(servers, await self._servers_of_conversation(caller, fields))
        if self._has_objects(caller):  # last: ids above have other errors
            known = await self._find_objects(caller, body.data)
            servers = _both(servers, known.servers)
            stand_ins = make_stand_ins(known.foreign)
            fields = use_stand_ins(fields, stand_ins)
        links = ReplyLinks(previous_id=previous)
        if (
            operation.format == "responses"
            and self.responses.stores
            and bytes(fields.get("store", ABSENT)) != b"false"
        ):
            links = ReplyLinks(f"resp_{self._new_id()}", previous)
            keeper = self._keeper(caller, links, own, used)
        return LinkedRequest(fields, servers, links, keeper, stand_ins)

    def _has_objects(self, caller: Caller) -> bool:
        """Whether the account can have objects at servers."""
        return self.registry.relays or caller.own_keys is not None

    async def _find_objects(self, caller: Caller, data: bytes) -> KnownObjects:
        ids = ids_in_json(data)
        return await self.objects.find_known(caller, ids.references, ids.mentions)

    async def _find_items(self, caller: Caller, fields: Fields, body: Body) -> FoundItems:
        ids = referenced_ids(fields)
        if not ids:
            return FoundItems({}, (), None)
        found = await self.responses.find_items(caller, ids)
        body.acquire(found.size)
        return found

    async def _servers_of_conversation(self, caller: Caller, fields: Fields) -> frozenset[str] | None:
        """`conversation` is an id, or an object with it."""
        raw = fields.get("conversation", ABSENT)
        if bytes(raw) in (b"", b"null"):
            return None
        name = _text_in(fields, "conversation")
        if not name:
            try:
                name = _identified.decode(raw).id
            except NOT_JSON as exc:
                message = "`conversation` must be an id, or an object with an `id`."
                raise InvalidRequest("invalid_value", message, param="conversation") from exc
        return (await self.objects.find(caller, [name])).servers

    def _keeper(
        self, caller: Caller, links: ReplyLinks, fields: Fields, used: tuple[str, ...]
    ) -> ResponseKeeper:
        """Raises Unavailable if there is no memory for the items."""
        items = input_items(fields, self._item_id)
        memory = HeldMemory(self.bodies, len(fields.get("input", ABSENT)))
        return ResponseKeeper(self.responses, caller, links, items, used, memory)

    def _new_id(self) -> str:
        return uuid7(self.clock.now_ms()).replace("-", "")

    def _item_id(self, prefix: str) -> str:
        return f"{prefix}_{self._new_id()}"


class _Referenced(dict[str, Fields]):
    """Stored items by id. An item that is at a server stays a reference."""

    def __missing__(self, item_id: str) -> Fields:
        return {"type": Raw(b'"item_reference"'), "id": Raw(msgspec.json.encode(item_id))}

    def __contains__(self, item_id: object) -> bool:
        return True


class _Identified(Struct):
    id: str


_identified = msgspec.json.Decoder(_Identified)
_text = msgspec.json.Decoder(str)


def _text_in(fields: Fields, name: str) -> str:
    """A field that is a text; "" for anything else."""
    try:
        return _text.decode(fields.get(name, ABSENT))
    except NOT_JSON:
        return ""


def _both(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    """The servers in both; None is all servers. Raises InvalidRequest if there is none."""
    if one is None or other is None:
        return other if one is None else one
    if not one & other:
        raise InvalidRequest(
            "different_servers",
            "The request refers to objects at different servers. Use those of one server.",
        )
    return one & other
