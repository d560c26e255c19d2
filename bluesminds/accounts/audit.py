"""Who did what: the row that goes into the same transaction as the change it tells of, and reading it back.

A unit of work records its act first and changes things after that, because the log's head is what such units
queue for. One that has to look before it knows what it changes begins with storage.audit.hold_audit, looks,
and then calls insert_audit; nobody else changes anything that is recorded meanwhile. A unit that finds
nothing to do raises, which rolls its entry back.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from bluesminds.common.clock import Clock, moment
from bluesminds.common.crypto import uuid7
from bluesminds.common.money import write_usd
from bluesminds.common.values import LimitSet
from storage.audit import AuditQuery, AuditRow, Damage, Entry, Link, check_chain, select_audit
from storage.base import Store

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


class AuditVerdict(Struct, frozen=True):
    """The chain is whole up to `end`; `damage` is what is wrong right after it. The first `unchained` rows
    are older than the chain and prove nothing.
    """

    end: Link
    unchained: int
    damage: Damage | None


class AuditLog:
    """Reads; the writing is done by those who change things."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def page(self, query: AuditQuery) -> Sequence[Entry]:
        return await self._store.read(select_audit, query)

    async def verify(self, noted: Link | None = None) -> AuditVerdict:
        """Check the whole chain, which may grow meanwhile. `noted`: an earlier `end`, still to be there."""
        end, unchained = Link(0, ""), 0
        while True:
            found = await self._store.read(check_chain, end, noted, CHECKED_AT_ONCE)
            end, unchained = found.at, unchained + found.unchained
            if found.done:
                return AuditVerdict(end=end, unchained=unchained, damage=found.damage)


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
    they change shows, their value does not. Times, money and limits, which are told by their names too, look
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
            return moment(value)
        case 0 if name in _LIMITS:
            return None
        case int() if name.startswith("usd_"):
            return write_usd(value)
    return value
