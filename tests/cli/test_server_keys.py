"""`bluesminds servers keys`, and the options of servers for timeouts, without a running gateway."""

import json
from pathlib import Path
from typing import Any

import pytest

from bluesminds.cli import exits
from tests.terminal import User

FIRST, SECOND = "sk-0123456789-aaaa", "sk-0123456789-bbbb"


@pytest.fixture
def user(home: Path) -> User:
    user = User(home).prepare()
    words = ("servers", "add", "one", "--url", "http://127.0.0.1:9/v1", "--model", "m", "--api-key-stdin")
    assert user.call(*words, stdin=FIRST + "\n").returncode == 0
    return user


def keys(user: User) -> list[str]:
    found = json.loads(user.call("servers", "keys", "list", "one", "--json").stdout)["data"]
    return [row["last_four"] for row in found]


def server(user: User) -> dict[str, Any]:
    (row,) = json.loads(user.call("servers", "list", "--json").stdout)["data"]
    return dict(row)


def test_keys_of_a_server_are_added_listed_and_removed(user: User) -> None:
    added = user.call("servers", "keys", "add", "one", stdin=SECOND + "\n")
    assert (added.returncode, added.stdout) == (0, "one has 2 API keys\n")
    assert keys(user) == ["aaaa", "bbbb"]
    shown = user.call("servers", "keys", "list", "one").stdout
    assert shown.splitlines()[0] == "last_four\tstate\tseconds\treason"
    assert "0123456789" not in shown
    removed = user.call("servers", "keys", "remove", "one", "aaaa")
    assert removed.stdout == "removed the key that ends with aaaa from one\n"
    as_json = json.loads(user.call("servers", "keys", "remove", "one", "bbbb", "--json").stdout)
    assert as_json == {"name": "one", "last_four": "bbbb", "removed": True}
    assert (keys(user), server(user)["has_api_key"]) == ([], False)


MISTAKES: list[tuple[tuple[str, ...], str, int]] = [
    (("add", "one"), "", exits.USAGE),
    (("add", "one"), FIRST, exits.CONFLICT),
    (("add", "two"), SECOND, exits.NOT_FOUND),
    (("add", "../one"), SECOND, exits.USAGE),
    (("list", "two"), "", exits.NOT_FOUND),
    (("remove", "one", "zzzz"), "", exits.NOT_FOUND),
    (("remove", "two", "aaaa"), "", exits.NOT_FOUND),
]


def test_keys_command_with_a_mistake_changes_nothing(user: User, subtests: pytest.Subtests) -> None:
    for words, stdin, code in MISTAKES:
        with subtests.test(words=words):
            done = user.call("servers", "keys", *words, stdin=stdin)
            assert done.returncode == code, done.stderr
            assert keys(user) == ["aaaa"]


def test_timeouts_of_a_server_are_set_and_unset(user: User) -> None:
    words = ("--connect-timeout", "2.5", "--total-timeout", "90", "--first-token-timeout", "4")
    drain = ("--on-disconnect", "drain", "--drain-seconds", "10", "--drain-tokens", "500")
    assert user.call("servers", "set", "one", *words, *drain).returncode == 0
    row = server(user)
    assert (row["connect_timeout"], row["total_timeout"], row["first_token_timeout"]) == (2.5, 90, 4)
    assert (row["on_disconnect"], row["drain_seconds"], row["drain_tokens"]) == ("drain", 10, 500)
    assert (row["chunk_timeout"], row["first_byte_timeout"]) == (None, None)
    unset = ("--connect-timeout", "0", "--drain-tokens", "0", "--on-disconnect", "cancel")
    assert user.call("servers", "set", "one", *unset).returncode == 0
    row = server(user)
    assert (row["connect_timeout"], row["total_timeout"], row["drain_tokens"]) == (None, 90, None)
    assert row["on_disconnect"] == "cancel"
    wrong = user.call("servers", "set", "one", "--total-timeout", "-1")
    assert wrong.returncode == exits.USAGE
