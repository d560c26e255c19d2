"""Commands need only the settings they use, and never create a database."""

import json
from pathlib import Path

import pytest

from bluesminds.cli import exits
from tests.terminal import User

SECRETS = """
[[servers]]
name = "lite"
url = "http://127.0.0.1:9/v1"
api_key = {env="LITELLM_KEY"}
[mail]
host = "127.0.0.1"
sender = "gateway@example.com"
username = "gateway"
password = {env="MAIL_PASSWORD"}
"""
UNSET = 'api_key in [[servers]] "lite" reads the environment variable LITELLM_KEY, which is not set'
PEPPER = '[keys]\npepper = {env="PEPPER"}\n[server]\nport = 0\n'
COMMANDS = [
    ("keys", "create", "laptop"),
    ("keys", "list"),
    ("users", "list"),
    ("users", "create", "--email", "ada@example.com"),
    ("limits", "tiers"),
    ("servers", "list"),
    ("usage", "show"),
    ("audit", "verify"),
]


def test_command_without_upstream_secrets_succeeds(home: Path) -> None:
    user = User(home).prepare()
    (home / "gateway.toml").write_text(SECRETS)
    assert user.call("keys", "create", "laptop").returncode == exits.OK
    (row,) = json.loads(user.call("servers", "list", "--json").stdout)["data"]
    assert (row["name"], row["has_api_key"]) == ("lite", True)
    assert (row["state"], UNSET in row["last_error"]) == ("unusable", True)
    tested = user.call("servers", "test", "lite")
    assert (tested.returncode, UNSET in tested.stderr) == (exits.UNAVAILABLE, True)


@pytest.mark.parametrize("words", [("serve",), ("check",)])
def test_serve_and_check_without_upstream_secrets_fail(home: Path, words: tuple[str, ...]) -> None:
    (home / "gateway.toml").write_text(SECRETS)
    done = User(home).call(*words)
    assert (done.returncode, UNSET in done.stderr) == (exits.CONFIG_INVALID, True)


@pytest.mark.process
def test_command_with_running_gateway_needs_only_the_state_dir(home: Path) -> None:
    (home / "gateway.toml").write_text(PEPPER)
    user = User(home)
    with user.serving("serve", environ={"PEPPER": "0123456789abcdef"}) as gateway:
        assert user.run("keys", "create", "laptop").returncode == exits.OK
        assert gateway.stop() == 0
    offline = user.run("keys", "list")
    assert offline.returncode == exits.CONFIG_INVALID
    assert "pepper in [keys] reads the environment variable PEPPER, which is not set" in offline.stderr


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_command_without_gateway_and_database_creates_nothing(home: Path, words: tuple[str, ...]) -> None:
    user = User(home)
    done = user.call(*words, stdin="correct horse battery\n")
    assert (done.returncode, done.stdout) == (exits.NOT_FOUND, "")
    error, remedy = done.stderr.splitlines()
    assert error == f"error: no gateway is running and there is no database in {user.state_dir}"
    assert "--config" in remedy
    assert not user.state_dir.exists()


def test_command_with_postgres_and_new_state_dir_creates_nothing(home: Path) -> None:
    path = home / "gateway.toml"
    path.write_text('[storage]\nurl = "postgresql://u@127.0.0.1:9/x"\n')
    user = User(home)
    assert user.call("keys", "list").returncode == exits.NOT_FOUND
    assert not user.state_dir.exists()
