"""`bluesminds backup` and `restore`: beside a running gateway and without one."""

import json
from pathlib import Path

import httpx
import pytest

from bluesminds.cli import exits
from tests.terminal import User, demo_user

WORDS = ("--passphrase-file", "passphrase")


def user_with_passphrase(home: Path) -> User:
    (home / "passphrase").write_text("correct horse battery\n")
    return User(home).prepare()


def test_backup_and_restore_print_what_they_did(home: Path) -> None:
    user = user_with_passphrase(home)
    key = user.call("keys", "create", "kept").stdout.strip()
    done = user.call("backup", "one.tar.gz", *WORDS)
    assert (done.returncode, done.stderr) == (0, "")
    file = home / "one.tar.gz"
    assert done.stdout == f"wrote one.tar.gz ({file.stat().st_size} bytes)\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in home.glob("*.partial")] == []
    (entry,) = json.loads(user.call("audit", "list", "--action", "backup.create", "--json").stdout)["data"]
    assert (entry["actor"], entry["subject"]) == ("operator", "database")
    again = user.call("backup", "one.tar.gz", *WORDS)
    assert again.returncode == exits.CONFLICT
    assert again.stderr == "error: one.tar.gz exists already\nhelp: choose another name\n"

    checked = user.call("restore", "one.tar.gz", "--check", *WORDS)
    assert checked.stdout.startswith("checked the backup of 20"), checked.stderr
    assert "verified: 2 audit entries, 0 ledger entries" in checked.stdout
    refused = user.call("restore", "one.tar.gz", *WORDS)
    assert refused.returncode == exits.CONFLICT
    assert "--replace" in refused.stderr
    user.call("keys", "create", "later")
    replaced = user.call("restore", "one.tar.gz", "--replace", "--json", *WORDS)
    found = json.loads(replaced.stdout)
    assert [Path(path).name.partition(".replaced-")[0] for path in found["kept"]] == ["bluesminds.db"]
    names = [row["name"] for row in json.loads(user.call("keys", "list", "--json").stdout)["data"]]
    assert names == ["kept"]
    assert key.startswith("bm_")


def test_backup_without_passphrase_says_how_to_give_it(home: Path) -> None:
    user = user_with_passphrase(home)
    refused = user.call("backup", "one.tar.gz")
    assert refused.returncode == exits.USAGE
    assert "A passphrase is needed" in refused.stderr
    assert "--passphrase-file FILE" in refused.stderr and "--without-secrets" in refused.stderr
    assert not (home / "one.tar.gz").exists()
    assert user.call("backup", "one.tar.gz", "--without-secrets").returncode == 0
    assert user.call("restore", "one.tar.gz", "--check").returncode == 0
    missing = user.call("backup", "two.tar.gz", "--passphrase-file", "missing")
    assert missing.returncode == exits.USAGE and "cannot read missing" in missing.stderr
    (home / "empty").write_text("\n")
    empty = user.call("backup", "two.tar.gz", "--passphrase-file", "empty")
    assert empty.returncode == exits.USAGE and "empty is empty" in empty.stderr


def test_backup_takes_passphrase_of_the_configuration(home: Path) -> None:
    user = user_with_passphrase(home)
    (home / "gateway.toml").write_text('[backup]\npassphrase = {file="passphrase"}\n')
    assert user.call("backup", "one.tar.gz").returncode == 0
    (home / "gateway.toml").unlink()
    assert user.call("restore", "one.tar.gz", "--check", *WORDS).returncode == 0
    (home / "passphrase").write_text("another one")
    wrong = user.call("restore", "one.tar.gz", "--check", *WORDS)
    assert wrong.returncode == exits.FAILURE
    assert wrong.stderr == "error: this is not the passphrase of the backup\n"


def test_backup_to_directory_that_is_missing_fails(home: Path) -> None:
    user = user_with_passphrase(home)
    failed = user.call("backup", "missing/one.tar.gz", *WORDS)
    assert failed.returncode == exits.UNAVAILABLE
    assert "cannot write missing/one.tar.gz" in failed.stderr


def test_restore_of_missing_or_other_file_fails(home: Path) -> None:
    user = user_with_passphrase(home)
    missing = user.call("restore", "one.tar.gz", *WORDS)
    assert missing.returncode == exits.NOT_FOUND and "one.tar.gz does not exist" in missing.stderr
    (home / "one.tar.gz").write_text("something else")
    other = user.call("restore", "one.tar.gz", *WORDS)
    assert other.returncode == exits.FAILURE
    assert "not a complete backup" in other.stderr


@pytest.mark.process
def test_backup_of_running_gateway_can_be_served_elsewhere(home: Path) -> None:
    (home / "passphrase").write_text("correct horse battery")
    user = demo_user(home)
    with user.serving("demo", "--port", "0") as gateway:
        key = user.run("keys", "create", "kept").stdout.strip()
        done = user.run("backup", "one.tar.gz", *WORDS)
        assert done.returncode == 0, done.stderr
        busy = user.run("restore", "one.tar.gz", "--replace", *WORDS)
        assert busy.returncode == exits.CONFLICT
        assert gateway.stop() == 0
    other = User(home, {"STATE_DIRECTORY": str(home / "other")})
    restored = other.run("restore", "one.tar.gz", *WORDS)
    assert restored.returncode == 0, restored.stderr
    with other.serving("demo", "--port", "0") as gateway:
        headers = {"authorization": f"Bearer {key}"}
        assert httpx.get(f"{gateway.url}/v1/models", headers=headers, trust_env=False).status_code == 200
        assert gateway.stop() == 0
