"""check, init and config show: output, exit codes, files."""

import json
import os
import stat
import tomllib
from pathlib import Path

import click
import pytest
import trio
from click.testing import CliRunner, Result

from bluesminds.cli import exits
from bluesminds.cli.config import check, config_group, init
from bluesminds.config import Settings, load
from bluesminds.providers.vendors import VENDORS
from tests.fakes import model_server


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    keys = [vendor.key_variable for vendor in VENDORS.values()]
    for name in [name for name in os.environ if name.startswith("BLUESMINDS") or name in keys]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    return tmp_path


def run(command: click.Command, *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def test_check_valid_file_succeeds(here: Path) -> None:
    (here / "gateway.toml").write_text("[server]\nport = 1\n")
    result = run(check)
    database = here / "state" / "bluesminds.db"
    assert (result.exit_code, result.stdout, result.stderr) == (
        0,
        f"gateway.toml: ok\n0 servers, 0 prices, SQLite in {database}, listens on 127.0.0.1:1\n",
        "",
    )


def test_check_without_file_succeeds(here: Path) -> None:
    if not Path("/etc/bluesminds/gateway.toml").exists():
        assert run(check).stdout.startswith("no configuration file (defaults): ok\n0 servers, ")


def test_check_without_servers_prints_those_of_the_environment(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "gateway.toml").write_text("[server]\nport = 1\n")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    assert "\n1 server from the environment (openai), 0 prices, " in run(check).stdout


def test_check_many_problems_prints_each_with_fix(here: Path) -> None:
    (here / "my.toml").write_text("[server]\nport = -1\n\n[[servers]]\nmoddels = []\n")
    result = run(check, "-c", "my.toml")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.splitlines() == [
        "error: port in [server] must be a port number from 0 to 65535, not -1 (my.toml:2)",
        "help: write it like port = 3000",
        "error: a server has no name (my.toml:4)",
        'help: add a line like name = "main" under [[servers]]',
        'error: unknown key "moddels" in [[servers]] (my.toml:5)',
        'help: did you mean "models"?',
    ]


def test_check_valid_file_prints_what_it_contains(here: Path) -> None:
    (here / "gateway.toml").write_text(
        '[[prices]]\nmodel = "m"\ninput_usd = 1.25\noutput_usd = 10\n'
        '[[servers]]\nname = "up1"\nurl = "http://x/v1"\n[[servers]]\nname = "demo"\ndialect = "demo"\n'
    )
    assert run(check).stdout.splitlines() == [
        "gateway.toml: ok",
        f"2 servers (up1, demo), 1 price, SQLite in {here}/state/bluesminds.db, listens on 127.0.0.1:3000",
    ]


STARTS_NOT = [
    ('[storage]\nurl = "sqlite:///"', "url in [storage] cannot be used: a SQLite URL looks like "),
    ('[storage]\nurl = "sqlite:///:memory:"', "url in [storage] cannot be used: a database in memory is "),
    (
        '[storage]\nurl = "sqlite:///dev/null/x/my.db"',
        "url in [storage] is in a directory that does not exist: /dev/null/x",
    ),
    ('[storage]\nurl = "sqlite:///proc/my.db"', "url in [storage] cannot be used: /proc: "),
    (
        '[storage]\nurl = "postgres://nohost"',
        "url in [storage] cannot be used: a PostgreSQL URL must name the ",
    ),
    (
        '[storage]\nurl = "postgres://u:canary/x@host/n"',
        "url in [storage] cannot be used: the URL is invalid: ",
    ),
    ('[server]\nhost = "192.0.2.1"', "cannot listen on host in [server]: 192.0.2.1: Cannot assign"),
    ('[server]\nhost = "300.300.300.300"', "cannot listen on host in [server]: 300.300.300.300: "),
]
STATE_CANNOT_BE = [
    ("/proc/nope", "state_dir cannot be used: /proc/nope: "),
    ("/dev/null/here", "state_dir cannot be used: /dev/null/here: Not a directory"),
    ("d" * 120, "is too long for a Unix socket"),
    ("open", "other users can write to the state directory"),
]


@pytest.mark.parametrize(("text", "message"), STARTS_NOT)
def test_check_unusable_setting_is_refused(here: Path, text: str, message: str) -> None:
    (here / "gateway.toml").write_text(text)
    result = run(check)
    assert (result.exit_code, result.stdout) == (exits.CONFIG_INVALID, "")
    error, remedy = result.stderr.splitlines()
    assert error.startswith(f"error: {message}") and error.endswith("(gateway.toml:2)"), error
    assert remedy.startswith("help: ")
    assert "canary" not in result.stderr


@pytest.mark.parametrize(("state_dir", "message"), STATE_CANNOT_BE)
def test_check_unusable_state_dir_is_refused(here: Path, state_dir: str, message: str) -> None:
    (here / "open").mkdir()
    (here / "open").chmod(0o777)
    (here / "gateway.toml").write_text(f'state_dir = "{state_dir}"')
    result = run(check)
    assert (result.exit_code, result.stdout) == (exits.CONFIG_INVALID, "")
    assert message in result.stderr and "(gateway.toml:1)" in result.stderr, result.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "::", "0.0.0.0", "localhost"])  # noqa: S104 - as a user writes it
