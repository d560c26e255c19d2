"""`bluesminds keys`: every restriction can be set, shown, changed and removed."""

import json
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bluesminds.cli import exits
from bluesminds.common.values import SCOPES
from tests.terminal import User

NOWHERE = "01900000-0000-7000-8000-000000000000"
ALL = (
    *("--scope", "chat.completions", "--model", "gpt-5*", "--model", "m", "--ip", "10.0.0.0/8"),
    *("--origin", "https://App.example.com", "--expires", "2090-01-31T12:00:00+01:00"),
    *(
        "--metadata",
        "team=blues",
        "--metadata",
        "note=a=b",
        "--rpm",
        "60",
        "--tpm",
        "1000",
        "--concurrency",
        "2",
    ),
    *("--tokens-per-day", "5000", "--tokens-per-month", "6000"),
    *("--usd-per-day", "1.5", "--usd-per-month", "20", "--usd-total", "100.000000001"),
)
RULES = {
    "scopes": ["chat.completions"],
    "allowed_models": ["gpt-5*", "m"],
    "allowed_ips": ["10.0.0.0/8"],
    "allowed_origins": ["https://app.example.com"],
    "expires_at": "2090-01-31T11:00:00.000Z",
    "metadata": {"team": "blues", "note": "a=b"},
    "limits": {
        "rpm": 60,
        "tpm": 1000,
        "concurrency": 2,
        "tokens_per_day": 5000,
        "tokens_per_month": 6000,
        "usd_per_day": "1.5",
        "usd_per_month": "20",
        "usd_total": "100.000000001",
    },
}
BARE = {
    "scopes": None,
    "allowed_models": None,
    "allowed_ips": None,
    "allowed_origins": None,
    "expires_at": None,
    "metadata": {},
}


