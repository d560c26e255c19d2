"""Replaces the master key: encrypts all secrets of the database with a new one.

While it runs, the file has the new key and the old one, and both decrypt. It can therefore be interrupted at
any time: a gateway starts with such a file, and the next run continues.
"""

from functools import partial

from msgspec import Struct

from bluesminds.accounts.audit import OPERATOR, entry
from bluesminds.app.secrets import read_master_keys, store_fingerprint
from bluesminds.app.services import open_services
from bluesminds.app.state_dir import MASTER_KEY
from bluesminds.common.clock import Clock
from bluesminds.common.crypto import Vault, fingerprint, new_master_key
from bluesminds.common.log import Log
from bluesminds.config import Settings
from storage.audit import AuditRow, insert_audit
from storage.base import Connection
from storage.resealing import SEALED_COLUMNS, START, Position, reseal_batch

BATCH = 50  # rows in one transaction


class RotatedMasterKey(Struct, frozen=True):
    """The numbers of values that were encrypted again, and of those that no key decrypts."""

    changed: int
    unreadable: int


async def rotate_master_key(settings: Settings, *, clock: Clock, log: Log) -> RotatedMasterKey:
    """Raises StateBusy while a gateway runs, and what `open_services` raises."""
    async with open_services(settings, clock=clock, log=log) as services:
        keys = read_master_keys(services.state)
        if len(keys) == 1:  # otherwise an earlier rotation was interrupted
            keys = [new_master_key(), *keys]
            services.state.write_secret(MASTER_KEY, b"\n".join(keys))
        vault = Vault(keys)
        changed = unreadable = 0
        for column in SEALED_COLUMNS:
            after: Position | None = START
            while after is not None:
                batch = await services.store.write(
                    reseal_batch, column, after, BATCH, partial(_reseal, vault)
                )
                after = batch.end
                changed += batch.changed
                unreadable += batch.unreadable
        after_fields = {"values": changed, "unreadable": unreadable}
        audit = entry(clock, OPERATOR, "master_key.rotate", MASTER_KEY, after=after_fields)
        await services.store.write(_finish, fingerprint(keys[0]), audit)
        services.state.write_secret(MASTER_KEY, keys[0])
    return RotatedMasterKey(changed, unreadable)


def _reseal(vault: Vault, sealed: bytes) -> bytes | None:
    try:
        return vault.seal_bytes(vault.open_bytes(sealed))
    except ValueError:
        return None


async def _finish(connection: Connection, value: str, audit: AuditRow) -> None:
    await insert_audit(connection, audit)
    await store_fingerprint(connection, MASTER_KEY, value)
