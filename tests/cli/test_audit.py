"""`bluesminds audit` without a running gateway."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from bluesminds.cli import exits
from tests.terminal import User


def alter(user: User, statement: str) -> None:
    with closing(sqlite3.connect(user.database, isolation_level=None)) as database:
        database.execute(statement)


def listed(user: User, *words: str) -> list[dict[str, Any]]:
    done = user.call("audit", "list", "--json", *words)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout)["data"])


def test_audit_changes_are_listed_and_verified(home: Path) -> None:
    user = User(home).prepare()
    assert user.call("keys", "create", "laptop").returncode == 0
    server = ("servers", "add", "one", "--url", "http://127.0.0.1:9/v1", "--api-key-stdin")
    assert user.call(*server, stdin="sk-x").returncode == 0
    rows = listed(user)
    assert [row["action"] for row in rows] == ["server.add", "key.create", "user.create"]
    assert {(row["actor"], row["address"]) for row in rows} == {("operator", "local")}
    assert rows[0]["detail"]["after"]["api_key"] == "[masked]"
    assert listed(user, "--action", "key.create", "--limit", "1") == [rows[1]]
    assert listed(user, "--subject", "one", "--actor", "operator", "--since", rows[0]["at"]) == [rows[0]]
    assert listed(user, "--until", rows[2]["at"]) == []
    assert listed(user, "--after", "2") == [rows[2]]
    table = user.call("audit", "list").stdout.splitlines()
    assert table[0].split("\t") == ["seq", "at", "actor", "action", "subject", "address", "detail"]
    assert len(table) == 4
    assert json.loads(table[1].split("\t")[-1]) == rows[0]["detail"]
    wrong = user.call("audit", "list", "--since", "yesterday")
    assert wrong.returncode == exits.USAGE
    assert wrong.stderr.startswith("error: --since must be a time like")

    whole = user.call("audit", "verify")
    assert (whole.returncode, whole.stderr) == (exits.OK, "")
    noted = whole.stdout.split()[-1]
    assert whole.stdout == f"3 entries verified; end: {noted}\n"
    assert user.call("audit", "verify", "--noted", noted).returncode == exits.OK
    found = json.loads(user.call("audit", "verify", "--json").stdout)
    assert (found["ok"], found["end"]) == (True, noted)

    alter(user, "DELETE FROM audit WHERE seq = 3")
    alter(
        user,
        "UPDATE chain_heads SET (seq, hash) = (SELECT seq, hash FROM audit WHERE seq = 2)",
    )
    assert user.call("audit", "verify").returncode == exits.OK, "a tail that was cut off with its record"
    broken = user.call("audit", "verify", "--noted", noted)
    assert broken.returncode == exits.FAILURE
    assert (
        broken.stderr.splitlines()[0] == "error: the audit log is damaged: the entries from 3 on are missing"
    )
    alter(user, "UPDATE audit SET actor = 'forged' WHERE seq = 1")
    broken = user.call("audit", "verify", "--json")
    assert broken.returncode == exits.FAILURE
    assert json.loads(broken.stdout)["damage"] == "altered"
