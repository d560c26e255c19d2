"""Ids of stored objects in the events of a client: other accounts' objects do not exist for it."""

from typing import Final

from bluesminds.common.errors import InvalidRequest
from bluesminds.common.values import Caller
from bluesminds.gateway.passthrough.references import ids_in_json
from bluesminds.gateway.routing.catalog import ServerRegistry
from bluesminds.gateway.server_objects import ServerObjects
from bluesminds.gateway.stand_ins import make_stand_ins, restore_ids, use_stand_ins
from bluesminds.wire.sockets import read_event, write_event

MAX_FOREIGN: Final = 1000  # ids of other accounts' objects in one session


class SessionObjects:
    """The ids in the events of one session at `server`. For another account's object, the server gets a
    stand-in (see stand_ins.py), the same one during the whole session.
    """

    def __init__(self, objects: ServerObjects, registry: ServerRegistry, server: str) -> None:
        self._objects = objects
        self._registry = registry
        self._server = server
        self._stand_ins: dict[str, tuple[bytes, bytes]] = {}

    async def for_server(self, caller: Caller, text: str) -> str:
        """The event that the server gets. Raises InvalidRequest, NotFound and Unavailable."""
        if caller.address or not (self._registry.relays or caller.own_keys is not None):
            return text
        ids = ids_in_json(text.encode())
        known = await self._objects.find_known(caller, ids.references, ids.mentions)
        if known.servers is not None and self._server not in known.servers:
            raise InvalidRequest(
                "different_servers",
                "The event refers to an object at another server than the session's. Create the "
                "object at the session's server: name it in the header x-bluesminds-server.",
            )
        if not known.foreign:
            return text
        new = known.foreign.difference(self._stand_ins)
        if len(self._stand_ins) + len(new) > MAX_FOREIGN:
            raise InvalidRequest(
                "too_many_ids", "The session names too many unknown objects. Open another one."
            )
        self._stand_ins.update({one: made for one in new for made in make_stand_ins([one])})
        used = tuple(self._stand_ins[one] for one in sorted(known.foreign))
        return write_event(use_stand_ins(read_event(text), used))

    def for_client(self, text: str) -> str:
        """An event of the server with the ids that the client has sent."""
        if not self._stand_ins:
            return text
        return restore_ids(text.encode(), tuple(self._stand_ins.values())).decode()
