"""`bluesminds vendor-keys` without a running gateway, and a vendor that cannot be reached."""

import json
from pathlib import Path
from typing import Any

import pytest

from bluesminds.cli import exits
from tests.cli.test_users import ADA, make
from tests.terminal import User

KEY = "sk-own-0123456789-Abcd"
CONFIG = """
[vendor_keys]
urls = { openai = "http://127.0.0.1:9/v1", groq = "http://127.0.0.1:9/v1" }

[upstream]
allowed_networks = ["127.0.0.0/8"]
"""


@pytest.fixture
def user(home: Path) -> User:
    (home / "gateway.toml").write_text(CONFIG)
    user = User(home, {"STATE_DIRECTORY": str(home / "s" / "bluesminds")}).prepare()
    make(user)
    return user


def rows(user: User) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(user.call("vendor-keys", "list", ADA, "--json").stdout)["data"]
    return found


def test_vendor_keys_are_stored_changed_tested_and_removed(user: User) -> None:
    words = ("vendor-keys", "add", ADA, "openai", "--model", "m", "--mode", "only")
    added = user.call(*words, stdin=KEY + "\n")
    assert added.stdout == f"stored the key for openai of {ADA}, for 1 models\n"
    assert "The test found a problem: connect:" in added.stderr
    (row,) = rows(user)
    assert (row["vendor"], row["last4"], row["mode"], row["models"]) == ("openai", "Abcd", "only", ["m"])
    again = user.call(*words, stdin=KEY + "\n")
    assert again.returncode == exits.CONFLICT
    changed = user.call(
        "vendor-keys", "set", ADA, "openai", "--mode", "first", "--model", "any", "--api-key-stdin", "--json",
        stdin="sk-other-0123456789\n",
    )  # fmt: skip
    row = json.loads(changed.stdout)
    assert (row["last4"], row["mode"], row["models"]) == ("6789", "first", [])
    tested = user.call("vendor-keys", "test", ADA, "openai")
    assert tested.returncode == exits.UNAVAILABLE
    assert "connect: failed" in tested.stdout
    assert user.call("vendor-keys", "list", ADA).stdout.splitlines()[0].startswith("vendor\tlast4")
    removed = user.call("vendor-keys", "remove", ADA, "openai")
    assert removed.stdout == f"removed the key for openai of {ADA}\n"
    assert rows(user) == []


MISTAKES: list[tuple[tuple[str, ...], str, int, str]] = [
    (("add", ADA, "grok"), KEY, exits.USAGE, "users cannot store keys for the vendor 'grok'"),
    (("add", ADA, "ollama"), KEY, exits.USAGE, "users cannot store keys for the vendor 'ollama'"),
    (("add", ADA, "openai"), "", exits.USAGE, "standard input contains no key"),
    (("add", "bob@example.com", "openai"), KEY, exits.NOT_FOUND, "No user has this e-mail address."),
    (("set", ADA, "openai"), "", exits.USAGE, "no option was given"),
    (("set", ADA, "openai", "--mode", "only"), "", exits.NOT_FOUND, "has no key for 'openai'"),
    (("test", ADA, "openai"), "", exits.NOT_FOUND, "has no key for 'openai'"),
    (("remove", ADA, "openai"), "", exits.NOT_FOUND, "has no key for 'openai'"),
]


def test_vendor_keys_mistake_says_what_is_wrong(user: User, subtests: pytest.Subtests) -> None:
    for words, stdin, code, message in MISTAKES:
        with subtests.test(words=words):
            done = user.call("vendor-keys", *words, stdin=stdin)
            assert (done.returncode, message in done.stderr) == (code, True), done.stderr


def test_vendor_keys_are_refused_when_the_settings_say_so(user: User) -> None:
    (user.home / "gateway.toml").write_text("[vendor_keys]\nenabled = false\n")
    done = user.call("vendor-keys", "add", ADA, "openai", stdin=KEY + "\n")
    assert done.returncode != 0
    assert "may not store its own vendor keys" in done.stderr
