"""Backups: one archive with a copy of the database and the two secrets that it depends on.

The archive is a tar file compressed with gzip. Its members are `manifest.json`, `database` (a SQLite file or
a dump of pg_dump) and, unless left out, `secrets`: the pepper and the master key. A passphrase encrypts them.
"""

import base64
import gzip
import hashlib
import io
import os
import re
import secrets
import shutil
import sqlite3
import tarfile
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import IO, Final, Literal

import msgspec
import trio
from cryptography.fernet import Fernet, InvalidToken
from msgspec import Struct

from bluesminds import __version__
from bluesminds.app.errors import BackupFailed
from bluesminds.app.state_dir import MASTER_KEY, PEPPER, StateDir
from bluesminds.common.clock import Clock, format_time
from bluesminds.common.errors import InvalidRequest, Unavailable
from bluesminds.common.log import Log
from bluesminds.config import Secret
from bluesminds.config.settings import BackupSettings
from storage import sqlite_path
from storage.backup import ClientProgram, copy_sqlite, dump_postgres

FORMAT: Final = 1
MANIFEST, DATABASE, SECRETS = "manifest.json", "database", "secrets"
CHUNK: Final = 262_144  # bytes
RETRY_SECONDS: Final = 300.0  # after a scheduled backup that failed
_NAME: Final = re.compile(r"bluesminds-\d{8}T\d{6}Z\.tar\.gz")
_NAME_FORMAT: Final = "bluesminds-%Y%m%dT%H%M%S%z.tar.gz"
_PARTIAL: Final = "backup.partial"
_SALT: Final = 16  # bytes


class Manifest(Struct, frozen=True):
    """`sha256`: of the member `database`, in hexadecimal. `created_at`: a time like 2026-02-28T12:00:00Z."""

    format: int
    version: str
    engine: Literal["sqlite", "postgres"]
    created_at: str
    sha256: str


class Backups:
    """Writes archives, for the operator and on a schedule. One is written at a time."""

    def __init__(
        self, settings: BackupSettings, url: str, state: StateDir, pepper: bytes, *, clock: Clock, log: Log
    ) -> None:
        self._settings = settings
        self._url = url
        self._state = state
        self._pepper = pepper
        self._clock = clock
        self._log = log
        self._lock = trio.Lock()
        self.last_ms: int | None = None
        """When the newest scheduled backup was written, in milliseconds."""

    async def open(self, passphrase: str | None, *, with_secrets: bool) -> AsyncIterator[bytes]:
        """Write an archive and return its bytes. Without `passphrase`, the configured one is used.

        Raises Unavailable if that fails, and InvalidRequest without any passphrase.
        """
        async with self._lock:
            try:
                path = await self._write_partial(self._passphrase(passphrase) if with_secrets else None)
            except BackupFailed as exc:
                message = f"The backup failed: {exc}." + (f" To fix it, {exc.remedy}." if exc.remedy else "")
                raise Unavailable("backup_failed", message, retry=False) from exc
            file = await trio.to_thread.run_sync(path.open, "rb")
            await trio.to_thread.run_sync(self._remove_partial)  # the open file keeps its content
        return _read(file)

    def _passphrase(self, given: str | None) -> str:
        passphrase = given or (self._settings.passphrase or Secret("")).reveal()
        if not passphrase:
            raise InvalidRequest(
                "passphrase_required",
                "A passphrase is needed: it encrypts the pepper and the master key in the backup.",
                param="passphrase",
            )
        return passphrase

    async def run(self) -> None:
        """Write scheduled backups until cancelled."""
        directory = self._settings.directory
        if directory is None:
            return
        self.last_ms = await trio.to_thread.run_sync(newest_backup_ms, directory)
        while True:
            due = (self.last_ms or 0) + self._settings.every * 1000
            await trio.sleep(max(0.0, (due - self._clock.now_ms()) / 1000))
            try:
                await self.write_scheduled(directory)
            except BackupFailed as exc:
                self._log.error("backup_failed", reason=str(exc))
                await trio.sleep(RETRY_SECONDS)

    async def write_scheduled(self, directory: Path) -> Path:
        """Write an archive into `directory` and delete the oldest above `keep`. Raises BackupFailed."""
        now = self._clock.now_ms()
        passphrase = self._settings.passphrase
        async with self._lock:
            written = await self._write_partial(None if passphrase is None else passphrase.reveal())
            path = directory / f"bluesminds-{re.sub('[-:]', '', format_time(now)[:19])}Z.tar.gz"
            try:
                await trio.to_thread.run_sync(partial(_place, written, path, keep=self._settings.keep))
            except OSError as exc:
                raise BackupFailed(f"cannot write {path}: {exc.strerror}") from exc
            await trio.to_thread.run_sync(self._remove_partial)
        self.last_ms = now
        self._log.info("backup_written", path=str(path), bytes=path.stat().st_size)
        return path

    async def _write_partial(self, passphrase: str | None) -> Path:
        directory = self._state.path / _PARTIAL
        database = directory / DATABASE
        source = sqlite_path(self._url)
        try:
            await trio.to_thread.run_sync(self._remove_partial)
            directory.mkdir(mode=0o700)
            if source is None:
                await run_program(dump_postgres(self._url, database))
            else:
                await trio.to_thread.run_sync(copy_sqlite, source, database)
            archive = directory / "archive"
            content = None if passphrase is None else await self._seal(passphrase)
            engine: Literal["sqlite", "postgres"] = "postgres" if source is None else "sqlite"
            created = format_time(self._clock.now_ms())
            await trio.to_thread.run_sync(_archive, archive, database, engine, created, content)
        except OSError as exc:
            raise BackupFailed(f"cannot write the backup: {exc.strerror}", "free space in state_dir") from exc
        except sqlite3.Error as exc:
            raise BackupFailed(f"cannot copy the database: {exc}") from exc
        return archive

    async def _seal(self, passphrase: str) -> bytes:
        found = {PEPPER: self._pepper, MASTER_KEY: self._state.secret(MASTER_KEY) or b""}
        return await trio.to_thread.run_sync(seal_secrets, passphrase, found)

    def _remove_partial(self) -> None:
        shutil.rmtree(self._state.path / _PARTIAL, ignore_errors=True)


