"""The accounts that objects at servers belong to: files, batches, native responses and others.

An object belongs to the account whose request created it. Other accounts get the same error as for an object
that does not exist.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import trio
from msgspec import Struct

from bluesminds.common.clock import Clock
from bluesminds.common.errors import InvalidRequest, NotFound, Unavailable
from bluesminds.common.log import Log
from bluesminds.common.values import Caller
from storage.base import StorageError, Store
from storage.server_objects import (
    ServerObjectRow,
    delete_object,
    has_objects,
    insert_objects,
    select_objects,
)

IDS_PER_READ: Final = 10_000  # about 30 milliseconds
ID: Final = r"[A-Za-z0-9_.:=~-]{1,1024}"  # what servers write
_ID: Final = re.compile(ID)


def is_object_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


class FoundObjects(Struct, frozen=True):
    """What is known of the ids of one request. `servers`: those at which the account has all objects that the
    request refers to; None if it refers to none. `others`: ids of other accounts' objects, by server.
    """

    servers: frozenset[str] | None
    others: dict[str, frozenset[str]]

    def check_mentions(self, server: str) -> None:
        """Raises NotFound if the request for this server has an id of another account's object."""
        if ids := self.others.get(server):
            raise no_such_object(min(ids))


class KnownObjects(Struct, frozen=True):
    """`servers`: those at which the account has all of its objects that the request refers to; None if it
    refers to none. `foreign`: ids of other accounts' objects.
    """

    servers: frozenset[str] | None
    foreign: frozenset[str]


class ServerObjects:
    """`timeout`: seconds for one write."""

    def __init__(self, store: Store, *, clock: Clock, log: Log, timeout: float) -> None:
        self._store = store
        self._clock = clock
        self._log = log
        self._timeout = timeout

    async def find(
        self, caller: Caller, references: Iterable[str], mentions: Iterable[str] = ()
    ) -> FoundObjects:
        """Look up all ids of a request. Raises NotFound for a reference to an object that the account does
        not have, InvalidRequest if no server has all of them, and Unavailable.
        """
        referred = set(references)
        for text in referred:
            if not is_object_id(text):
                raise no_such_object(text)
        ids = referred.union(mentions)
        rows = await self._select(sorted(ids)) if ids else ()
        own = {(row.id, row.server) for row in rows if row.user_id == caller.user_id}
        others: dict[str, set[str]] = {}
        for row in rows:
            if (row.id, row.server) not in own:
                others.setdefault(row.server, set()).add(row.id)
        servers: set[str] | None = None
        for object_id in sorted(referred):
            at = {server for found, server in own if found == object_id}
            if not at:
                raise no_such_object(object_id)
            servers = at if servers is None else servers & at
            if not servers:
                raise InvalidRequest(
                    "different_servers",
                    f"`{object_id}` is at another server than the other objects in the request. Create "
                    f"all of them at one server: name it in the header x-bluesminds-server.",
                )
        return FoundObjects(
            None if servers is None else frozenset(servers),
            {server: frozenset(found) for server, found in others.items()},
        )

    async def find_known(
        self, caller: Caller, references: Iterable[str], mentions: Iterable[str]
    ) -> "KnownObjects":
        """What is known of the ids in a request to a model. Ids of objects that were not created through the
        gateway are no error. Raises InvalidRequest and Unavailable.
        """
        referred = {one for one in references if is_object_id(one)}
        rows = await self._select(sorted(referred.union(mentions)))
        own: dict[str, set[str]] = {}
        for row in rows:
            at = own.setdefault(row.id, set())
            if row.user_id == caller.user_id:
                at.add(row.server)
        servers: set[str] | None = None
        for object_id, at in own.items():
            if at and object_id in referred:
                servers = at if servers is None else servers & at
        if servers is not None and not servers:
            raise InvalidRequest(
                "different_servers",
                "The request refers to objects at different servers. Use those of one server.",
            )
        foreign = frozenset(object_id for object_id, at in own.items() if not at)
        return KnownObjects(None if servers is None else frozenset(servers), foreign)

    async def own_among(self, caller: Caller, server: str, ids: Sequence[str]) -> frozenset[str]:
        """Those of the ids at a server that are the account's. Raises Unavailable."""
        rows = await self._select(ids)
        return frozenset(row.id for row in rows if row.server == server and row.user_id == caller.user_id)

    async def has_any(self, caller: Caller, server: str, kind: str) -> bool:
        """Raises Unavailable."""
        try:
            return await self._store.read(has_objects, caller.user_id, server, kind)
        except StorageError as exc:
            raise _unavailable() from exc

    async def add(
        self, caller: Caller, server: str, kinds: Mapping[str, str], *, lifetime_ms: int | None = None
    ) -> bool:
        """Record that the account has these objects; `kinds` are their collections, by id. False if that
        failed: it is logged, and the objects cannot be used.
        """
        now = self._clock.now_ms()
        expires_at = None if lifetime_ms is None else now + lifetime_ms
        rows = [
            ServerObjectRow(
                id=one,
                server=server,
                kind=kind,
                user_id=caller.user_id,
                key_id=caller.key_id,
                created_at=now,
                expires_at=expires_at,
            )
            for one, kind in kinds.items()
        ]
        reason, refused = "timeout", list(kinds)
        try:
            with trio.move_on_after(self._timeout, shield=True):  # also if the client has disconnected
                refused = list(await self._store.write(insert_objects, rows))
                reason = "other_account"
        except StorageError as exc:
            reason = type(exc).__name__
        if refused:
            self._log.error("object_not_recorded", server=server, reason=reason, ids=refused[:10])
        return not refused

    async def remove(self, caller: Caller, server: str, object_id: str) -> None:
        """The object was deleted at the server. A failure is logged: the row only costs space."""
        try:
            with trio.move_on_after(self._timeout, shield=True):
                await self._store.write(delete_object, object_id, server, caller.user_id)
        except StorageError as exc:
            self._log.warning("object_row_not_deleted", server=server, reason=type(exc).__name__)

    async def _select(self, ids: Sequence[str]) -> Sequence[ServerObjectRow]:
        rows: list[ServerObjectRow] = []
        try:
            for at in range(0, len(ids), IDS_PER_READ):
                part = ids[at : at + IDS_PER_READ]
                rows += await self._store.read(select_objects, part, self._clock.now_ms())
            return rows
        except StorageError as exc:
            raise _unavailable() from exc


def no_such_object(object_id: str) -> NotFound:
    return NotFound("object_not_found", f"Your account has no object `{object_id[:200]}`.")


def _unavailable() -> Unavailable:
    return Unavailable(
        "storage_unavailable", "The owner of the object cannot be checked now. Try again in a few seconds."
    )
