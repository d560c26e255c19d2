"""API keys: create, change, rotate, revoke. A secret is only in the response to its creation or rotation.

A key narrows what its user may do; its limits apply in addition to the account's. Rotation replaces the
secret: the key keeps its ID, policy, limits and usage, and the previous secret may be accepted for a time.
`owner` is the ID of a user; only keys of this user are found. None finds the keys of all users. The caller
checks that only administrators pass None.
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
from bluesminds.common.clock import Clock, format_time
from bluesminds.common.crypto import is_uuid, key_digest, new_key, uuid7
from bluesminds.common.errors import Conflict, NotFound
from bluesminds.common.values import read_limits, write_limits
from bluesminds.notify.events import EventKind, new_event
from storage.audit import AuditRow, insert_audit, lock_audit_head
from storage.base import Connection, IntegrityError, StorageError, Store
from storage.events import EventRow, insert_event
from storage.keys import (
    KeyQuery,
    KeyRow,
    count_active_keys,
    insert_key,
    select_key,
    select_keys,
    update_key,
)
from storage.settings import put_setting, select_setting
from storage.usage import DAY
from storage.usage_stats import StatsQuery, StatsRow, select_stats

GUEST: Final = "guest_key_id"
MAX_ACTIVE: Final = 1000  # keys of one user
PREFIX_LENGTH: Final = 7  # "bm_" and four characters: enough to recognise a key, too little to guess it

T = TypeVar("T")
KeyEdit = Callable[[KeyRow], tuple[KeyRow, AuditRow]]
"""Maps a key to the changed key and the audit row of the change. Pure."""


class Changed(Protocol):
    def __call__(self, *digests: bytes) -> object:
        """The keys with these digests have changed. Without digests: any key may have changed."""


class KeyUsage(Struct, frozen=True):
    """The usage of one key by day."""

    key: KeyRow
    days: list[StatsRow]


class Keys:
    """`changed` is called with all digests of a key before this returns, so that caches drop them."""

    def __init__(self, store: Store, *, pepper: bytes, clock: Clock, changed: Changed) -> None:
        self._store = store
        self._pepper = pepper
        self._clock = clock
        self._changed = changed

    async def create(self, actor: Actor, owner: str, policy: KeyPolicy) -> tuple[KeyRow, str]:
        """The stored row and the secret, to be shown once.

        Raises NotFound if there is no such user, InvalidRequest, Conflict if the user has too many keys.
        """
        policy = policy.checked(self._clock.now_ms())
        if not is_uuid(owner):
            raise no_such_user("user_id")
        row, key = self._new_row(owner, policy)
        audit = entry(self._clock, actor, "key.create", row.id, after=_audit_fields(row))
        try:
            await self._store.write(_insert, row, audit)
        except IntegrityError as exc:
            raise no_such_user("user_id") from exc
        if row.allowed_origins is not None:
            self._changed(row.digest)  # the origins that keys list are cached
        return row, key

    async def guest(self, actor: Actor, *, user_id: str, expires_at: int) -> str:
        """The secret of the guest key, to be shown once. There is one guest key; its earlier secrets end."""
        row, key = self._new_row(user_id, KeyPolicy(name="guest", expires_at=expires_at))
        audit = entry(self._clock, actor, "key.create", row.id, after=_audit_fields(row))
        await self._write(_insert_guest, row, audit)
        self._changed()
        return key

    async def list(
        self, owner: str | None, *, active: bool | None = None, after: str = "", limit: int = 100
    ) -> list[KeyRow]:
        """Keys whose ID is above `after`, oldest first."""
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
        """Takes effect before this returns. `change` maps the key's policy to the new one; it is pure.

        Raises NotFound, also for a revoked key; InvalidRequest; Conflict if an expired key would become
        active and the user has too many active keys.
        """
        now = self._clock.now_ms()

        def edit(row: KeyRow) -> tuple[KeyRow, AuditRow]:
            before = policy_of(row)
            after = change(before)
            return self._edited(actor, "key.update", row, **_columns(after.checked(now, before)))

        return await self._edit(owner, key_id, edit)

    async def rotate(
        self, actor: Actor, owner: str | None, key_id: str, *, overlap: int
    ) -> tuple[KeyRow, str]:
        """The key and its new secret, to be shown once. The secret it replaces is accepted for `overlap` more
        seconds; the secret before that ends. Takes effect before this returns.

        Raises NotFound, also for a revoked key; Conflict for an expired one.
        """
        now = self._clock.now_ms()
        key = new_key()

        def edit(row: KeyRow) -> tuple[KeyRow, AuditRow]:
            if row.expires_at is not None and row.expires_at <= now:
                raise Conflict("api_key_expired", "This API key has expired. Create a new one.")
            return self._edited(
                actor,
                "key.rotate",
                row,
                **self._secret_columns(key),
                rotated_at=now,
                previous_digest=row.digest,
                previous_until=now + overlap * 1000 if overlap else None,
            )

        return await self._edit(owner, key_id, edit), key

    async def end_previous(self, actor: Actor, owner: str | None, key_id: str) -> None:
        """End the previous secret before this returns. Raises NotFound, also for a revoked key."""
        now = self._clock.now_ms()

        def edit(row: KeyRow) -> tuple[KeyRow, AuditRow]:
            until = None if (row.previous_until or 0) > now else row.previous_until
            return self._edited(actor, "key.end_previous", row, previous_until=until)

        await self._edit(owner, key_id, edit)

    async def revoke(self, actor: Actor, owner: str | None, key_id: str) -> None:
        """Takes effect before this returns. Raises NotFound, also for a revoked key."""
        now = self._clock.now_ms()
        await self._edit(owner, key_id, lambda row: self._edited(actor, "key.revoke", row, revoked_at=now))

    async def usage(self, owner: str | None, key_id: str, *, days: int) -> KeyUsage:
        """The last `days` calendar days (UTC), today included. Raises NotFound."""
        row = await self.get(owner, key_id)
        now = self._clock.now_ms()
        query = StatsQuery(
            since=(now // DAY - days + 1) * DAY,
            until=now + 1,
            groups=("day",),
            user_id=row.user_id,
            key_id=row.id,
        )
        return KeyUsage(row, await self._store.read(select_stats, query))

    def _edited(self, actor: Actor, action: str, row: KeyRow, **columns: object) -> tuple[KeyRow, AuditRow]:
        edited = replace(row, **columns)  # type: ignore[arg-type]
        before, after = _audit_fields(row), _audit_fields(edited)
        return edited, entry(self._clock, actor, action, row.id, before=before, after=after)

    async def _edit(self, owner: str | None, key_id: str, edit: KeyEdit) -> KeyRow:
        before, after = await self._write(_apply, owner, key_id, edit)
        self._changed(*(digest for digest in (before.digest, before.previous_digest) if digest is not None))
        return after

    async def _write(self, unit: Callable[..., Awaitable[T]], *args: object) -> T:
        """Shielded from cancellation: once the unit is committed, the caches must be notified."""
        with trio.CancelScope(shield=True):
            try:
                result = await self._store.write(unit, *args)
            except StorageError:
                self._changed()  # the commit may have taken effect
                raise
        return result

    def _new_row(self, owner: str, policy: KeyPolicy) -> tuple[KeyRow, str]:
        key = new_key()
        now = self._clock.now_ms()
        row = KeyRow(
            id=uuid7(now),
            user_id=owner,
            revoked_at=None,
            last_used_at=None,
            created_at=now,
            rotated_at=None,
            **self._secret_columns(key),
            **_columns(policy),
        )
        return row, key

    def _secret_columns(self, key: str) -> dict[str, Any]:
        return {
            "digest": key_digest(self._pepper, key),
            "prefix": key[:PREFIX_LENGTH],
            "last4": key[-4:],
        }


def policy_of(row: KeyRow) -> KeyPolicy:
    return KeyPolicy(
        name=row.name,
        scopes=row.scopes,
        allowed_models=row.allowed_models,
        allowed_ips=row.allowed_ips,
        allowed_origins=row.allowed_origins,
        limits=read_limits(row.limits),
        expires_at=row.expires_at,
        metadata=row.metadata,
        prompt_log=row.prompt_log,
    )


def _columns(policy: KeyPolicy) -> dict[str, Any]:
    return structs.asdict(policy) | {"limits": write_limits(policy.limits)}


def _audit_fields(row: KeyRow) -> dict[str, object]:
    return {
        "user_id": row.user_id,
        "revoked_at": row.revoked_at,
        "rotated_at": row.rotated_at,
        "previous_until": row.previous_until,
        **structs.asdict(policy_of(row)),
        "limits": {} if row.limits is None else json.loads(row.limits),
    }


def _event(at_ms: int, kind: EventKind, row: KeyRow) -> EventRow:
    data = {
        "key_id": row.id,
        "name": row.name,
        "prefix": row.prefix,
        "last4": row.last4,
        "expires_at": format_time(row.expires_at),
    }
    return new_event(at_ms, kind, row.user_id, data)


def no_such_key() -> NotFound:
    return NotFound("key_not_found", "There is no key with this id.")


async def _insert(connection: Connection, row: KeyRow, audit: AuditRow) -> None:
    await insert_audit(connection, audit)
    await insert_key(connection, row)
    await insert_event(connection, _event(row.created_at, "key.created", row))
    await _check_active_keys(connection, row.user_id, row.created_at)


async def _check_active_keys(connection: Connection, user_id: str, now: int) -> None:
    """Called after the insertion. The lock on the audit log keeps other units from inserting keys."""
    if await count_active_keys(connection, user_id, now) > MAX_ACTIVE:
        raise Conflict(
            "too_many_keys", f"An account can have {MAX_ACTIVE} active keys. Revoke one that is not needed."
        )


async def _insert_guest(connection: Connection, row: KeyRow, audit: AuditRow) -> None:
    await lock_audit_head(connection)
    last = await select_setting(connection, GUEST)
    if last is not None and await update_key(connection, replace(row, id=last)):
        await insert_audit(connection, replace(audit, subject=last))
    else:
        await put_setting(connection, GUEST, row.id)
        await _insert(connection, row, audit)


async def _apply(
    connection: Connection, owner: str | None, key_id: str, edit: KeyEdit
) -> tuple[KeyRow, KeyRow]:
    """The key before and after. An edit that changes nothing leaves no audit row. Raises NotFound."""
    await lock_audit_head(connection)
    before = await select_key(connection, key_id, owner) if is_uuid(key_id) else None
    if before is None or before.revoked_at is not None:
        raise NotFound("key_not_found", "There is no active key with this id.")
    after, audit = edit(before)
    if after != before:
        await insert_audit(connection, audit)
        await update_key(connection, after)
    if after.revoked_at is not None:
        await insert_event(connection, _event(after.revoked_at, "key.revoked", after))
    if before.expires_at is not None and before.expires_at <= audit.at:  # it may be active again
        await _check_active_keys(connection, after.user_id, audit.at)
    return before, after
