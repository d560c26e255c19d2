"""Copies of a database for backups, made while it is in use.

SQLite copies a file in one step from a read snapshot, so writers continue meanwhile. For PostgreSQL, the
commands of its client programs are built here; passwords are in their environment only.
"""

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit


class ClientProgram(NamedTuple):
    """A command and the variables that are added to its environment."""

    argv: tuple[str, ...]
    environ: Mapping[str, str]


def copy_sqlite(path: Path, target: Path) -> None:
    """Copy the database to a new file with mode 600 and check the copy. Blocks; run it in a thread.

    Raises sqlite3.Error, also if the copy is damaged.
    """
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    with (
        closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as source,
        closing(sqlite3.connect(target)) as copy,
    ):
        source.execute("PRAGMA wal_autocheckpoint = 0")  # only the store's writer checkpoints
        source.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # the copy is one file
        _check(copy, "quick_check")


def check_sqlite(path: Path) -> None:
    """Raises sqlite3.Error if the file is damaged or not a database. Blocks; run it in a thread."""
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as database:
        _check(database, "integrity_check")


def _check(database: sqlite3.Connection, pragma: str) -> None:
    (found,) = database.execute(f"PRAGMA {pragma}(1)").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError(f"the database is damaged: {found}")


def dump_postgres(url: str, target: Path) -> ClientProgram:
    """pg_dump of the whole database in its custom format. Leases are left out: a copy has no holder."""
    options = ("--no-owner", "--no-privileges", "--exclude-table-data=leases")
    return _program(url, "pg_dump", "--format=custom", *options, f"--file={target}")


def restore_postgres(url: str, dump: Path) -> ClientProgram:
    """pg_restore in one transaction; it replaces objects that exist."""
    options = ("--clean", "--if-exists", "--no-owner", "--no-privileges", "--single-transaction")
    return _program(url, "pg_restore", *options, "--exit-on-error", str(dump))


def _program(url: str, name: str, *arguments: str) -> ClientProgram:
    parts = urlsplit(url)
    credentials, at, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    query = parse_qsl(parts.query, keep_blank_values=True)
    secret = dict(query).get("password") or unquote(password)
    kept = urlencode([(key, value) for key, value in query if key != "password"], quote_via=quote)
    address = urlunsplit(parts._replace(netloc=f"{user}{at}{hosts}", query=kept))
    environ = {"PGPASSWORD": secret} if secret else {}
    return ClientProgram((name, *arguments[:1], f"--dbname={address}", *arguments[1:]), environ)
