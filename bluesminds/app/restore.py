"""Restores a backup. A SQLite copy is checked completely before it replaces the database.

The check opens the copy as a gateway would: an older schema is migrated, the secrets must match, and the
audit log and the ledger are verified. A database that exists is only replaced on request. Its file is kept;
for PostgreSQL, all changes are one transaction.
"""

import gzip
import os
import shutil
import sqlite3
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import trio
from msgspec import Struct, structs

from bluesminds.app.backup import (
    CHUNK,
    DATABASE,
    FORMAT,
    MANIFEST,
    SECRETS,
    Manifest,
    file_sha256,
    open_secrets,
    run_program,
)
from bluesminds.app.database import database_url
from bluesminds.app.errors import BackupFailed, BackupMissing, DatabaseExists
from bluesminds.app.services import open_services
from bluesminds.app.state_dir import MASTER_KEY, PEPPER, StateDir
from bluesminds.common.clock import Clock
from bluesminds.common.log import Log
from bluesminds.config import Settings, StorageSettings
from bluesminds.gateway.limits.lease import Lease
from storage import sqlite_path
from storage.backup import ClientProgram, check_sqlite, restore_postgres
from storage.settings import select_setting
from storage.store import open_store

_PARTIAL: Final = "restore.partial"
_SMALL: Final = 65_536  # bytes; the maximum of the manifest and of the secrets
_INCOMPLETE: Final = "the file is not a complete backup"
_UNREADABLE: Final = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError)
_REPLACE: Final = "use another storage.url or state_dir, or replace it with --replace"


class RestoredBackup(Struct, frozen=True):
    """`created_at` and `version`: of the backup. `kept`: the files that were replaced."""

    created_at: str
    version: str
    audit_entries: int
    ledger_entries: int
    kept: tuple[str, ...] = ()


class _Work(Struct, frozen=True):
    """A restore with its options. `scratch` has the members of the backup and the secrets."""

    settings: Settings
    state: StateDir
    scratch: StateDir
    secrets: Mapping[str, bytes]
    clock: Clock
    log: Log

    @property
    def suffix(self) -> str:
        """Of the names that replaced files get."""
        return f"replaced-{self.clock.now_ms()}"


async def restore_backup(
    settings: Settings,
    file: Path,
    passphrase: str | None,
    *,
    replace: bool,
    check_only: bool,
    clock: Clock,
    log: Log,
) -> RestoredBackup:
    """Raises StateBusy and LeaseHeld while a gateway runs, BackupFailed, BadState and StorageError."""
    state = StateDir(settings.state_dir)
    state.create()
    scratch = StateDir(state.path / _PARTIAL)
    url = database_url(settings)
    try:
        with state.locked(), _emptied(scratch):
            manifest = await trio.to_thread.run_sync(_extract, file, scratch.path)
            if (sqlite_path(url) is None) != (manifest.engine == "postgres"):
                message = f"the backup is of a {manifest.engine} database, and storage.url is another kind"
                raise BackupFailed(message, "set storage.url to such a database")
            secrets = await _read_secrets(state, settings, scratch.path, passphrase)
            work = _Work(settings, state, scratch, secrets, clock, log)
            if not replace and not check_only:
                await _refuse_used(url)
            if manifest.engine == "sqlite":
                return await _restore_sqlite(work, manifest, check_only=check_only)
            await _restore_postgres(work, check_only=check_only)
        # Opened after the lock is released, because the services take it.
        audit, ledger = (0, 0) if check_only else await _verify(settings, clock, log)
        return RestoredBackup(manifest.created_at, manifest.version, audit, ledger)
    except OSError as exc:
        raise BackupFailed(f"cannot restore the backup: {exc.strerror or exc}") from exc


@contextmanager
def _emptied(scratch: StateDir) -> Iterator[None]:
    shutil.rmtree(scratch.path, ignore_errors=True)
    scratch.create()
    try:
        yield
    finally:
        shutil.rmtree(scratch.path, ignore_errors=True)


async def _restore_sqlite(work: _Work, manifest: Manifest, *, check_only: bool) -> RestoredBackup:
    database = work.scratch.path / DATABASE
    try:
        await trio.to_thread.run_sync(check_sqlite, database)
    except sqlite3.Error as exc:
        raise BackupFailed(f"the database in the backup is damaged: {exc}") from exc
    for name, secret in work.secrets.items():
        work.scratch.write_secret(name, secret)
    database.rename(work.scratch.path / "bluesminds.db")
    keys = structs.replace(work.settings.keys, pepper=None)
    copy = structs.replace(work.settings, state_dir=work.scratch.path, storage=StorageSettings(), keys=keys)
    audit, ledger = await _verify(copy, work.clock, work.log)
    kept = () if check_only else (*_place_database(work), *_place_secrets(work))
    return RestoredBackup(manifest.created_at, manifest.version, audit, ledger, kept)


async def _restore_postgres(work: _Work, *, check_only: bool) -> None:
    """A dump can only be verified in its database. All changes are one transaction."""
    dump = work.scratch.path / DATABASE
    await run_program(ClientProgram(("pg_restore", "--list", str(dump)), {}))
    if not check_only:
        await _refuse_served(work)
        await run_program(restore_postgres(database_url(work.settings), dump))
        _place_secrets(work)


