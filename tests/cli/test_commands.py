"""Output and exit codes of commands."""

import errno
import json
import os
import pty
import re
import sqlite3
import stat
import subprocess
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import click
import httpx
import pytest
import trio
from click.testing import CliRunner
from cryptography.fernet import Fernet

from bluesminds import __version__
from bluesminds.cli import exits
from bluesminds.cli.api_client import show
from bluesminds.cli.app import cli
from bluesminds.cli.lazy import LazyGroup, subcommands
from bluesminds.common.clock import SystemClock
from storage.store import open_store
from storage.usage import insert_batch
from tests.storage.samples import usage
from tests.terminal import COMMAND, SECONDS, User


def tree(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if isinstance(command, click.Group):
        inner = [
            found for name, child in subcommands(command).items() for found in tree(child, (*path, name))
        ]
        return [path, *inner]
    return [path]


@pytest.mark.parametrize("path", tree(cli), ids=" ".join)
def test_help_every_command_documents_its_options(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, [*path, "--help"])
    assert result.exit_code == 0
    listed = result.output.partition("Commands:")[2]
    assert "..." not in listed, "a command's first sentence is too long for the list"
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        command = subcommands(command)[name]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name != "help":
            assert parameter.help, f"{parameter.name} has no help"


def test_help_summary_of_lazy_command_is_that_of_its_help() -> None:
    for group in (cli, subcommands(cli)["servers"]):
        assert isinstance(group, LazyGroup)
        loaded = {name: subcommands(group)[name] for name in group.lazy}
        assert [command.name for command in loaded.values()] == list(group.lazy)
        summaries = {name: row.summary for name, row in group.lazy.items()}
        assert {name: command.get_short_help_str(200) for name, command in loaded.items()} == summaries


def test_help_lists_every_exit_code() -> None:
    text = " ".join(CliRunner().invoke(cli, ["--help"]).output.split())
    for code, meaning in exits.MEANINGS.items():
        assert f"{code} {meaning}" in text
    assert "The first Ctrl-C or SIGTERM stops `serve`" in text


def test_options_never_take_a_secret() -> None:
    for path in tree(cli):
        command: click.Command = cli
        for name in path:
            assert isinstance(command, click.Group)
            command = subcommands(command)[name]
        for parameter in command.params:
            if parameter.name and re.search(
                "password|secret|token(?!s_per_|_timeout|s$)|api_key|pepper", parameter.name
            ):
                assert isinstance(parameter, click.Option) and parameter.is_flag, f"{path} {parameter.name}"


@pytest.mark.process
def test_version_prints_version_to_stdout(home: Path) -> None:
    done = User(home).run("version")
    assert (done.returncode, done.stdout) == (0, f"bluesminds {__version__}\n")
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["python", "sqlite", "openssl"]


def test_unknown_command_exits_with_usage(home: Path) -> None:
    assert CliRunner().invoke(cli, ["frobnicate"]).exit_code == exits.USAGE


@pytest.mark.process
def test_keys_without_gateway_are_created_listed_and_revoked(home: Path) -> None:
    user = User(home).prepare()
    made = user.run("keys", "create", "laptop", "--rpm", "5")
    assert made.returncode == 0
    assert re.fullmatch(r"bm_[0-9A-Za-z]{36}\n", made.stdout)
    key_id = made.stderr.rstrip(".\n").rpartition(" ")[2]
    key = made.stdout.strip()

    listed = user.run("keys", "list")
    header, row = [line.split("\t") for line in listed.stdout.splitlines()]
    cells = dict(zip(header, row, strict=True))
    assert cells["id"] == key_id
    assert (cells["name"], cells["prefix"], cells["last4"], cells["rpm"]) == (
        "laptop",
        key[:7],
        key[-4:],
        "5",
    )
    assert (cells["expires_at"], cells["revoked_at"]) == ("-", "-")
    assert key not in listed.stdout + listed.stderr

    revoked = user.run("keys", "revoke", key_id, "--json")
    assert json.loads(revoked.stdout) == {"id": key_id, "revoked": True}
    again = user.run("keys", "revoke", key_id)
    assert (again.returncode, again.stdout) == (exits.NOT_FOUND, "")
    assert again.stderr == "error: There is no active key with this id.\nhelp: bluesminds keys list\n"

    assert stat.S_IMODE(user.state_dir.stat().st_mode) == 0o700
    for path in user.state_dir.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert key.encode() not in b"".join(path.read_bytes() for path in user.state_dir.iterdir())


def terminal_output(master: int) -> bytes:
    """Everything written to a terminal that is closed on the other side."""
    text = b""
    try:
        while data := os.read(master, 65536):
            text += data
    except OSError as exc:
        assert exc.errno == errno.EIO
    return text


@pytest.mark.process
def test_servers_list_on_terminal_is_aligned(home: Path) -> None:
    user = User(home).prepare()
    assert user.run("servers", "add", "one", "--url", "http://127.0.0.1:9/v1", "--model", "a").returncode == 0
    assert user.run("servers", "add", "number-two", "--url", "http://127.0.0.1:9/v1").returncode == 0
    master, slave = pty.openpty()
    try:
        listing = (*COMMAND, "servers", "list")
        subprocess.run(listing, stdout=slave, timeout=SECONDS, cwd=home, env=user.environment({}))
        os.close(slave)
        lines = terminal_output(master).decode().splitlines()
    finally:
        os.close(master)
    assert len(lines) == 3
    assert len({line.index("openai" if n else "dialect") for n, line in enumerate(lines)}) == 1
    assert "\t" not in "".join(lines) and "\x1b" not in "".join(lines)


def test_servers_add_test_remove_succeed(home: Path) -> None:
    user = User(home).prepare()
    key = "sk-canary-4711"
    words = ("--url", "http://127.0.0.1:9/v1", "--api-key-stdin", "--weight", "2")
    added = user.call("servers", "add", "main", *words, "--json", stdin=key + "\n")
    assert json.loads(added.stdout)["has_api_key"] is True
    assert user.call("servers", "add", "main", *words, stdin=key).returncode == exits.CONFLICT
    tested = user.call("servers", "test", "main", "--json")
    assert tested.returncode == exits.UNAVAILABLE
    assert json.loads(tested.stdout)["ok"] is False
    assert tested.stderr.startswith("error: main: ")
    shown = user.call("servers", "list", "--json")
    assert json.loads(shown.stdout)["data"][0]["weight"] == 2
    assert key not in "".join(done.stdout + done.stderr for done in (added, tested, shown))
    assert key.encode() not in b"".join(path.read_bytes() for path in user.state_dir.iterdir())
    assert user.call("servers", "remove", "main").stdout == "removed main\n"
    gone = user.call("servers", "remove", "main")
    assert (gone.returncode, gone.stderr.splitlines()[1]) == (
        exits.NOT_FOUND,
        "help: bluesminds servers list",
    )


def test_servers_add_without_key_on_stdin_fails(home: Path) -> None:
    user = User(home).prepare()
    words = ("servers", "add", "main", "--url", "http://127.0.0.1:9/v1", "--api-key-stdin")
    for nothing in ("", "\n", "  \nsecond line"):
        done = user.call(*words, stdin=nothing)
        assert (done.returncode, done.stdout) == (exits.USAGE, "")
        assert done.stderr.startswith("error: standard input contains no key\nhelp: ")
    assert user.rows("SELECT name FROM servers") == []


def test_servers_add_name_of_configuration_conflicts(home: Path) -> None:
    user = User(home).prepare()
    (home / "gateway.toml").write_text('[[servers]]\nname = "demo"\ndialect = "demo"\n')
    done = user.call("servers", "add", "demo", "--url", "http://127.0.0.1:9/v1")
    assert (done.returncode, done.stdout) == (exits.CONFLICT, "")
    assert done.stderr.splitlines() == [
        "error: The configuration already has a server named demo.",
        "help: choose another name; list the used ones: bluesminds servers list",
    ]
    assert user.rows("SELECT name FROM servers") == []


@pytest.mark.process
def test_servers_list_other_master_key_shows_problem(home: Path) -> None:
    user = User(home).prepare()
    words = ("--url", "http://127.0.0.1:9/v1")
    assert user.run("servers", "add", "sealed", *words, "--api-key-stdin", stdin="sk-1").returncode == 0
    assert user.run("servers", "add", "open", *words).returncode == 0
    with closing(sqlite3.connect(user.database)) as database:
        sealed = Fernet(Fernet.generate_key()).encrypt(b"sk-1")
        database.execute("UPDATE servers SET sealed_api_keys = ? WHERE name = 'sealed'", (sealed,))
        database.commit()
    listed = json.loads(user.run("servers", "list", "--json").stdout)["data"]
    problems = {row["name"]: row["last_error"] for row in listed}
    assert problems["open"] is None
    assert problems["sealed"].startswith("its API key or headers were encrypted with another")
    tested = user.run("servers", "test", "sealed")
    assert tested.returncode == exits.UNAVAILABLE
    assert "error: sealed: its API key or headers were encrypted with another" in tested.stderr
    with user.serving("serve", "--port", "0") as gateway:
        gateway.wait_for('"event":"server_locked"')
        ready = httpx.get(f"{gateway.url}/ready", trust_env=False).json()
        problem = "no usable server; 1 down: open; 1 with secrets that another master key encrypted"
        assert ready["checks"]["servers"] == problem
        assert user.run("servers", "remove", "sealed").returncode == 0
        assert gateway.stop() == 0


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("keys", "create", ""), "name must be 1 to 100 characters without control characters."),
        (("keys", "create", "a\x1b[2J"), "name must be 1 to 100 characters without control characters."),
        (("keys", "create", "a\u202eb"), "name must be 1 to 100 characters without control characters."),
        (("keys", "revoke", ""), "'' is not a key id"),
        (("keys", "revoke", "../users"), "'../users' is not a key id"),
        (("servers", "remove", "../keys"), "'../keys' is not a server name"),
        (("servers", "test", ".."), "'..' is not a server name"),
        (("servers", "test", "a\x1b[2J"), "'a\\x1b[2J' is not a server name"),
        (
            ("servers", "add", "UPPER", "--url", "http://127.0.0.1:9"),
            'name must be 1 to 64 of a-z, 0-9, "-", "_" and ".", not starting with ".".',
        ),
    ],
)
def test_command_wrong_name_reports_rule(home: Path, words: tuple[str, ...], error: str) -> None:
    done = User(home).prepare().call(*words)
    assert (done.returncode, done.stdout) == (exits.USAGE, "")
    assert done.stderr.splitlines()[0] == f"error: {error}"
    assert "\x1b" not in done.stderr


