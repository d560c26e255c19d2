"""`bluesminds mail` without a running gateway."""

from pathlib import Path

import pytest

from bluesminds.cli import exits
from tests.terminal import User


@pytest.fixture
def user(home: Path) -> User:
    return User(home, {"STATE_DIRECTORY": str(home / "s" / "bluesminds")}).prepare()


def test_mail_preview_prints_text_and_html(user: User) -> None:
    names = user.call("mail", "preview").stdout.split()
    assert {"welcome", "verify_email", "weekly_summary"} <= set(names)
    text = user.call("mail", "preview", "verify_email").stdout
    assert text.startswith("Subject: Confirm your e-mail address\n\nHello,\n")
    assert user.call("mail", "preview", "verify_email", "--html").stdout.startswith("<!doctype html>")
    unknown = user.call("mail", "preview", "verify_emial")
    assert unknown.returncode == exits.NOT_FOUND and 'did you mean "verify_email"?' in unknown.stderr


def test_mail_test_writes_to_the_outbox_without_a_mail_server(user: User, home: Path) -> None:
    assert (
        user.call("users", "create", "--email", "ada@example.com", stdin="a long password\n").returncode == 0
    )
    done = user.call("mail", "test", "ada@example.com")
    assert done.stdout == "sent a test mail to ada@example.com\n"
    (file,) = (home / "s" / "bluesminds" / "outbox").glob("*.eml")
    assert b"Subject: Test of the mail settings" in file.read_bytes()
    assert user.call("mail", "test", "nonsense").returncode == exits.USAGE


def test_mail_test_says_why_the_mail_server_failed(user: User, home: Path) -> None:
    (home / "gateway.toml").write_text(
        '[server]\npublic_url = "https://gateway.example"\n'
        '[mail]\nhost = "127.0.0.1"\nport = 9\nsecurity = "none"\nsender = "gateway@example.com"\n'
    )
    failed = user.call("mail", "test", "ada@example.com")
    assert failed.returncode != 0
    assert "Connection refused" in failed.stderr
