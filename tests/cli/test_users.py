"""`bluesminds users` without a running gateway."""

import json
import re
import sqlite3
import time
from contextlib import closing
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


def test_users_account_is_created_changed_and_disabled(home: Path) -> None:
    user = User(home).prepare()
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
        (("show", "missing@example.com"), exits.NOT_FOUND, "No user has this e-mail address."),
        (
            ("show", "00000000-0000-0000-0000-000000000000"),
            exits.NOT_FOUND,
            "There is no user with this id.",
        ),
        (("show", "../keys"), exits.USAGE, "'../keys' is neither an e-mail address nor a user id"),
        (("set", ADA), exits.USAGE, "no option was given"),
        (("show", "ada@\udcff"), exits.USAGE, "an argument is not UTF-8 text"),
        (("create", "--email", "ada@\udcff"), exits.USAGE, "an argument is not UTF-8 text"),
        (("create", "--email", "invalid"), exits.USAGE, "This is not a valid e-mail address."),
    ],
)
def test_users_wrong_input_reports_error(home: Path, words: tuple[str, ...], code: int, error: str) -> None:
    done = User(home).prepare().call("users", *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.splitlines()[0] == f"error: {error}"


def test_users_sign_out_ends_sessions(home: Path) -> None:
    user = User(home).prepare()
    make(user)
    now = int(time.time() * 1000)
    ids = [f"00000000-0000-0000-0000-00000000000{number}" for number in (1, 2)]
    with closing(sqlite3.connect(user.database)) as database, database:
        of_ada = "SELECT ?, ?, id, ?, ?, ?, '192.0.2.1', 'x/1' FROM users WHERE email = ?"
        for number, session in enumerate(ids):
            row = (bytes([number]) * 32, session, now, now + 60_000, now, ADA)
            database.execute(f"INSERT INTO sessions {of_ada}", row)

    def signed_in() -> list[list[str]]:
        return [line.split("\t")[:3] for line in user.call("users", "sessions", ADA).stdout.splitlines()[1:]]

    assert signed_in() == [[one, "192.0.2.1", "x/1"] for one in reversed(ids)]
    one = ("users", "sign-out", ADA, "--session", ids[0])
    assert user.call(*one).stdout == f"ended session {ids[0]} of {ADA}\n"
    assert signed_in() == [[ids[1], "192.0.2.1", "x/1"]]
    again = user.call(*one)
    assert (again.returncode, again.stderr.splitlines()) == (
        exits.NOT_FOUND,
        ["error: There is no session with this id.", "help: bluesminds users sessions USER"],
    )
    assert user.call("users", "sign-out", ADA, "--session", "../x").returncode == exits.USAGE
    assert json.loads(user.call("users", "sign-out", ADA, "--json").stdout)["email"] == ADA
    assert json.loads(user.call("users", "sessions", ADA, "--json").stdout)["data"] == []


def test_users_links_are_printed_and_mailed(home: Path) -> None:
    user = User(home).prepare()
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
            "mail is sent without a running gateway"
        )
        assert found[1] not in done.stderr
    assert found[1] not in str(user.rows("SELECT * FROM one_time_tokens"))


def test_users_invitations_are_listed_and_withdrawn(home: Path) -> None:
    user = User(home).prepare()
    (home / "gateway.toml").write_text('[accounts]\nsignup = "invite"\n')
    for email in ("bob@example.com", "eve@example.com", "bob@example.com"):
        assert user.call("users", "invite", email).returncode == 0
    listed = [line.split("\t") for line in user.call("users", "invites").stdout.splitlines()]
    assert [line[1] for line in listed] == ["email", "bob@example.com", "eve@example.com", "bob@example.com"]
    done = user.call("users", "uninvite", " Bob@example.com ")
    assert done.stdout == f"withdrew 2: {listed[1][0]} {listed[3][0]}\n"
    assert [one["email"] for one in json.loads(user.call("users", "invites", "--json").stdout)["data"]] == [
        "eve@example.com"
    ]
    again = user.call("users", "uninvite", "bob@example.com")
    assert (again.returncode, again.stdout) == (exits.NOT_FOUND, "")
    withdrawn = json.loads(user.call("users", "uninvite", listed[2][0], "--json").stdout)
    assert withdrawn == {"withdrawn": [listed[2][0]]}
    assert user.call("users", "uninvite", "invalid").returncode == exits.USAGE


def test_users_create_without_tier_has_no_limits(home: Path) -> None:
    user = User(home).prepare()
    done = user.call("users", "create", "--email", ADA, stdin=PASSWORD + "\n")
    assert done.stderr == "tier: none; limits: none\n"
    done = user.call("users", "create", "--email", "b@example.com", "--tier", "pro", stdin=PASSWORD + "\n")
    assert done.stderr.startswith("tier: pro; limits: rpm 200, tpm 500000, ")


def test_users_delete_removes_account_and_keys(home: Path) -> None:
    user = User(home).prepare()
    make(user)
    assert user.call("keys", "create", "mine", "--user", ADA).returncode == 0
    table = [line.split("\t") for line in user.call("keys", "list").stdout.splitlines()]
    assert table[1][table[0].index("user")] == ADA
    assert user.call("users", "delete", ADA).stdout == f"deleted {ADA}\n"
    assert user.rows("SELECT count(*) FROM api_keys") == [(0,)]
    assert user.call("users", "show", ADA).returncode == exits.NOT_FOUND
    audit = json.loads(user.call("audit", "list", "--action", "user.delete", "--json").stdout)["data"]
    assert [row["detail"]["before"]["email"] for row in audit] == [ADA]


def test_users_delete_last_admin_and_local_operator_are_refused(home: Path) -> None:
    user = User(home).prepare()
    make(user, ADA, "--role", "admin")
    assert user.call("users", "delete", ADA).returncode == exits.CONFLICT
    assert user.call("keys", "create", "operators").returncode == 0
    ((operator,),) = user.rows("SELECT user_id FROM api_keys")
    refused = user.call("users", "delete", operator)
    assert (refused.returncode, "local operator" in refused.stderr) == (exits.CONFLICT, True)
    assert shown(user, ADA)["role"] == "admin"