def test_servers_add_wrong_url_scheme_fails(home: Path) -> None:
    done = User(home).prepare().call("servers", "add", "main", "--url", "ftp://example.com")
    assert done.returncode == exits.USAGE
    assert done.stderr.startswith("error: ")


def test_users_create_reads_password_from_stdin(home: Path) -> None:
    user = User(home).prepare()
    password = "correct horse battery"
    words = ("users", "create", "--email", "ada@example.com", "--role", "admin")
    assert user.call(*words, stdin="short\n").returncode == exits.USAGE
    made = user.call(*words, "--password-stdin", stdin=password + "\n")
    assert (made.returncode, made.stdout) == (0, "created ada@example.com (admin)\n")
    again = user.call(*words, stdin=password)
    assert (again.returncode, again.stderr.splitlines()[1]) == (exits.CONFLICT, "help: bluesminds users list")
    listed = user.call("users", "list", "--json")
    assert [row["email"] for row in json.loads(listed.stdout)["data"]] == ["ada@example.com"]
    assert password not in made.stdout + made.stderr + again.stderr + listed.stdout


def test_keys_list_control_characters_are_replaced(home: Path) -> None:
    user = User(home).prepare()
    assert user.call("keys", "create", "old").returncode == 0
    with closing(sqlite3.connect(user.database)) as database:
        database.execute("UPDATE api_keys SET name = ?", ("a\x1b[2J\tb",))
        database.commit()
    row = user.call("keys", "list").stdout.splitlines()[1]
    assert row.split("\t")[1] == "a\ufffd[2J\ufffdb"


