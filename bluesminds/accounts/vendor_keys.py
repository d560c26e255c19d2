"""Keys of users for vendors. Requests of the user use them before the operator's servers, or instead of them.

They are encrypted with the master key. A key that the current master key cannot decrypt is not used.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeVar, TypeVarTuple, Unpack

import trio
from msgspec import UNSET, Struct, UnsetType

from bluesminds.accounts.audit import Actor, entry
from bluesminds.accounts.keys import Changed
from bluesminds.accounts.users import no_such_user
from bluesminds.common.clock import Clock
from bluesminds.common.crypto import Vault, is_uuid, uuid7
from bluesminds.common.errors import Conflict, Forbidden, InvalidRequest, NotFound
from bluesminds.common.values import OwnKey, OwnKeyMode, Server, own_server_name
from bluesminds.providers.own_keys import OWN_KEY_VENDORS, own_server
from bluesminds.providers.vendors import Vendor
from storage.audit import insert_audit, lock_audit_head
from storage.base import Connection, IntegrityError, Store
from storage.keys import select_key_digests
from storage.users import select_user
from storage.vendor_keys import (
    VendorKeyRow,
    delete_vendor_key,
    insert_vendor_key,
    select_vendor_key,
    select_vendor_keys,
    update_vendor_key,
)

MAX_NAMED: Final = 200  # models that a user names for one key
LOCKED: Final = "This key was encrypted with another master key. Store it again."
MAX_LISTED: Final = 2000  # models of a vendor that are kept
LONGEST_NAME: Final = 256  # characters of a listed model
LONGEST_PROBLEM: Final = 500  # characters

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class VendorKeyPolicy(Struct, frozen=True):
    """Which accounts may use their own keys; `tiers` is empty for all. `urls`: of vendors, where it is not
    the usual one.
    """

    enabled: bool = True
    tiers: frozenset[str] = frozenset()
    urls: Mapping[str, str] = {}

    def allows(self, tier: str | None) -> bool:
        return self.enabled and (not self.tiers or (tier or "") in self.tiers)


class VendorKeyTest(Struct, frozen=True):
    """`listed` is None if the vendor did not list its models. `problem`: what is wrong; None if it works."""

    listed: tuple[str, ...] | None = None
    problem: str | None = None


class VendorKeyChanges(Struct, frozen=True):
    """The fields to change. UNSET fields stay the same."""

    api_key: str | UnsetType = UNSET
    mode: OwnKeyMode | UnsetType = UNSET
    models: tuple[str, ...] | UnsetType = UNSET


class VendorKeys:
    """`changed` is called with the digests of the user's API keys, so that caches drop them."""

    def __init__(
        self, store: Store, *, vault: Vault, clock: Clock, changed: Changed, policy: VendorKeyPolicy
    ) -> None:
        self._store = store
        self._vault = vault
        self._clock = clock
        self._changed = changed
        self.policy = policy

    async def list(self, user_id: str) -> Sequence[VendorKeyRow]:
        """In the order of their creation. Raises NotFound."""
        if not is_uuid(user_id):
            raise no_such_user()
        return await self._store.read(_list, user_id)

    async def get(self, user_id: str, key_id: str) -> VendorKeyRow:
        """Raises NotFound."""
        found = is_uuid(user_id) and is_uuid(key_id)
        return _require(await self._store.read(select_vendor_key, user_id, key_id) if found else None)

    async def check_allowed(self, user_id: str) -> None:
        """Raises Forbidden if the account may not use its own keys."""
        user = await self._store.read(select_user, user_id)
        if user is None or not self.policy.allows(user.tier):
            raise Forbidden(
                "vendor_keys_disabled",
                "Your account may not store its own vendor keys. Ask the "
                "operator to allow it in [vendor_keys].",
            )

    async def check_new(self, user_id: str, vendor: str) -> None:
        """Raises InvalidRequest for a vendor without own keys, Conflict if the user has a key of it."""
        require_vendor(vendor)
        if any(row.vendor == vendor for row in await self._store.read(select_vendor_keys, user_id)):
            raise _exists(vendor)

    def server(self, vendor: str, api_key: str, models: Sequence[str], key_id: str = "") -> Server:
        """The server to test a key with. Raises InvalidRequest."""
        row = require_vendor(vendor)
        return own_server(row, self._url(row), key_id=key_id, api_key=api_key, models=models)

    def open_server(self, row: VendorKeyRow) -> Server:
        """The server of a stored key. Raises Conflict if the master key cannot decrypt it."""
        try:
            return self.server(row.vendor, self._vault.open(row.sealed_api_key), row.models, row.id)
        except ValueError as exc:
            raise Conflict("vendor_key_locked", LOCKED) from exc

    def changed_server(self, row: VendorKeyRow, changes: VendorKeyChanges) -> Server:
        """The server of a stored key with these changes. Raises Conflict if the key cannot be decrypted."""
        models = row.models if changes.models is UNSET else changes.models
        if changes.api_key is not UNSET:
            return self.server(row.vendor, changes.api_key, models, row.id)
        return self.open_server(replace(row, models=models))

    def is_locked(self, row: VendorKeyRow) -> bool:
        """Whether the master key cannot decrypt it."""
        try:
            self._vault.open(row.sealed_api_key)
        except ValueError:
            return True
        return False

    @staticmethod
    def server_name(row: VendorKeyRow) -> str:
        return own_server_name(row.vendor, row.id)

    async def add(
        self,
        actor: Actor,
        user_id: str,
        *,
        vendor: str,
        api_key: str,
        mode: OwnKeyMode,
        models: tuple[str, ...],
        test: VendorKeyTest,
    ) -> VendorKeyRow:
        """Used from the next request on. Raises Conflict if the user has a key of this vendor."""
        now = self._clock.now_ms()
        row = VendorKeyRow(
            id=uuid7(now),
            user_id=user_id,
            vendor=vendor,
            sealed_api_key=self._vault.seal(api_key),
            last4=last4(api_key),
            mode=mode,
            models=models,
            listed=_kept(test.listed or ()),
            problem=_cut(test.problem),
            tested_at=now,
            created_at=now,
            updated_at=now,
        )
        try:
            await self._write(user_id, _insert, self._clock, actor, row)
        except IntegrityError as exc:
            raise _exists(vendor) from exc
        return row

    async def update(
        self,
        actor: Actor,
        user_id: str,
        key_id: str,
        changes: VendorKeyChanges,
        test: VendorKeyTest | None = None,
    ) -> VendorKeyRow:
        """`test`: of the key with these changes. Raises NotFound."""
        now = self._clock.now_ms()

        def edit(row: VendorKeyRow) -> VendorKeyRow:
            if changes.api_key is not UNSET:
                sealed = self._vault.seal(changes.api_key)
                row = replace(row, sealed_api_key=sealed, last4=last4(changes.api_key))
            if changes.mode is not UNSET:
                row = replace(row, mode=changes.mode)
            if changes.models is not UNSET:
                row = replace(row, models=changes.models)
            return row if test is None else self._tested(row, test)

        return await self._write(user_id, _edit, self._clock, actor, user_id, key_id, edit, now)

    async def record_test(self, user_id: str, key_id: str, test: VendorKeyTest) -> VendorKeyRow:
        """Keep what a test found. Raises NotFound."""
        now = self._clock.now_ms()
        return await self._write(
            user_id, _edit, self._clock, None, user_id, key_id, lambda row: self._tested(row, test), now
        )

    async def remove(self, actor: Actor, user_id: str, key_id: str) -> None:
        """Not used from the next request on. Raises NotFound."""
        if not (is_uuid(user_id) and is_uuid(key_id)):
            raise _no_such_key()
        await self._write(user_id, _delete, self._clock, actor, user_id, key_id)

    def open_all(self, rows: Sequence[VendorKeyRow], tier: str | None) -> tuple[OwnKey, ...] | None:
        """What requests of an account use; None if there is nothing."""
        if not rows or not self.policy.allows(tier):
            return None
        return tuple(key for row in rows if (key := self._open(row)) is not None) or None

    async def of_account(self, user_id: str, tier: str | None) -> tuple[OwnKey, ...] | None:
        return self.open_all(await self._store.read(select_vendor_keys, user_id), tier)

    def _open(self, row: VendorKeyRow) -> OwnKey | None:
        """None if it cannot be decrypted, or if the vendor is not known any more."""
        vendor = OWN_KEY_VENDORS.get(row.vendor)
        if vendor is None:
            return None
        try:
            api_key = self._vault.open(row.sealed_api_key)
        except ValueError:
            return None
        models = row.models or row.listed
        server = own_server(vendor, self._url(vendor), key_id=row.id, api_key=api_key, models=models)
        return OwnKey(server, row.mode, frozenset(models))

    def _url(self, vendor: Vendor) -> str:
        return self.policy.urls.get(vendor.name, vendor.url)

    def _tested(self, row: VendorKeyRow, test: VendorKeyTest) -> VendorKeyRow:
        listed = row.listed if test.listed is None else _kept(test.listed)
        return replace(row, listed=listed, problem=_cut(test.problem), tested_at=self._clock.now_ms())

    async def _write(
        self, user_id: str, unit: Callable[[Connection, Unpack[Ts]], Awaitable[T]], *args: *Ts
    ) -> T:
        with trio.CancelScope(shield=True):  # a committed change must invalidate the caches
            written = await self._store.write(unit, *args)
            if digests := await self._store.read(select_key_digests, user_id):
                self._changed(*digests)
        return written