def test_check_creates_no_files(here: Path, host: str) -> None:
    path = here / "gateway.toml"
    path.write_text(
        f'state_dir = "a/b"\n[server]\nhost = "{host}"\n[storage]\nurl = "sqlite:///{here}/my.db"\n'
    )
    result = run(check)
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, "gateway.toml: ok"), result.stderr
    assert [one.name for one in here.iterdir()] == ["gateway.toml"]


async def test_check_connect_reports_failing_server(here: Path, nursery: trio.Nursery) -> None:
    models = await nursery.start(model_server.serve)
    servers = "".join(
        f'[[servers]]\nname = "{name}"\nurl = "{url}"\n'
        for name, url in (("good", models.url), ("gone", "http://127.0.0.1:9/v1"))
    )
    (here / "gateway.toml").write_text(servers + '[[servers]]\nname = "demo"\ndialect = "demo"\n')
    assert run(check).exit_code == 0
    result = await trio.to_thread.run_sync(run, check, "--connect")
    assert (result.exit_code, result.stdout) == (exits.UNAVAILABLE, "")
    (error, remedy) = result.stderr.splitlines()
    assert error.startswith('error: [[servers]] "gone" failed its check: ')
    assert error.endswith("(gateway.toml:6)")
    assert remedy == "help: check its url and api_key"


def test_check_connect_reports_failing_database(here: Path) -> None:
    (here / "gateway.toml").write_text('[storage]\nurl = "postgresql://u:canary@127.0.0.1:9/x"\n')
    (here / "gateway.toml").chmod(0o600)
    assert run(check).exit_code == 0
    result = run(check, "--connect")
    assert (result.exit_code, result.stdout) == (exits.UNAVAILABLE, "")
    assert "is not reachable" in result.stderr and "(gateway.toml:2)" in result.stderr
    assert "canary" not in result.stderr


def test_check_missing_file_fails(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(check, "--config", "none.toml").exit_code == 3
    monkeypatch.setenv("BLUESMINDS_CONFIG", "none.toml")
    assert "(none.toml)" in run(check).stderr


def test_check_warning_goes_to_stderr_and_succeeds(here: Path) -> None:
    path = here / "gateway.toml"
    path.write_text('[keys]\npepper = "0123456789abcdef"\n')
    path.chmod(0o644)
    result = run(check)
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, "gateway.toml: ok")
    assert result.stderr == (
        "warning: pepper in [keys] is in a file that other users can read (gateway.toml:2)\n"
        "help: chmod o-rwx gateway.toml\n"
    )


