"""API keys: made, listed, revoked. The key itself is in the answer to its creation and nowhere else."""

from collections.abc import Callable
from dataclasses import replace

from bluesminds.accounts.audit import Actor, entry
from bluesminds.clock import Clock
from bluesminds.crypto import key_digest, new_key, uuid7
from bluesminds.errors import NotFound
from storage.audit import AuditRow, insert_audit
from storage.base import Conflict, Connection, Store
from storage.keys import KeyRow, insert_key, renew_key, revoke_key, select_key, select_keys
from storage.settings import put_setting, select_setting

GUEST = "guest_key_id"
SHOWN_PREFIX = 7  # "bm_" and four characters: enough to recognise a key, far too little to guess it


class Keys:
    """`changed` is called after every change, so that caches of keys can be emptied."""

    def __init__(self, store: Store, *, pepper: bytes, clock: Clock, changed: Callable[[], object]) -> None:
        self._store = store
        self._pepper = pepper
        self._clock = clock
        self._changed = changed

    async def create(
        self,
        actor: Actor,
        *,
        user_id: str,
        name: str,
        rpm: int | None = None,
        concurrency: int | None = None,
        expires_at: int | None = None,
    ) -> tuple[KeyRow, str]:
        """The stored row and the key, to be shown once. Limits: None is the default, 0 is no limit.

        Raises NotFound when there is no such user."""
        row, key = self._new(user_id, name, rpm=rpm, concurrency=concurrency, expires_at=expires_at)
        try:
            await self._store.write(_insert, row, self._created(actor, row))
        except Conflict as exc:
            raise NotFound("user_not_found", "There is no user with this id.", param="user_id") from exc
        # An unknown key may be remembered as unknown; the new one must work at once.
        self._changed()
        return row, key

    async def guest(self, actor: Actor, *, user_id: str, expires_at: int) -> str:
        """A key for trials, to be shown once. There is one at a time: it takes the place of the last."""
        row, key = self._new(user_id, "guest", rpm=None, concurrency=None, expires_at=expires_at)
        await self._store.write(_put_guest, row, self._created(actor, row))
        self._changed()
        return key

    def _new(
        self, user_id: str, name: str, *, rpm: int | None, concurrency: int | None, expires_at: int | None
    ) -> tuple[KeyRow, str]:
        key = new_key()
        now = self._clock.now_ms()
        row = KeyRow(
            id=uuid7(now),
            user_id=user_id,
            name=name,
            digest=key_digest(self._pepper, key),
            prefix=key[:SHOWN_PREFIX],
            last4=key[-4:],
            rpm=rpm,
            concurrency=concurrency,
            expires_at=expires_at,
            revoked_at=None,
            last_used_at=None,
            created_at=now,
        )
        return row, key

    def _created(self, actor: Actor, row: KeyRow) -> AuditRow:
        return entry(self._clock, actor, "key.create", row.id, name=row.name, user_id=row.user_id)

    async def list(self) -> list[KeyRow]:
        return list(await self._store.read(select_keys))

    async def revoke(self, actor: Actor, key_id: str) -> None:
        """In force when this returns. Raises NotFound."""
        now = self._clock.now_ms()
        found = await self._store.write(_revoke, key_id, now, entry(self._clock, actor, "key.revoke", key_id))
        self._changed()
        if not found:
            raise NotFound("key_not_found", "There is no active key with this id.")


async def _insert(connection: Connection, row: KeyRow, audit: AuditRow) -> None:
    await insert_audit(connection, audit)
    await insert_key(connection, row)


async def _put_guest(connection: Connection, row: KeyRow, audit: AuditRow) -> None:
    last = await select_setting(connection, GUEST)
    if last is not None and await renew_key(connection, replace(row, id=last)):
        await insert_audit(connection, replace(audit, subject=last))
    else:
        await put_setting(connection, GUEST, row.id)
        await _insert(connection, row, audit)


async def _revoke(connection: Connection, key_id: str, now: int, audit: AuditRow) -> bool:
    key = await select_key(connection, key_id)
    if key is None or not await revoke_key(connection, key.user_id, key_id, now):
        return False
    await insert_audit(connection, audit)
    return True