def require_vendor(name: str) -> Vendor:
    """Raises InvalidRequest."""
    vendor = OWN_KEY_VENDORS.get(name)
    if vendor is None:
        known = ", ".join(OWN_KEY_VENDORS)
        raise InvalidRequest("invalid_value", f"vendor must be one of {known}.", param="vendor")
    return vendor


def last4(api_key: str) -> str:
    """The last characters of a key; "" for a short one, of which they would reveal too much."""
    return api_key[-4:] if len(api_key) >= 16 else ""


def _kept(listed: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in listed if len(name) <= LONGEST_NAME)[:MAX_LISTED]


def _cut(problem: str | None) -> str | None:
    return None if problem is None else problem[:LONGEST_PROBLEM]


def _audit_fields(row: VendorKeyRow) -> dict[str, object]:
    """The audit log masks the key."""
    return {
        "vendor": row.vendor,
        "api_key": row.sealed_api_key,
        "last4": row.last4,
        "mode": row.mode,
        "models": row.models,
    }


def _require(row: VendorKeyRow | None) -> VendorKeyRow:
    if row is None:
        raise _no_such_key()
    return row


def _no_such_key() -> NotFound:
    return NotFound("vendor_key_not_found", "There is no vendor key with this id.")


def _exists(vendor: str) -> Conflict:
    title = OWN_KEY_VENDORS[vendor].title
    return Conflict(
        "vendor_key_exists", f"You have a key for {title} already. Change it, or delete it first."
    )


