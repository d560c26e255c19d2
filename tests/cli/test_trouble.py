"""Failing commands print one error line, one help line and no traceback, and have the right exit code."""

import errno
import io
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import click
import httpx
import pytest
from click.testing import CliRunner

from bluesminds.app.errors import CannotListen
from bluesminds.app.state_dir import BadState
from bluesminds.cli import exits
from bluesminds.cli.app import Commands
from bluesminds.cli.failures import EXPECTED, failure, unwrap
from bluesminds.config import load
from storage import StorageBroken, StorageError, StorageUnavailable
from tests.terminal import SECONDS, User

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


@pytest.mark.process
@pytest.mark.parametrize("words", [("serve", "--port", "0"), ("keys", "list")], ids=" ".join)
def test_command_wrong_configuration_fails(home: Path, words: tuple[str, ...]) -> None:
    config = write(home, "[server]\nprot = 1\n")
    error, remedy = refused(User(home).run(*words, *config), exits.CONFIG_INVALID)
    assert (error, remedy) == ('unknown key "prot" in [server] (my.toml:2)', 'did you mean "port"?')


@pytest.mark.process
def test_serve_port_in_use_fails(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error, remedy = refused(User(home).run("serve", "--port", str(port)), exits.CONFLICT)
    assert error == f"cannot listen on 127.0.0.1:{port}: Address already in use"
    assert "--port" in remedy


@pytest.mark.process
def test_serve_invalid_certificate_fails(home: Path) -> None:
    (home / "cert.pem").write_text("no certificate")
    config = write(home, '[server]\ntls_cert = "cert.pem"\ntls_key = "cert.pem"\n')
    error, remedy = refused(User(home).run("serve", *config), exits.CONFIG_INVALID)
    assert error == "tls_cert and tls_key in [server] cannot be used together (my.toml:2)"
    assert "PEM" in remedy


@pytest.mark.process
def test_serve_foreign_address_fails(home: Path) -> None:
    error, remedy = refused(User(home).run("serve", "--host", "192.0.2.1"), exits.CONFIG_INVALID)
    assert error.startswith("cannot listen on 192.0.2.1:3000: ")
    assert "--host" in remedy


@pytest.mark.process
def test_serve_unusable_state_dir_fails(home: Path) -> None:
    config = write(home, 'state_dir = "/dev/null/here"\n')
    error, remedy = refused(User(home).run("serve", "--port", "0", *config), exits.UNAVAILABLE)
    assert error == "/dev/null/here cannot be used: Not a directory"
    assert "state_dir" in remedy


@pytest.mark.process
def test_serve_state_dir_too_long_for_socket_fails(home: Path) -> None:
    config = write(home, f'state_dir = "{home}/{"d" * 120}"\n')
    error, _ = refused(User(home).run("serve", "--port", "0", *config), exits.CONFIG_INVALID)
    assert "too long for a Unix socket" in error


@pytest.mark.process
@pytest.mark.parametrize("words", [("serve", "--port", "0"), ("keys", "list")], ids=" ".join)
def test_command_unreachable_postgres_fails(home: Path, words: tuple[str, ...]) -> None:
    User(home).prepare()  # the state directory of an earlier run
    config = write(home, f'[storage]\nurl = "postgresql://u:{PASSWORD}@127.0.0.1:9/x"\n')
    error, remedy = refused(User(home).run(*words, *config), exits.UNAVAILABLE)
    assert "not reachable" in error
    assert remedy == "check storage.url and that the database runs"
    assert PASSWORD not in error + remedy


@pytest.mark.process
def test_serve_newer_schema_fails(home: Path) -> None:
    user = User(home).prepare()
    with closing(sqlite3.connect(user.database)) as database:
        database.execute("INSERT INTO schema_migrations VALUES (9999, 'x', 'y')")
        database.commit()
    error, remedy = refused(user.run("serve", "--port", "0"), exits.CONFIG_INVALID)
    assert "newer version" in error
    assert "docs/operate.md" in remedy


@pytest.mark.process
def test_command_invalid_database_file_fails(home: Path) -> None:
    (home / "my.db").write_bytes(b"no database" * 1000)
    config = write(home, f'[storage]\nurl = "sqlite:///{home}/my.db"\n')
    error, _ = refused(User(home).run("keys", "list", *config), exits.UNAVAILABLE)
    assert error == "the database file is damaged: file is not a database"


@pytest.mark.process
def test_servers_test_demo_without_gateway_fails(home: Path) -> None:
    config = write(home, '[[servers]]\nname = "demo"\ndialect = "demo"\n')
    done = User(home).prepare("my.toml").run("servers", "test", "demo", *config)
    assert done.returncode == exits.UNAVAILABLE
    assert done.stderr == "error: The demo server only runs inside a running gateway.\n"


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (CannotListen("here", PermissionError(errno.EACCES, "Permission denied")), exits.AUTH),
        (CannotListen("here", socket.gaierror(socket.EAI_NONAME, "unknown")), exits.CONFIG_INVALID),
        (ExceptionGroup("", [ExceptionGroup("", [BadState("this will not do")])]), exits.CONFIG_INVALID),
        (httpx.ReadTimeout("slow"), exits.UNAVAILABLE),
        (httpx.ReadError("gone"), exits.UNAVAILABLE),
        (BaseExceptionGroup("", [KeyboardInterrupt(), ValueError()]), exits.INTERRUPTED),
    ],
)
def test_failure_each_kind_has_its_code(problem: BaseException, code: int) -> None:
    assert failure(unwrap(problem), load(None, {}, {})).exit_code == code