def test_version_option_prints_version(home: Path) -> None:
    assert CliRunner().invoke(cli, ["--version"]).output == f"bluesminds {__version__}\n"


def test_servers_set_changes_only_given_options(home: Path) -> None:
    user = User(home).prepare()
    words = ("--url", "http://127.0.0.1:9/v1", "--model", "m", "--api-key-stdin")
    assert user.call("servers", "add", "main", *words, stdin="sk-1\n").returncode == 0
    ((before,),) = user.rows("SELECT sealed_api_keys FROM servers")
    changed = user.call("servers", "set", "main", "--weight", "3", "--model", "any", "--json")
    row = json.loads(changed.stdout)
    assert (row["weight"], row["models"], row["has_api_key"]) == (3, [], True)
    assert (row["url"], row["origin"]) == ("http://127.0.0.1:9/v1", "database")
    assert user.rows("SELECT sealed_api_keys FROM servers") == [(before,)]
    assert user.call("servers", "set", "main", "--api-key-stdin", stdin="sk-2\n").stdout == "changed main\n"
    assert user.rows("SELECT sealed_api_keys FROM servers") != [(before,)]
    assert user.call("servers", "set", "main").returncode == exits.USAGE
    assert user.call("servers", "set", "main", "--url", "ftp://x").returncode == exits.USAGE
    assert user.call("servers", "set", "other", "--weight", "1").returncode == exits.NOT_FOUND


