"""`bluesminds alerts`."""

import json
from pathlib import Path

import pytest

from bluesminds.cli import exits
from tests.terminal import User

CONFIG = """
[[alerts.rules]]
name = "errors"
kind = "error_share"
above = 5.0

[[alerts.channels]]
name = "team"
kind = "slack"
url = "http://127.0.0.1:1/secret"
"""


@pytest.fixture
def user(home: Path) -> User:
    path = home / "gateway.toml"
    path.write_text(CONFIG)
    path.chmod(0o600)
    return User(home, {"STATE_DIRECTORY": str(home / "s" / "bluesminds")}).prepare()


def test_alerts_are_added_changed_tested_and_removed(user: User) -> None:
    added = user.call(
        "alerts", "add", "busy", "--kind", "queue", "--above", "5", "--hold", "2m", "--channel", "team"
    )
    assert added.stdout == "added busy\n", added.stderr
    changed = json.loads(user.call("alerts", "change", "busy", "--above", "7.5", "--json").stdout)
    assert (changed["above"], changed["hold"], changed["channels"]) == (7.5, 120.0, ["team"])
    rows = json.loads(user.call("alerts", "list", "--json").stdout)["data"]
    assert [(row["name"], row["above"], row["origin"]) for row in rows] == [
        ("busy", 7.5, "table"),
        ("errors", 5.0, "file"),
    ]
    tested = user.call("alerts", "test", "busy")
    assert tested.returncode == exits.UNAVAILABLE
    assert "team: cannot connect to 127.0.0.1" in tested.stdout
    assert "secret" not in tested.stdout + tested.stderr
    assert user.call("alerts", "remove", "busy").stdout == "removed busy\n"


def test_alerts_that_cannot_be_changed_say_why(user: User) -> None:
    assert user.call("alerts", "change", "errors").returncode == exits.USAGE
    found = user.call("alerts", "change", "errors", "--above", "7")
    assert "The alert is in the configuration." in found.stderr
    assert user.call("alerts", "remove", "busy").returncode == exits.NOT_FOUND
    assert user.call("alerts", "change", "busy", "--hold", "8d").returncode == exits.USAGE