async def _refuse_served(work: _Work) -> None:
    """Raises LeaseHeld while a gateway with another state directory serves the database."""
    async with open_store(database_url(work.settings)) as store:
        lease = Lease(store, work.state.instance(), work.log)
        await lease.acquire()
        await lease.release()


def _extract(file: Path, target: Path) -> Manifest:
    """Write the members into `target` and check them. Blocks."""
    try:
        with gzip.open(file) as compressed, tarfile.open(fileobj=compressed, mode="r|") as tar:
            for member in tar:
                if not member.isreg() or member.name not in (MANIFEST, SECRETS, DATABASE):
                    raise BackupFailed(_INCOMPLETE)
                if member.name != DATABASE and member.size > _SMALL:
                    raise BackupFailed(_INCOMPLETE)
                source = tar.extractfile(member)
                if source is None:
                    raise BackupFailed(_INCOMPLETE)
                descriptor = os.open(target / member.name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
                with source, os.fdopen(descriptor, "wb") as written:
                    shutil.copyfileobj(source, written, CHUNK)
            while compressed.read(CHUNK):  # its end has the checksum of gzip
                pass
        manifest = msgspec.json.decode((target / MANIFEST).read_bytes(), type=Manifest)
        if manifest.format != FORMAT:
            raise BackupFailed(
                f"a newer version wrote the backup ({manifest.version})", "install that version"
            )
        intact = file_sha256(target / DATABASE) == manifest.sha256
    except (*_UNREADABLE, msgspec.DecodeError, FileExistsError) as exc:
        raise BackupFailed(_INCOMPLETE) from exc
    except FileNotFoundError as exc:
        if exc.filename == str(file):
            raise BackupMissing(f"{file} does not exist") from exc
        raise BackupFailed(_INCOMPLETE) from exc
    if not intact:
        raise BackupFailed("the backup is damaged: the checksum of the database is wrong")
    return manifest


async def _read_secrets(
    state: StateDir, settings: Settings, scratch: Path, passphrase: str | None
) -> Mapping[str, bytes]:
    """Those of the backup, or those of the state directory if the backup has none."""
    sealed = scratch / SECRETS
    if sealed.exists():
        if not passphrase:
            remedy = "give a file with --passphrase-file, or set passphrase in [backup]"
            raise BackupFailed("the secrets in the backup are encrypted, and no passphrase is given", remedy)
        return await trio.to_thread.run_sync(open_secrets, passphrase, sealed.read_bytes())
    configured = settings.keys.pepper
    pepper = state.secret(PEPPER) if configured is None else configured.reveal().encode()
    found = {PEPPER: pepper, MASTER_KEY: state.secret(MASTER_KEY)}
    if missing := [name for name, secret in found.items() if secret is None]:
        remedy = f"copy {' and '.join(missing)} of the old gateway into {state.path} first"
        raise BackupFailed("the backup was made without the secrets, and they are not here", remedy)
    return {name: secret for name, secret in found.items() if secret is not None}


async def _refuse_used(url: str) -> None:
    path = sqlite_path(url)
    if path is not None:
        if await trio.Path(path).exists():
            raise DatabaseExists(f"the database {path} exists already", _REPLACE)
        return
    async with open_store(url) as store:
        used = await store.read(select_setting, f"fingerprint:{MASTER_KEY}")
    if used is not None:
        raise DatabaseExists("a gateway has used this database already", _REPLACE)


async def _verify(settings: Settings, clock: Clock, log: Log) -> tuple[int, int]:
    """The numbers of audit entries and ledger entries. Opening also checks that the secrets belong to the
    database.
    """
    async with open_services(settings, clock=clock, log=log) as services:
        audit = await services.accounts.audit.verify()
        ledger = await services.accounts.ledger.verify()
    if audit.damage is not None:
        seq = audit.at.seq + 1
        raise BackupFailed(f"the audit log in the backup is damaged: entry {seq} is {audit.damage}")
    if ledger.problem is not None:
        raise BackupFailed(f"the ledger in the backup is wrong: {ledger.problem}")
    return audit.at.seq, ledger.entries


def _place_database(work: _Work) -> Iterator[str]:
    """Move the checked copy to its place. The old file and its write-ahead log get another name, which is
    returned.
    """
    path = sqlite_path(database_url(work.settings))
    if path is None:
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for ending in ("", "-wal", "-shm"):
        old = Path(f"{path}{ending}")
        if old.exists():
            old.rename(kept := f"{path}.{work.suffix}{ending}")
            yield kept
    shutil.move(work.scratch.path / "bluesminds.db", path)


def _place_secrets(work: _Work) -> Sequence[str]:
    """Write the secrets. Replaced ones get another name, which is returned."""
    kept = []
    configured = work.settings.keys.pepper
    for name, secret in work.secrets.items():
        if name == PEPPER and configured is not None:
            continue  # a start reports a pepper that does not belong to the database
        old = work.state.secret(name)
        if old is not None and old != secret:
            kept.append(str(work.state.write_secret(f"{name}.{work.suffix}", old)))
        work.state.write_secret(name, secret)
    return kept