async def _list(connection: Connection, user_id: str) -> Sequence[VendorKeyRow]:
    if await select_user(connection, user_id) is None:
        raise no_such_user()
    return await select_vendor_keys(connection, user_id)


async def _insert(connection: Connection, clock: Clock, actor: Actor, row: VendorKeyRow) -> None:
    await insert_audit(connection, entry(clock, actor, "vendor_key.add", row.id, after=_audit_fields(row)))
    await insert_vendor_key(connection, row)


async def _edit(
    connection: Connection,
    clock: Clock,
    actor: Actor | None,
    user_id: str,
    key_id: str,
    edit: Callable[[VendorKeyRow], VendorKeyRow],
    now: int,
) -> VendorKeyRow:
    """Without an actor, the result of a test is stored, which the audit log does not have."""
    await lock_audit_head(connection)
    before = _require(await select_vendor_key(connection, user_id, key_id))
    after = edit(before)
    if after == before:
        return before
    after = replace(after, updated_at=now)
    if actor is not None:
        old, new = _audit_fields(before), _audit_fields(after)
        if old != new:
            audit = entry(clock, actor, "vendor_key.update", key_id, before=old, after=new)
            await insert_audit(connection, audit)
    await update_vendor_key(connection, after)
    return after


async def _delete(connection: Connection, clock: Clock, actor: Actor, user_id: str, key_id: str) -> None:
    await lock_audit_head(connection)
    row = _require(await select_vendor_key(connection, user_id, key_id))
    audit = entry(clock, actor, "vendor_key.remove", key_id, before=_audit_fields(row))
    await insert_audit(connection, audit)
    await delete_vendor_key(connection, key_id)