@pytest.mark.parametrize(
    "fault",
    [
        RuntimeError("a bug"),
        ValueError("a bug in the pipeline"),
        OSError(errno.EBADF, "Bad file descriptor"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/etc/gone"),
        ExceptionGroup("two", [ValueError(), ValueError()]),
    ],
    ids=str,
)
def test_failure_unexpected_error_is_raised_again(fault: Exception) -> None:
    assert not isinstance(fault, EXPECTED)
    with pytest.raises(type(fault)):
        failure(unwrap(fault), load(None, {}, {}))


@pytest.mark.process
def test_serve_invalid_host_name_fails(home: Path) -> None:
    error, _ = refused(User(home).run("serve", "--host", "x" * 100), exits.CONFIG_INVALID)
    assert error.endswith(": this is not a valid host name")


@pytest.mark.process
@pytest.mark.parametrize("words", [("serve", "--port", "0"), ("keys", "list")], ids=" ".join)
def test_command_database_url_without_file_fails(home: Path, words: tuple[str, ...]) -> None:
    config = write(home, '[storage]\nurl = "sqlite:///"\n')
    error, remedy = refused(User(home).run(*words, *config), exits.CONFIG_INVALID)
    assert error.startswith("url in [storage] cannot be used: ")
    assert "sqlite:///absolute/path.db" in remedy


@pytest.mark.process
def test_serve_blocked_socket_path_fails(home: Path) -> None:
    user = User(home)
    (user.state_dir / "admin.sock").mkdir(parents=True)
    error, remedy = refused(user.run("serve", "--port", "0"), exits.CONFLICT)
    assert error == f"cannot listen on {user.state_dir}/admin.sock: the path exists and is not a socket"
    assert "existing file" in remedy


@pytest.mark.process
def test_serve_inherited_datagram_socket_fails(home: Path) -> None:
    """As a service manager passes for ListenDatagram= or Accept=yes; it fails before READY=1."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
    ):
        manager.bind(str(home / "notify"))
        manager.setblocking(False)
        datagrams.bind(("127.0.0.1", 0))
        script = f"""import os, sys
os.dup2({datagrams.fileno()}, 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), NOTIFY_SOCKET="{home / "notify"}")
os.execv(sys.executable, [sys.executable, "-m", "bluesminds", "serve"])"""
        done = subprocess.run(
            (sys.executable, "-c", script),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            cwd=home,
            env=User(home).environment({}),
            pass_fds=(datagrams.fileno(),),
        )
        error, remedy = refused(done, exits.CONFIG_INVALID)
        with pytest.raises(BlockingIOError):
            manager.recv(100)
    assert error == "the inherited socket 3 is not a listening stream socket"
    assert "ListenStream=" in remedy


# The program, which sends itself a Ctrl-C at the first such audit event of the interpreter: a moment that is
# the same on every machine. The tests may run in a background job of a script, where Ctrl-C is ignored.
INTERRUPTED = """
import os, signal, sys
event, word = sys.argv[1:3]
del sys.argv[1:3]
signal.signal(signal.SIGINT, signal.default_int_handler)

def interrupt(name, details):
    global event
    if name == event and word in str(details[0]):
        event = ""
        os.kill(os.getpid(), signal.SIGINT)

sys.addaudithook(interrupt)
from bluesminds.__main__ import main
main()
"""


@pytest.mark.process
@pytest.mark.parametrize(
    "moment",
    [("import", "bluesminds.cli.app"), ("open", "bluesminds.db"), ("sqlite3.connect", "")],
    ids=["loading", "opening", "connecting"],
)
def test_command_ctrl_c_prints_one_line(home: Path, moment: tuple[str, str]) -> None:
    done = User(home).prepare().run("keys", "list", launcher=(sys.executable, "-c", INTERRUPTED, *moment))
    assert (done.returncode, done.stdout, done.stderr) == (exits.INTERRUPTED, "", "error: interrupted\n")


def interrupt() -> None:
    raise KeyboardInterrupt


def abort() -> None:
    raise click.Abort


@pytest.mark.parametrize("strike", [interrupt, abort])
def test_interrupted_command_exits_with_its_own_code(strike: Callable[[], None]) -> None:
    @click.group(cls=Commands, lazy={})
    def group() -> None:
        pass

    group.command("wait")(strike)
    result = CliRunner().invoke(group, ["wait"])
    assert (result.exit_code, result.stderr) == (exits.INTERRUPTED, "error: interrupted\n")


def test_unknown_command_suggests_a_similar_one(home: Path) -> None:
    done = User(home).call("kyes", "list")
    assert done.returncode == exits.USAGE and "Did you mean 'keys'?" in done.stderr


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (StorageBroken("the database file is damaged: x"), "bluesminds restore --replace FILE"),
        (StorageUnavailable("the database is not available: database or disk is full"), "free space"),
        (StorageUnavailable("the database is not reachable (X)"), "check storage.url"),
    ],
)
def test_storage_error_says_what_to_do(error: StorageError, remedy: str) -> None:
    shown = io.StringIO()
    failure(error, load(None, {}, {})).show(shown)
    assert remedy in shown.getvalue()


def test_configuration_that_is_a_directory_fails(home: Path) -> None:
    error, remedy = refused(User(home).call("check", "--config", str(home)), exits.CONFIG_INVALID)
    assert error == f"the configuration cannot be read: Is a directory ({home})"
    assert "bluesminds init" in remedy
