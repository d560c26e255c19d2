"""Audit rows: building the one that a change stores in its own transaction, and reading them back.

A unit of work calls insert_audit before it changes anything. If it must read first, it calls lock_audit_head,
reads, and then calls insert_audit; no other recorded change happens in between. A unit that finds nothing to
do raises, which rolls its audit row back.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from bluesminds.common.clock import Clock, format_time
from bluesminds.common.crypto import uuid7
from bluesminds.common.money import write_usd
from bluesminds.common.values import LimitSet
from storage.audit import AuditQuery, AuditRow, ChainedAuditRow, check_audit, select_audit
from storage.base import Store
from storage.chain import START, ChainCheck, ChainPosition

MASK: Final = "[masked]"
CHECKED_AT_ONCE: Final = 200  # rows: about two milliseconds of hashing
_SECRET: Final = frozenset(("key", "password", "secret", "token", "digest"))
_ENDINGS: Final = tuple(f"_{word}" for word in (*_SECRET, "hash"))
_MOMENTS: Final = ("_at", "_until")
_LIMITS: Final = frozenset(LimitSet.__struct_fields__)


class Actor(Struct, frozen=True):
    """Who asks for a change: `name` is a user id or "operator" (the local socket); `address` is where from,
    or "local".
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

    async def verify(self, expected: ChainPosition | None = None) -> ChainCheck:
        """Check the whole chain, which may grow meanwhile. `expected`: the end of the chain in an earlier
        check.
        """
        check = ChainCheck(START, None, done=False)
        while not check.done:
            check = await self._store.read(check_audit, check.at, expected, CHECKED_AT_ONCE)
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
    """`action` is noun.verb. `before` and `after` are the fields of the subject that matter, None when it was
    or is not there; of both together only what differs is kept. Fields named like a secret are masked: that
    they change shows, their value does not. Times, money and limits, recognised by their names, look
    as they do in the API. Values are what JSON can hold, and bytes if they are masked.
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
    found = {"before": _shown(old), "after": _shown(new)}
    return msgspec.json.encode({name: part for name, part in found.items() if part}, order="sorted").decode()


def _shown(fields: Mapping[str, object]) -> dict[str, object]:
    return {name: _form(name, value) for name, value in fields.items()}


def _form(name: str, value: object) -> object:
    if value is not None and (name in _SECRET or name.endswith(_ENDINGS)):
        return MASK
    match value:
        case bool():
            return value
        case dict():
            return _shown(value)
        case int() if name.endswith(_MOMENTS):
            return format_time(value)
        case 0 if name in _LIMITS:
            return None
        case int() if name.startswith("usd_"):
            return write_usd(value)
    return value
