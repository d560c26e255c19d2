"""`bluesminds users`: on the store itself, and beside a running gateway."""

import json
import re
from pathlib import Path

import pytest

from bluesminds.cli import exits
from tests.terminal import User

PASSWORD = "correct horse battery"
ADA = "ada@example.com"


def make(user: User, email: str = ADA, *words: str) -> None:
    done = user.call("users", "create", "--email", email, *words, stdin=PASSWORD + "\n")
    assert done.returncode == 0, done.stderr


def shown(user: User, who: str) -> dict[str, object]:
    found = user.call("users", "show", who, "--json")
    assert found.returncode == 0, found.stderr
    value = json.loads(found.stdout)
    assert isinstance(value, dict)
    return value


def test_an_account_is_made_changed_and_disabled(home: Path) -> None:
    user = User(home)
    make(user, ADA, "--name", "Ada", "--tier", "pro")
    ada = shown(user, "Ada@Example.com")
    assert (ada["tier"], ada["full_name"], ada["role"], ada["email_verified"]) == ("pro", "Ada", "user", True)
    assert shown(user, str(ada["id"])) == ada
    changed = user.call("users", "set", ADA, "--tier", "none", "--role", "admin", "--name", "A. L.", "--json")
    after = json.loads(changed.stdout)
    assert (after["tier"], after["full_name"], after["role"]) == (None, "A. L.", "admin")
    last = user.call("users", "disable", ADA)
    assert (last.returncode, last.stderr.splitlines()[1]) == (
        exits.CONFLICT,
        "help: bluesminds users set USER --role admin",
    )
    make(user, "bob@example.com")
    assert user.call("users", "disable", "bob@example.com").stdout == "disabled bob@example.com\n"
    assert shown(user, "bob@example.com")["disabled"] is True
    assert user.call("users", "enable", "bob@example.com").stdout == "enabled bob@example.com\n"
    listed = user.call("users", "list").stdout.splitlines()
    assert listed[0].split("\t")[:2] == ["id", "email"]
    assert [line.split("\t")[1] for line in listed[1:]] == [ADA, "bob@example.com"]


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (("show", "nobody@example.com"), exits.NOT_FOUND, "There is no user with this address."),
        (
            ("show", "00000000-0000-0000-0000-000000000000"),
            exits.NOT_FOUND,
            "There is no user with this id.",
        ),
        (("show", "../keys"), exits.USAGE, "'../keys' is neither an address nor the id of a user"),
        (("set", ADA), exits.USAGE, "there is nothing to set"),
        (("create", "--email", "nobody"), exits.USAGE, "This is not an e-mail address."),
    ],
)
def test_what_cannot_be_done_is_told(home: Path, words: tuple[str, ...], code: int, error: str) -> None:
    done = User(home).run("users", *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.splitlines()[0] == f"error: {error}"


def test_links_are_shown_once_and_mailed(home: Path) -> None:
    user = User(home)
    closed = user.call("users", "invite", "bob@example.com")
    assert (closed.returncode, closed.stdout) == (exits.CONFLICT, "")
    (home / "gateway.toml").write_text('[accounts]\nsignup = "invite"\n')
    make(user)
    for words, purpose in (
        (("invite", "bob@example.com"), "invite"),
        (("reset-password", ADA), "token"),
    ):
        done = user.call("users", *words)
        assert done.returncode == 0, done.stderr
        found = re.fullmatch(rf"http://127\.0\.0\.1:3000/account/\w+#{purpose}=([\w-]{{43}})\n", done.stdout)
        assert found
        mails = [path.read_bytes() for path in (user.state_dir / "outbox").glob("*.eml")]
        assert any(found[1].encode() in mail.replace(b"=\r\n", b"") for mail in mails), (
            "it is out, though no server runs"
        )
        assert found[1] not in done.stderr
    assert found[1] not in str(user.rows("SELECT * FROM one_time_tokens"))
