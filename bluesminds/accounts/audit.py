"""The audit log: the row that is written in the same transaction as the change, and queries.

A transaction inserts its audit row before it changes anything, because the head of the log is the lock that
such transactions wait for. If it must read first, it starts with storage.audit.lock_audit_head, reads, and
then calls insert_audit; no other audited change happens in between. If there is nothing to change, it raises,
which rolls the row back.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from bluesminds.common.clock import Clock, format_time
from bluesminds.common.crypto import uuid7
from bluesminds.common.money import write_usd
from bluesminds.common.values import LimitSet
from storage.audit import (
    AuditQuery,
    AuditRow,
    ChainedAuditRow,
    check_audit,
    insert_audit,
    select_audit,
)
from storage.base import Store
from storage.chain import START, ChainCheck, ChainPosition

MASK: Final = "[masked]"
ROWS_PER_CHECK: Final = 200  # about two milliseconds of hashing
_SECRET: Final = frozenset(("key", "password", "secret", "token", "digest", "headers"))
_ENDINGS: Final = tuple(f"_{word}" for word in (*_SECRET, "hash"))
_MOMENTS: Final = ("_at", "_until")
_LIMITS: Final = frozenset(LimitSet.__struct_fields__)


class Actor(Struct, frozen=True):
    """The origin of a change: `name` is a user id, "anonymous" or "operator" (the local socket); `address` is
    the IP address of the client, or "local".
    """

    name: str
    address: str


OPERATOR = Actor(name="operator", address="local")


class AuditLog:
    """Reads the log. Rows are written by the units that make the changes."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def page(self, query: AuditQuery) -> Sequence[ChainedAuditRow]:
        return await self._store.read(select_audit, query)

    async def add(self, clock: Clock, actor: Actor, action: str, subject: str) -> None:
        """Store an entry for an action that changes nothing in the database."""
        await self._store.write(insert_audit, entry(clock, actor, action, subject))

    async def verify(self, expected: ChainPosition | None = None) -> ChainCheck:
        """Check the whole chain, which may grow meanwhile. `expected`: the end of the chain in an earlier
        check.
        """
        check = ChainCheck(START, None, done=False)
        while not check.done:
            check = await self._store.read(check_audit, check.at, expected, ROWS_PER_CHECK)
        return check


def entry(
    clock: Clock,
    actor: Actor,
    action: str,
    subject: str,
    *,
    before: Mapping[str, object] | None = None,
    after: Mapping[str, object] | None = None,
) -> AuditRow:
    """An audit row. `action` is noun.verb. `before` and `after` are fields of the subject, None if it did or
    does not exist. If both are given, only differing fields are stored.

    The names of the fields decide their format: secrets are masked, so that a change is visible but not the
    value; times, money and limits have the format of the API. Masked values may be bytes; all others must be
    JSON values.
    """
    now = clock.now_ms()
    return AuditRow(
        id=uuid7(now),
        at=now,
        actor=actor.name,
        action=action,
        subject=subject,
        detail=_detail(before, after),
        address=actor.address,
    )


def _detail(before: Mapping[str, object] | None, after: Mapping[str, object] | None) -> str:
    old, new = before or {}, after or {}
    if before is not None and after is not None:
        differing = {name for name in {*old, *new} if old.get(name) != new.get(name)}
        old = {name: value for name, value in old.items() if name in differing}
        new = {name: value for name, value in new.items() if name in differing}
    parts = {"before": _formatted(old), "after": _formatted(new)}
    return msgspec.json.encode({name: part for name, part in parts.items() if part}, order="sorted").decode()


def _formatted(fields: Mapping[str, object]) -> dict[str, object]:
    return {name: _format(name, value) for name, value in fields.items()}


def _format(name: str, value: object) -> object:
    if value is not None and (name in _SECRET or name.endswith(_ENDINGS)):
        return MASK
    match value:
        case bool():
            return value
        case dict():
            return _formatted(value)
        case int() if name.endswith(_MOMENTS):
            return format_time(value)
        case 0 if name in _LIMITS:
            return None
        case int() if name.startswith("usd_"):
            return write_usd(value)
    return value
