"""`bluesminds import one-api` and `new-api`: the plan, what is left out, and what is created."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from bluesminds.cli import exits
from tests.terminal import User

SCHEMA = """
CREATE TABLE channels (id INTEGER PRIMARY KEY, type INTEGER, key TEXT, status INTEGER, name TEXT,
    weight INTEGER, base_url TEXT, models TEXT, `group` TEXT, model_mapping TEXT, priority INTEGER);
CREATE TABLE users (id INTEGER PRIMARY KEY, username TEXT, password TEXT, display_name TEXT, role INTEGER,
    status INTEGER, email TEXT, quota INTEGER, used_quota INTEGER, `group` TEXT);
CREATE TABLE tokens (id INTEGER PRIMARY KEY, user_id INTEGER, key TEXT, status INTEGER, name TEXT);
INSERT INTO channels VALUES
    (1, 1, 'sk-one-00000001' || char(10) || 'sk-two-00000002', 1, 'Main', 5, '', 'gpt-5,gpt-5-mini',
        'default', '', 10),
    (2, 8, 'sk-local', 1, 'Main', 0, 'http://127.0.0.1:9/', 'llama', 'default', '{"a": "b"}', 0),
    (3, 15, 'k', 1, 'Baidu', 0, '', 'ERNIE', 'default', '', 0),
    (4, 14, 'sk-ant', 2, 'Claude', 0, '', 'claude-sonnet-5', 'default', NULL, 0);
INSERT INTO users VALUES
    (1, 'root', '$2a$10$canary', 'Root', 100, 1, 'root@example.com', 0, 0, 'default'),
    (2, 'ada', '$2a$10$canary', 'Ada', 1, 1, 'ada@example.com', 1250000, 5, 'vip'),
    (3, 'bob', '$2a$10$canary', 'Bob', 1, 1, '', 1, 0, 'default'),
    (4, 'eve', '$2a$10$canary', 'Eve', 1, 2, 'eve@example.com', 1, 0, 'default');
INSERT INTO tokens VALUES (1, 2, 'canary-token', 1, 'laptop');
"""


@pytest.fixture
def database(home: Path) -> Path:
    path = home / "one-api.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCHEMA)
    return path


def test_import_prints_the_plan_and_changes_nothing(home: Path, database: Path) -> None:
    user = User(home).prepare()
    done = user.call("import", "one-api", "one-api.db")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "server main: openai, 2 keys, 2 models",
        "server main-2: http://127.0.0.1:9/v1, 1 key, 1 model",
        "server claude: anthropic, 1 key, 1 model",
        "user root@example.com: admin",
        "user ada@example.com: user, 2.5 USD",
        "not imported: channel 2 (Main): its model_mapping; see `bluesminds routes add --help`",
        "not imported: channel 3 (Baidu): its type 15 has no vendor here; add it by hand",
        "not imported: user 3 (bob): without an e-mail address",
        "not imported: user 4 (eve): disabled",
        "not imported: 1 token: their users create new API keys here",
        "not imported: groups, ratios, redemption codes, and the log",
        "nothing has changed; apply this with --apply",
    ]
    assert json.loads(user.call("servers", "list", "--json").stdout)["data"] == []


def test_import_applied_twice_creates_everything_once(home: Path, database: Path) -> None:
    user = User(home).prepare()
    done = user.call("import", "one-api", "one-api.db", "--apply", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert "sk-" not in done.stdout and "canary" not in done.stdout + done.stderr
    assert plan["servers"][0]["api_keys"] == 2
    assert "server main: created" in done.stderr
    servers = {row["name"]: row for row in json.loads(user.call("servers", "list", "--json").stdout)["data"]}
    assert set(servers) == {"main", "main-2", "claude"}
    assert (servers["main"]["weight"], servers["main"]["priority"], servers["main-2"]["priority"]) == (
        5,
        0,
        1,
    )
    assert servers["claude"]["mode"] == "off"
    assert len(servers["main"]["api_keys"]) == 2
    roles = {
        row["email"]: row["role"] for row in json.loads(user.call("users", "list", "--json").stdout)["data"]
    }
    assert roles["root@example.com"] == "admin" and roles["ada@example.com"] == "user"
    again = user.call("import", "one-api", "one-api.db", "--apply")
    assert again.returncode == 0, again.stderr
    assert (
        "server main: exists already" in again.stderr
        and "user ada@example.com: exists already" in again.stderr
    )
    assert user.call("ledger", "show", "ada@example.com").stdout == "2.5 USD\n"


def test_import_new_api_has_its_own_channel_types(home: Path, database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE channels SET type = 43 WHERE id = 3")
    done = User(home).call("import", "new-api", "one-api.db")
    assert "server baidu: deepseek, 1 key, 1 model" in done.stdout


def test_import_of_other_or_missing_file_fails(home: Path) -> None:
    user = User(home)
    assert user.call("import", "one-api", "missing.db").returncode == exits.NOT_FOUND
    (home / "text").write_text("something else, and long enough to be no empty database" * 20)
    done = user.call("import", "one-api", "text")
    assert done.returncode == exits.USAGE
    assert "is not a database of one-api" in done.stderr