def test_config_show_output_loads_again(here: Path) -> None:
    path = here / "gateway.toml"
    path.write_text(
        '[server]\nport = 1\n[[servers]]\nname = "a.b"\nurl = "http://x"\nmodels = ["é\\"", "m"]\n'
    )
    for arguments in (["show"], ["show", "--origin"]):
        shown = run(config_group, *arguments).stdout
        (here / "again.toml").write_text(shown)
        assert (
            load(here / "again.toml", {}, {}).settings
            == load(path, {"STATE_DIRECTORY": str(here / "state")}, {}).settings
        )
    assert "models = [" in shown
    lines = {" ".join(line.split()) for line in shown.splitlines()}
    assert {
        f'state_dir = "{here}/state" # env STATE_DIRECTORY',
        "port = 1 # gateway.toml:2",
        "# public_url = # default",
        'url = "http://x" # gateway.toml:5',
    } <= lines


def test_config_show_json_has_values_and_origins(here: Path) -> None:
    (here / "gateway.toml").write_text('[[servers]]\nname = "a"\ndialect = "demo"\n')
    values = json.loads(run(config_group, "show", "--json").stdout)
    assert list(values) == list(Settings.__struct_fields__)
    assert values["server"]["port"] == 3000
    assert values["servers"][0]["dialect"] == "demo"
    origins = json.loads(run(config_group, "show", "--json", "--origin").stdout)
    assert origins["servers.a.dialect"] == {"value": "demo", "origin": "gateway.toml:3"}
    assert origins["state_dir"] == {"value": f"{here}/state", "origin": "env STATE_DIRECTORY"}


def test_init_writes_private_file_that_passes_check(here: Path) -> None:
    old = os.umask(0)
    try:
        result = run(init)
    finally:
        os.umask(old)
    path = here / "gateway.toml"
    assert (result.exit_code, result.stdout) == (0, "wrote gateway.toml\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_text().splitlines()) <= 40
    assert run(check).stdout.startswith("gateway.toml: ok\n0 servers, 0 prices, SQLite in ")


def test_init_commented_suggestions_are_valid(here: Path) -> None:
    run(init)
    text = (here / "gateway.toml").read_text()
    (here / "litellm.key").write_text("k")
    full = [line.removeprefix("# ") if " = " in line or "[[" in line else line for line in text.splitlines()]
    full = [line for line in full if "tls_" not in line]
    (here / "full.toml").write_text("\n".join(full))
    settings = load(here / "full.toml", {"OPENAI_API_KEY": "k"}, {}).settings
    assert [server.name for server in settings.servers] == ["demo", "openai", "litellm", "ollama"]
    assert tomllib.loads("\n".join(full))["server"]["public_url"] == settings.server.public_url


def test_init_existing_file_needs_force(here: Path) -> None:
    path = here / "mine.toml"
    path.write_text("precious")
    path.chmod(0o644)
    result = run(init, "mine.toml")
    assert (result.exit_code, path.read_text()) == (6, "precious")
    assert result.stderr == (
        "error: mine.toml exists already\nhelp: choose another path, or replace it with --force\n"
    )
    assert run(init, "mine.toml", "--force").exit_code == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in here.iterdir()] == ["mine.toml"]


def test_init_unwritable_path_reports_reason(here: Path) -> None:
    result = run(init, "none/gateway.toml")
    assert result.exit_code == 1
    assert result.stderr.startswith(
        "error: none/gateway.toml cannot be written: No such file or directory\nhelp: "
    )


def test_check_unknown_option_exits_with_usage(here: Path) -> None:
    assert run(check, "--nonsense").exit_code == exits.USAGE


def test_failure_exits_with_code_and_help() -> None:
    @click.command()
    def fail() -> None:
        raise exits.Failure("no such key", exits.NOT_FOUND, "list them with: bluesminds keys list")

    result = run(fail)
    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr == "error: no such key\nhelp: list them with: bluesminds keys list\n"