@pytest.mark.parametrize(("group", "name"), [("key", "laptop"), ("user", "Local operator")])
def test_usage_by_key_or_user_shows_its_name(group: str, name: str, home: Path) -> None:
    user = User(home).prepare()
    key = json.loads(user.call("keys", "create", "laptop", "--json").stdout)
    trio.run(_record_usage, user, key)
    done = user.call("usage", "show", "--by", group)
    header, cells = [line.split("\t") for line in done.stdout.splitlines()]
    assert header[:3] == [group, "name", "requests"]
    assert cells[:3] == [key["id"] if group == "key" else key["user_id"], name, "1"]


def test_usage_commands_print_tables_csv_and_json(home: Path) -> None:
    user = User(home).prepare()
    key = json.loads(user.call("keys", "create", "laptop", "--json").stdout)
    trio.run(_record_usage, user, key)
    table = user.call("usage", "show", "--by", "day", "--by", "model", "--format", "csv", "--key", key["id"])
    header, cells = [line.split(",") for line in table.stdout.splitlines()]
    assert header[:3] == ["day", "model", "requests"] and cells[1:3] == ["small", "1"]
    shown = json.loads(user.call("usage", "show", "--format", "json", "--by", "hour").stdout)
    assert [one["requests"] for one in shown["data"]] == [1]
    found = user.call("usage", "logs", "--json", "--status", "2xx", "--since", "2020-01-01")
    (row,) = json.loads(found.stdout)["data"]
    assert (row["request_id"], row["key"]) == ("request-1", key["id"])
    assert user.call("usage", "logs", "--failed").stdout.count("\n") == 1
    exported = user.call("usage", "export", "--format", "jsonl", "--request-id", "request-1")
    assert json.loads(exported.stdout) == row
    assert user.call("usage", "export", "--status", "x").returncode == exits.USAGE
    costs = user.call("usage", "costs").stdout.splitlines()
    assert costs[0].split("\t") == ["month", "cost_usd", "unpriced", "forecast_usd"]
    assert costs[3].split("\t")[:2] == [key["id"], "1"]


async def _record_usage(user: User, key: Mapping[str, str]) -> None:
    row = usage(1, at=SystemClock().now_ms(), key_id=key["id"], user_id=key["user_id"])
    async with open_store(f"sqlite://{user.database}") as store:
        await store.write(insert_batch, [row])


def test_columns_of_a_table_have_different_titles(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"model": "m", "duration_ms": {"p95": 120}, "first_byte_ms": {"p95": 40, "p50": 20}}
    columns = ("model", "duration_ms.p95", "first_byte_ms.p95", "first_byte_ms.p50")
    show({"data": [row]}, as_json=False, columns=columns)
    titles, values = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert titles == ["model", "duration_ms_p95", "first_byte_ms_p95", "p50"]
    assert values == ["m", "120", "40", "20"]
