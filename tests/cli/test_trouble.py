"""When a command cannot do its work: one error line, one help line, the right exit code, no traceback."""

import errno
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bluesminds.cli import exits
from bluesminds.cli.app import Commands
from bluesminds.cli.failures import failure, only
from bluesminds.config import load
from tests.terminal import COMMAND, SECONDS, User

PASSWORD = "sekret-4711"


def write(home: Path, text: str) -> tuple[str, str]:
    path = home / "my.toml"
    path.write_text(text)
    path.chmod(0o600)
    return "--config", "my.toml"


def refused(done: subprocess.CompletedProcess[str], code: int) -> tuple[str, str]:
    """The error and its help."""
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 2, done.stderr
    assert lines[0].startswith("error: ") and lines[1].startswith("help: ")
    return lines[0].removeprefix("error: "), lines[1].removeprefix("help: ")


@pytest.mark.parametrize("words", [("serve", "--port", "0"), ("keys", "list")], ids=" ".join)
def test_a_wrong_configuration(home: Path, words: tuple[str, ...]) -> None:
    config = write(home, "[server]\nprot = 1\n")
    error, remedy = refused(User(home).run(*words, *config), exits.CONFIG_INVALID)
    assert (error, remedy) == ('unknown key "prot" in [server] (my.toml:2)', 'did you mean "port"?')


def test_a_port_in_use(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error, remedy = refused(User(home).run("serve", "--port", str(port)), exits.CONFLICT)
    assert error == f"cannot listen on 127.0.0.1:{port}: Address already in use"
    assert "--port" in remedy


def test_a_certificate_that_is_none(home: Path) -> None:
    (home / "cert.pem").write_text("no certificate")
    config = write(home, '[server]\ntls_cert = "cert.pem"\ntls_key = "cert.pem"\n')
    error, remedy = refused(User(home).run("serve", *config), exits.CONFIG_INVALID)
    assert error == "tls_cert and tls_key in [server] cannot be used together (my.toml:2)"
    assert "PEM" in remedy


def test_an_address_of_another_machine(home: Path) -> None:
    error, remedy = refused(User(home).run("serve", "--host", "192.0.2.1"), exits.CONFIG_INVALID)
    assert error.startswith("cannot listen on 192.0.2.1:3000: ")
    assert "--host" in remedy


@pytest.mark.parametrize("words", [("serve", "--port", "0"), ("keys", "list")], ids=" ".join)
def test_a_state_directory_that_cannot_be(home: Path, words: tuple[str, ...]) -> None:
    config = write(home, 'state_dir = "/dev/null/here"\n')
    error, remedy = refused(User(home).run(*words, *config), exits.UNAVAILABLE)
    assert error == "/dev/null/here cannot be used: Not a directory"
    assert "state_dir" in remedy


def test_a_state_directory_that_is_too_deep_for_a_socket(home: Path) -> None:
    config = write(home, f'state_dir = "{home}/{"d" * 120}"\n')
    error, _ = refused(User(home).run("serve", "--port", "0", *config), exits.CONFIG_INVALID)
    assert "too long for a Unix socket" in error


@pytest.mark.parametrize("words", [("serve", "--port", "0"), ("keys", "list")], ids=" ".join)
def test_a_postgres_that_is_not_there(home: Path, words: tuple[str, ...]) -> None:
    config = write(home, f'[storage]\nurl = "postgresql://u:{PASSWORD}@127.0.0.1:9/x"\n')
    error, remedy = refused(User(home).run(*words, *config), exits.UNAVAILABLE)
    assert "cannot be reached" in error
    assert remedy == "check storage.url and that the database runs"
    assert PASSWORD not in error + remedy


def test_a_database_from_the_future(home: Path) -> None:
    user = User(home)
    assert user.run("keys", "list").returncode == 0
    with closing(sqlite3.connect(user.database)) as database:
        database.execute("INSERT INTO schema_migrations VALUES (9999, 'x', 'y')")
        database.commit()
    error, remedy = refused(user.run("serve", "--port", "0"), exits.CONFIG_INVALID)
    assert "newer version" in error
    assert ".schema-" in remedy


def test_a_file_that_is_no_database(home: Path) -> None:
    (home / "my.db").write_bytes(b"no database" * 1000)
    config = write(home, f'[storage]\nurl = "sqlite:///{home}/my.db"\n')
    error, _ = refused(User(home).run("keys", "list", *config), exits.UNAVAILABLE)
    assert error == "file is not a database"


def test_the_demo_server_is_only_there_while_the_gateway_runs(home: Path) -> None:
    config = write(home, '[[servers]]\nname = "demo"\ndialect = "demo"\n')
    done = User(home).run("servers", "test", "demo", *config)
    assert done.returncode == exits.UNAVAILABLE
    assert done.stderr == "error: The demo server runs inside a running gateway only.\n"


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/var/lib/x"), exits.AUTH),
        (PermissionError(errno.EACCES, "Permission denied"), exits.AUTH),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), exits.CONFIG_INVALID),
        (ExceptionGroup("", [ExceptionGroup("", [ValueError("this will not do")])]), exits.CONFIG_INVALID),
        (BaseExceptionGroup("", [KeyboardInterrupt(), ValueError()]), exits.INTERRUPTED),
    ],
)
def test_each_kind_of_failure_has_its_code(problem: BaseException, code: int) -> None:
    settings = load(None, {}, {}).settings
    assert failure(only(problem), settings).exit_code == code


@pytest.mark.parametrize(
    "fault", [RuntimeError("a bug"), ExceptionGroup("two", [ValueError(), ValueError()])], ids=str
)
def test_a_fault_of_ours_is_not_dressed_up(fault: Exception) -> None:
    with pytest.raises(type(fault)):
        failure(only(fault), load(None, {}, {}).settings)


@pytest.mark.parametrize("seconds", [0.05, 0.15, 0.3])
def test_ctrl_c_is_no_fault(home: Path, seconds: float) -> None:
    """Whenever it comes: while the program loads, works or ends."""
    words = (*COMMAND, "keys", "list")
    command = subprocess.Popen(words, stderr=subprocess.PIPE, cwd=home, env=User(home).environment({}))
    try:
        _, errors = command.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        command.send_signal(signal.SIGINT)
        _, errors = command.communicate(timeout=SECONDS)
    assert command.returncode in (0, exits.INTERRUPTED, -signal.SIGINT)
    assert errors in (b"", b"error: interrupted\n")


def interrupt() -> None:
    raise KeyboardInterrupt


def abort() -> None:
    raise click.Abort


@pytest.mark.parametrize("strike", [interrupt, abort])
def test_an_interrupted_command_has_its_own_code(strike: Callable[[], None]) -> None:
    @click.group(cls=Commands)
    def group() -> None:
        pass

    group.command("wait")(strike)
    result = CliRunner().invoke(group, ["wait"])
    assert (result.exit_code, result.stderr) == (exits.INTERRUPTED, "error: interrupted\n")
