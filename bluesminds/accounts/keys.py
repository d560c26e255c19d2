"""API keys: made, changed, rotated, revoked. The key itself is in the answer to its creation or rotation and
nowhere else.

A key narrows what its owner may do and never widens it: its limits are checked besides the account's. One
that is rotated stays the same key, with its id, its rules and what it has used; what it was before may go on
for a while. Whose keys are meant is `owner`, a user id; None is anybody's, for administrators, and whether a
caller is one is decided before.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final, Protocol, TypeVar

import trio
from msgspec import Struct, structs

from bluesminds.accounts.audit import Actor, entry
from bluesminds.accounts.key_policy import KeyPolicy
from bluesminds.accounts.users import no_such_user
from bluesminds.common.clock import Clock
from bluesminds.common.crypto import is_uuid, key_digest, new_key, uuid7
from bluesminds.common.errors import Conflict, NotFound
from bluesminds.common.values import read_limits, write_limits
from storage.audit import AuditRow, hold_audit, insert_audit
from storage.base import Connection, IntegrityError, StorageError, Store
from storage.keys import (
    KeyQuery,
    KeyRow,
    count_active_keys,
    count_replaced,
    end_replaced,
    forget_replaced,
    insert_key,
    renew_key,
    replace_digest,
    revoke_key,
    select_key,
    select_keys,
    select_replaced,
    update_key,
)
from storage.settings import put_setting, select_setting
from storage.usage import DAY, StatsQuery, StatsRow, select_stats

GUEST: Final = "guest_key_id"
MAX_ACTIVE: Final = 1000  # keys of one user
MAX_REPLACED: Final = 10  # earlier forms of one key that work, and that are remembered when they have ended
SHOWN_PREFIX: Final = 7  # "bm_" and four characters: enough to recognise a key, far too little to guess it

T = TypeVar("T")
Touched = tuple[KeyRow, list[bytes]]
"""A key as it is now, and every digest by which it was known until now."""
Decision = Callable[[KeyRow], tuple[KeyRow, AuditRow]]
"""What a key is to become; pure."""


class Changed(Protocol):
    def __call__(self, *digests: bytes) -> object:
        """The keys with these digests have changed; with none, any may have."""


class KeyUsage(Struct, frozen=True):
    """What was asked with one key in some days."""

    key: KeyRow
    days: list[StatsRow]


class Keys:
    """`changed` is told of every key that was known before, so that nobody goes on with what it was."""

    def __init__(self, store: Store, *, pepper: bytes, clock: Clock, changed: Changed) -> None:
        self._store = store
        self._pepper = pepper
        self._clock = clock
        self._changed = changed

    async def create(self, actor: Actor, owner: str, rules: KeyPolicy) -> tuple[KeyRow, str]:
        """The stored row and the key, to be shown once.

        Raises NotFound when there is no such user, InvalidRequest, Conflict when there are too many.
        """
        rules = rules.checked(self._clock.now_ms())
        if not is_uuid(owner):
            raise no_such_user("user_id")
        row, key = self._new(owner, rules)
        audit = entry(self._clock, actor, "key.create", row.id, after=_told(row))
        try:
            await self._store.write(_insert, row, audit)
        except IntegrityError as exc:
            raise no_such_user("user_id") from exc
        return row, key

    async def guest(self, actor: Actor, *, user_id: str, expires_at: int) -> str:
        """A key for trials, to be shown once. There is one at a time: it takes the place of the last."""
        row, key = self._new(user_id, KeyPolicy(name="guest", expires_at=expires_at))
        audit = entry(self._clock, actor, "key.create", row.id, after=_told(row))
        await self._write(_put_guest, row, audit)
        self._changed()
        return key

    async def list(
        self, owner: str | None, *, active: bool | None = None, after: str = "", limit: int = 100
    ) -> list[KeyRow]:
        """Oldest first, those above the id `after`."""
        query = KeyQuery(self._clock.now_ms(), user_id=owner, active=active, after=after, limit=limit)
        return list(await self._store.read(select_keys, query))

    async def get(self, owner: str | None, key_id: str) -> KeyRow:
        """Raises NotFound."""
        row = await self._store.read(select_key, key_id, owner) if is_uuid(key_id) else None
        if row is None:
            raise no_such_key()
        return row

    async def change(
        self, actor: Actor, owner: str | None, key_id: str, change: Callable[[KeyPolicy], KeyPolicy]
    ) -> KeyRow:
        """In force when this returns. `change` gets what the key's rules are; it is pure.

        Raises NotFound for a key that is revoked too, InvalidRequest, Conflict when an expired key
        would live again and there are too many.
        """
        now = self._clock.now_ms()

        def decide(row: KeyRow) -> tuple[KeyRow, AuditRow]:
            before = rules_of(row)
            after = change(before)
            changed = replace(row, **_columns(after.checked(now, before)))
            told = entry(self._clock, actor, "key.update", key_id, before=_told(row), after=_told(changed))
            return changed, told

        return await self._touch(_update, key_id, owner, decide)

    async def rotate(
        self, actor: Actor, owner: str | None, key_id: str, *, overlap: int
    ) -> tuple[KeyRow, str]:
        """The key in its new form, to be shown once. All that it was before works for `overlap` more seconds
        at most, or not at all from now on. In force when this returns.

        Raises NotFound for a key that is revoked too, Conflict for one that has expired and when too much of
        what it was still works.
        """
        now = self._clock.now_ms()
        key = new_key()

        def decide(old: KeyRow) -> tuple[KeyRow, AuditRow]:
            if old.expires_at is not None and old.expires_at <= now:
                raise Conflict("api_key_expired", "This API key has expired. Create a new one.")
            new = replace(
                old,
                **self._shape(key),
                rotated_at=now,
                previous_until=now + overlap * 1000 if overlap else None,
            )
            return new, entry(self._clock, actor, "key.rotate", key_id, before=_told(old), after=_told(new))

        return await self._touch(_rotate, key_id, owner, decide), key

    async def end_previous(self, actor: Actor, owner: str | None, key_id: str) -> None:
        """Cut an overlap short: only the latest form works when this returns. Raises NotFound for a key that
        is revoked too.
        """
        now = self._clock.now_ms()

        def decide(old: KeyRow) -> tuple[KeyRow, AuditRow]:
            new = replace(old, previous_until=None) if (old.previous_until or 0) > now else old
            audit = entry(self._clock, actor, "key.end_previous", key_id, before=_told(old), after=_told(new))
            return new, audit

        await self._touch(_end_previous, key_id, owner, decide)

    async def revoke(self, actor: Actor, owner: str | None, key_id: str) -> None:
        """In force when this returns. Raises NotFound for a key that is revoked already."""
        now = self._clock.now_ms()
        audit = entry(self._clock, actor, "key.revoke", key_id, after={"revoked_at": now})
        await self._touch(_revoke, key_id, owner, now, audit)

    async def usage(self, owner: str | None, key_id: str, *, days: int) -> KeyUsage:
        """By day, over the last `days` calendar days in UTC, today included. Raises NotFound."""
        row = await self.get(owner, key_id)
        now = self._clock.now_ms()
        query = StatsQuery(
            since=(now // DAY - days + 1) * DAY,
            until=now + 1,
            group_by="day",
            user_id=row.user_id,
            key_id=row.id,
        )
        return KeyUsage(row, await self._store.read(select_stats, query))

    async def _touch(self, unit: Callable[..., Awaitable[Touched]], *args: object) -> KeyRow:
        row, digests = await self._write(unit, *args)
        self._changed(*digests)
        return row

    async def _write(self, unit: Callable[..., Awaitable[T]], *args: object) -> T:
        """To its end, also when whoever asked has left: once it is committed, the caches must learn of it."""
        with trio.CancelScope(shield=True):
            try:
                done = await self._store.write(unit, *args)
            except StorageError:
                self._changed()  # it may have taken effect
                raise
        return done

    def _new(self, owner: str, rules: KeyPolicy) -> tuple[KeyRow, str]:
        key = new_key()
        now = self._clock.now_ms()
        row = KeyRow(
            id=uuid7(now),
            user_id=owner,
            revoked_at=None,
            last_used_at=None,
            created_at=now,
            rotated_at=None,
            previous_until=None,
            **self._shape(key),
            **_columns(rules),
        )
        return row, key

    def _shape(self, key: str) -> dict[str, Any]:
        """The columns that tell a key itself."""
        return {
            "digest": key_digest(self._pepper, key),
            "prefix": key[:SHOWN_PREFIX],
            "last4": key[-4:],
        }


def rules_of(row: KeyRow) -> KeyPolicy:
    return KeyPolicy(
        name=row.name,
        scopes=row.scopes,
        allowed_models=row.allowed_models,
        allowed_ips=row.allowed_ips,
        allowed_origins=row.allowed_origins,
        limits=read_limits(row.limits),
        expires_at=row.expires_at,
        metadata=row.metadata,
    )


def _columns(rules: KeyPolicy) -> dict[str, Any]:
    return structs.asdict(rules) | {"limits": write_limits(rules.limits)}


def _told(row: KeyRow) -> dict[str, object]:
    """What the audit log keeps of a key."""
    return {
        "user_id": row.user_id,
        "revoked_at": row.revoked_at,
        "rotated_at": row.rotated_at,
        "previous_until": row.previous_until,
        **structs.asdict(rules_of(row)),
        "limits": {} if row.limits is None else json.loads(row.limits),
    }


def no_such_key() -> NotFound:
    return NotFound("key_not_found", "There is no key with this id.")


async def _insert(connection: Connection, row: KeyRow, audit: AuditRow) -> None:
    await insert_audit(connection, audit)
    await insert_key(connection, row)
    await _require_room(connection, row.user_id, row.created_at)


async def _require_room(connection: Connection, user_id: str, now: int) -> None:
    """After the new one is in: nobody else makes a key meanwhile, as whoever does holds the audit log."""
    if await count_active_keys(connection, user_id, now) > MAX_ACTIVE:
        raise Conflict(
            "too_many_keys", f"An account can have {MAX_ACTIVE} active keys. Revoke one that is not needed."
        )


async def _put_guest(connection: Connection, row: KeyRow, audit: AuditRow) -> None:
    await hold_audit(connection)
    last = await select_setting(connection, GUEST)
    if last is not None and await renew_key(connection, replace(row, id=last)):
        await update_key(connection, replace(row, id=last))
        await end_replaced(connection, last, 0)
        await insert_audit(connection, replace(audit, subject=last))
    else:
        await put_setting(connection, GUEST, row.id)
        await _insert(connection, row, audit)


async def _active(connection: Connection, key_id: str, owner: str | None) -> KeyRow:
    """A key that is not revoked, expired or not. It stays as it is to the unit's end. Raises NotFound."""
    row = await select_key(connection, key_id, owner) if is_uuid(key_id) else None
    if row is None or row.revoked_at is not None:
        raise NotFound("key_not_found", "There is no active key with this id.")
    return row