def answer(user: User, *words: str) -> Any:
    done = user.call("keys", *words, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_keys_restrictions_are_set_changed_and_removed(home: Path) -> None:
    user = User(home).prepare()
    (home / "gateway.toml").write_text('[[prices]]\nmodel = "m"\ninput_usd = 1\noutput_usd = 1\n')
    made = answer(user, "create", "ci", *ALL)
    assert {name: made[name] for name in RULES} == RULES
    key_id = made["id"]
    shown = answer(user, "show", key_id)
    assert shown == {name: value for name, value in made.items() if name != "key"}
    changed = answer(
        user, "set", key_id, "--name", "other", "--rpm", "tier", "--model", "n", "--usd-total", "tier"
    )
    limits = RULES["limits"] | {"rpm": None, "usd_total": None}  # type: ignore[operator]
    assert changed == shown | {"name": "other", "allowed_models": ["n"], "limits": limits}
    told = user.call("keys", "show", key_id).stdout
    cells = dict(line.split("\t") for line in told.splitlines())
    assert (cells["name"], cells["tpm"], cells["metadata"]) == ("other", "1000", "team=blues,note=a=b")
    words = ("--scope", "any", "--model", "any", "--ip", "any", "--origin", "any")
    words += ("--expires", "never", "--metadata", "none")
    assert answer(user, "set", key_id, *words) == changed | BARE
    told = user.call("keys", "show", key_id).stdout
    assert not {"scopes", "metadata"} & {line.partition("\t")[0] for line in told.splitlines()}, (
        "unset fields are not shown"
    )


def test_keys_rotate_prints_new_secret_and_keeps_key(home: Path) -> None:
    user = User(home).prepare()
    made = answer(user, "create", "ci", "--rpm", "5")
    forms = [made.pop("key")]
    for overlap in (("--overlap", "1h30m"), ()):
        done = user.call("keys", "rotate", made["id"], *overlap)
        assert re.fullmatch(r"bm_[0-9A-Za-z]{36}\n", done.stdout)
        forms.append(done.stdout.strip())
        assert done.stderr.rstrip(".\n").rpartition(" ")[2] == made["id"]
        now = answer(user, "show", made["id"])
        assert (now["last4"], now["limits"], now["rotated_at"] >= now["created_at"]) == (
            forms[-1][-4:],
            made["limits"],
            True,
        )
        assert (now["previous_until"] is not None) == bool(overlap)
    assert len(set(forms)) == 3
    assert [row["id"] for row in answer(user, "list")["data"]] == [made["id"]]


def test_keys_end_previous_ends_overlap(home: Path) -> None:
    user = User(home).prepare()
    key_id = answer(user, "create", "ci")["id"]
    answer(user, "rotate", key_id, "--overlap", "60")
    assert user.call("keys", "end-previous", key_id).stdout == f"revoked the previous secret of {key_id}\n"
    assert answer(user, "show", key_id)["previous_until"] is None
    answer(user, "rotate", key_id, "--overlap", "60")
    assert answer(user, "end-previous", key_id) == {"id": key_id, "previous_until": None}


def test_keys_create_expires_duration_counts_from_now(home: Path) -> None:
    user = User(home).prepare()
    made = answer(user, "create", "ci", "--expires", "7d")
    created, expires = (datetime.fromisoformat(made[name]) for name in ("created_at", "expires_at"))
    assert timedelta(days=6) < expires - created <= timedelta(days=7)


def test_keys_rotate_wrong_overlap_is_refused(home: Path) -> None:
    for text, error in (
        ("soon", "a duration is written like 30s"),
        ("8d", "the duration must be at most 7d"),
    ):
        done = User(home).call("keys", "rotate", NOWHERE, "--overlap", text)
        assert done.returncode == exits.USAGE
        assert error in done.stderr


def test_keys_of_user_are_created_and_listed(home: Path) -> None:
    user = User(home).prepare()
    words = ("users", "create", "--email", "ada@example.com", "--password-stdin")
    assert user.call(*words, stdin="correct horse battery\n").returncode == 0
    mine = answer(user, "create", "mine", "--user", "ada@example.com")
    answer(user, "create", "operators")
    assert [row["id"] for row in answer(user, "list", "--user", "ada@example.com")["data"]] == [mine["id"]]
    assert [row["id"] for row in answer(user, "list", "--user", mine["user_id"])["data"]] == [mine["id"]]
    found = answer(user, "usage", mine["id"], "--days", "7")
    assert (found["requests"], found["days"]) == (0, [])
    table = user.call("keys", "usage", mine["id"])
    assert table.stdout.startswith("day\trequests\terrors")


@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (("set", NOWHERE), exits.USAGE, "no option was given"),
        (("set", NOWHERE, "--rpm", "5"), exits.NOT_FOUND, "There is no active key with this id."),
        (("show", NOWHERE), exits.NOT_FOUND, "There is no key with this id."),
        (("show", "../users"), exits.USAGE, "'../users' is not a key id"),
        (("create", "a", "--metadata", "x"), exits.USAGE, "'x' is not NAME=VALUE"),
        (("create", "a", "--rpm", "0"), exits.USAGE, "--rpm must be a whole number of 1 or more, or"),
        (
            ("create", "a", "--rpm", "many"),
            exits.USAGE,
            "--rpm must be a whole number of 1 or more, or",
        ),
        (("create", "a", "--ip", "10.0.0.1/8"), exits.USAGE, "--ip is invalid: an entry has host bits set"),
        (
            ("create", "a", "--expires", "2020-01-01T00:00:00Z"),
            exits.USAGE,
            "--expires must be in the future",
        ),
        (("create", "a", "--expires", "soon"), exits.USAGE, "--expires must be a duration such as 7d"),
        (("create", "a", "--expires", "2030-01-31"), exits.USAGE, "--expires must be a duration such as 7d"),
        (("create", "a", "--usd-total", "0"), exits.USAGE, "--usd-total must be an amount of USD above 0"),
        (
            ("create", "a", "--scope", "chat"),
            exits.USAGE,
            "--scope must be a list of chat",
        ),
        (
            ("create", "a", "--user", "ada@example.com"),
            exits.NOT_FOUND,
            "No user has this e-mail address.",
        ),
    ],
)
def test_keys_wrong_input_reports_error(home: Path, words: tuple[str, ...], code: int, error: str) -> None:
    done = User(home).prepare().run("keys", *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(f"error: {error}")


def test_keys_create_help_lists_every_scope(home: Path) -> None:
    text = " ".join(User(home).call("keys", "create", "--help").stdout.split())
    assert f"Allowed endpoint: {', '.join(SCOPES)}." in text
