"""`bluesminds migrate` and `rollback`."""

import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from bluesminds.cli import exits
from tests.terminal import User


def test_migrate_creates_the_database_and_then_has_nothing_to_do(home: Path) -> None:
    user = User(home)
    planned = user.call("migrate", "--plan")
    assert planned.stdout == "would apply 0001 initial\n", planned.stderr
    assert not (user.state_dir / "bluesminds.db").exists()
    assert user.call("migrate").stdout == "applied 0001 initial\n"
    again = user.call("migrate", "--json")
    assert json.loads(again.stdout) == {
        "engine": "sqlite",
        "schema": 1,
        "pending": [],
        "snapshot": None,
        "bytes": 0,
        "applied": True,
    }
    assert user.call("users", "create", "--role", "admin", "--email", "a@example.com").returncode != 4


def test_rollback_without_a_snapshot_fails(home: Path) -> None:
    user = User(home)
    assert user.call("rollback").returncode == exits.NOT_FOUND
    user.prepare()
    done = user.call("rollback")
    assert done.returncode == exits.NOT_FOUND
    assert "no snapshot" in done.stderr and "bluesminds restore" in done.stderr


def test_rollback_replaces_a_database_that_is_too_new(home: Path) -> None:
    user = User(home).prepare()
    path = user.state_dir / "bluesminds.db"
    shutil.copy(path, f"{path}.schema-1")
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("INSERT INTO schema_migrations VALUES (2, 'later', 'x')")
    refused = user.call("keys", "list")
    assert refused.returncode == exits.CONFIG_INVALID
    assert "bluesminds rollback" in refused.stderr
    done = user.call("rollback", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"schema": 1, "kept": f"{path}.rolled-back-2", "lost": {}}
    assert user.call("keys", "list").returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_rollback_in_the_directory_of_another_user_is_refused(home: Path) -> None:
    user = User(home).prepare()
    path = user.state_dir / "bluesminds.db"
    before = path.stat()
    os.chown(user.state_dir, 12345, -1)
    refused = user.call("rollback")
    assert refused.returncode != 0
    assert "belongs to another user (uid 12345)" in refused.stderr
    assert (path.stat().st_ino, path.stat().st_uid) == (before.st_ino, before.st_uid)