async def _decided(
    connection: Connection, key_id: str, owner: str | None, decide: Decision
) -> tuple[KeyRow, KeyRow, int]:
    """The key before and after, and when that is. What changes nothing is not in the audit log."""
    await hold_audit(connection)
    before = await _active(connection, key_id, owner)
    after, audit = decide(before)
    if after != before:
        await insert_audit(connection, audit)
    return before, after, audit.at


async def _update(connection: Connection, key_id: str, owner: str | None, decide: Decision) -> Touched:
    before, after, now = await _decided(connection, key_id, owner, decide)
    await update_key(connection, after)
    if before.expires_at is not None and before.expires_at <= now:  # it may live again
        await _require_room(connection, after.user_id, now)
    return await _touched(connection, before, after)


async def _rotate(connection: Connection, key_id: str, owner: str | None, decide: Decision) -> Touched:
    old, new, now = await _decided(connection, key_id, owner, decide)
    ends_at = new.previous_until or 0
    touched = await _touched(connection, old, new)
    await end_replaced(connection, old.id, ends_at)
    await replace_digest(connection, old.id, old.digest, at=now, ends_at=ends_at)
    if await count_replaced(connection, old.id, now) > MAX_REPLACED:
        raise Conflict(
            "too_many_rotations",
            f"{MAX_REPLACED} earlier forms of this key still work. End them first (DELETE on the key's"
            " /previous, or `keys end-previous`), or rotate without an overlap.",
        )
    await forget_replaced(connection, old.id, now, but=MAX_REPLACED)
    await renew_key(connection, new)
    return touched


async def _end_previous(connection: Connection, key_id: str, owner: str | None, decide: Decision) -> Touched:
    old, new, _ = await _decided(connection, key_id, owner, decide)
    if new != old:
        await end_replaced(connection, old.id, 0)
    return await _touched(connection, old, new)


async def _revoke(
    connection: Connection, key_id: str, owner: str | None, now: int, audit: AuditRow
) -> Touched:
    await hold_audit(connection)
    row = await _active(connection, key_id, owner)
    await insert_audit(connection, audit)
    await revoke_key(connection, row.user_id, key_id, now)
    return await _touched(connection, row, replace(row, revoked_at=now))


async def _touched(connection: Connection, before: KeyRow, after: KeyRow) -> Touched:
    return after, [before.digest, *await select_replaced(connection, before.id)]