def seal_secrets(passphrase: str, found: Mapping[str, bytes]) -> bytes:
    """A salt of 16 bytes and a Fernet token with the secrets as JSON. Blocks."""
    salt = secrets.token_bytes(_SALT)
    content = msgspec.json.encode({name: secret.decode() for name, secret in found.items()})
    return salt + Fernet(_derive(passphrase, salt)).encrypt(content)


def open_secrets(passphrase: str, sealed: bytes) -> dict[str, bytes]:
    """The opposite of `seal_secrets`. Raises BackupFailed for another passphrase. Blocks."""
    try:
        content = Fernet(_derive(passphrase, sealed[:_SALT])).decrypt(sealed[_SALT:])
    except InvalidToken:
        raise BackupFailed("this is not the passphrase of the backup") from None
    return {name: text.encode() for name, text in msgspec.json.decode(content, type=dict[str, str]).items()}


def _derive(passphrase: str, salt: bytes) -> bytes:
    """A Fernet key by scrypt (RFC 7914) with N = 2**15, r = 8, p = 1, which takes 32 MiB."""
    key = hashlib.scrypt(passphrase.encode(), salt=salt, n=2**15, r=8, p=1, maxmem=2**26, dklen=32)
    return base64.urlsafe_b64encode(key)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def run_program(program: ClientProgram) -> bytes:
    """What a client program of PostgreSQL prints. Raises BackupFailed."""
    name = program.argv[0]
    environ = {**os.environ, **program.environ}
    try:
        done = await trio.run_process(
            list(program.argv), env=environ, capture_stdout=True, capture_stderr=True, check=False
        )
    except FileNotFoundError:
        remedy = "install the client programs of PostgreSQL, such as the package postgresql-client"
        raise BackupFailed(f"the program {name} is not installed", remedy) from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [str(done.returncode)]
        raise BackupFailed(f"{name} failed: {lines[0]}")
    return done.stdout


def _archive(
    target: Path, database: Path, engine: Literal["sqlite", "postgres"], created: str, sealed: bytes | None
) -> None:
    manifest = Manifest(FORMAT, __version__, engine, created, file_sha256(database))
    with (
        target.open("xb") as file,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=file) as compressed,
        tarfile.open(fileobj=compressed, mode="w|") as tar,
    ):
        _add(tar, MANIFEST, msgspec.json.encode(manifest))
        if sealed is not None:
            _add(tar, SECRETS, sealed)
        tar.add(database, DATABASE, filter=_plain)
    database.unlink()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(_plain(info), io.BytesIO(content))


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the names of this machine's users."""
    info.mode, info.uid, info.gid, info.uname, info.gname = 0o600, 0, 0, "", ""
    return info


def _place(written: Path, path: Path, *, keep: int) -> None:
    """Move the archive to another file system if needed; an incomplete one never has its final name."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    incomplete = path.with_name(f"{path.name}.partial")
    with written.open("rb") as source, incomplete.open("wb") as target:
        os.fchmod(target.fileno(), 0o600)
        shutil.copyfileobj(source, target, CHUNK)
        target.flush()
        os.fsync(target.fileno())
    incomplete.rename(path)
    for old in _archives(path.parent)[:-keep]:
        old.unlink()


def _archives(directory: Path) -> list[Path]:
    """Oldest first. Other files in the directory are ignored."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))


def newest_backup_ms(directory: Path) -> int | None:
    """From the name of the newest archive. Its modification time may be that of a copy."""
    found = _archives(directory)
    if not found:
        return None
    return round(datetime.strptime(found[-1].name, _NAME_FORMAT).timestamp() * 1000)  # noqa: DTZ007 - it has %z


async def _read(file: IO[bytes]) -> AsyncIterator[bytes]:
    with file:
        while chunk := await trio.to_thread.run_sync(file.read, CHUNK):
            yield chunk
