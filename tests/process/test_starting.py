"""Starts that are slow, fail or are interrupted.

A model server that accepts a connection and never answers delays the start.
"""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from bluesminds.cli import exits
from tests.terminal import COMMAND, SECONDS, Serving, User, demo_user

TOKEN = re.compile(r"\"[A-Za-z0-9_-]{43}\"")


@contextmanager
def starting(home: Path) -> Iterator[tuple[User, Serving]]:
    """A gateway that is still starting."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(SECONDS)
        user = User(home)
        environ = {"OLLAMA_HOST": f"127.0.0.1:{silent.getsockname()[1]}"}
        gateway = user.launch("serve", "--port", "0", environ=environ)
        try:
            with silent.accept()[0]:
                yield user, gateway
        finally:
            gateway.process.kill()
            gateway.process.wait(SECONDS)


def has_key_and_token(gateway: Serving) -> bool:
    headers = {"authorization": f"Bearer {gateway.key}"}
    answer = httpx.get(f"{gateway.url}/v1/models", headers=headers, trust_env=False, timeout=SECONDS)
    return answer.status_code == 200 and len(gateway.token) == 43


def test_first_start_was_killed_next_start_prints_the_secrets(home: Path) -> None:
    with starting(home) as (user, gateway):
        gateway.send_signal(signal.SIGKILL)
        gateway.process.wait(SECONDS)
        assert "bm_" not in gateway.said
    with user.serving("serve", "--port", "0") as gateway:
        assert has_key_and_token(gateway)


# A limit on the size of files has the effect of a full disk. The start fails at the lock, a secret or the
# database, depending on the size.
@pytest.mark.parametrize("size", [0, 20, 4096, 40_000])
def test_start_without_disk_space_ends_with_one_sentence(home: Path, size: int) -> None:
    limited = (
        "import os, resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
        # With -B it compiles nothing to files, which the limit would cut for all later tests.
        "os.execv(sys.executable, [sys.executable, '-B', *sys.argv[1:]])"
    )
    done = User(home).run("serve", "--port", "0", launcher=(sys.executable, "-c", limited, *COMMAND[1:]))
    assert done.returncode == exits.UNAVAILABLE, done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2, done.stderr


def test_first_start_failed_next_start_prints_the_secrets(home: Path) -> None:
    user = User(home)
    (user.state_dir / "admin.sock").mkdir(parents=True, mode=0o700)
    assert user.run("serve", "--port", "0").returncode != 0
    (user.state_dir / "admin.sock").rmdir()
    with user.serving("serve", "--port", "0") as gateway:
        assert has_key_and_token(gateway)


def test_setup_token_no_administrator_every_start_prints_a_new_one(home: Path) -> None:
    user = User(home)
    tokens = []
    for _ in range(2):
        with user.serving("serve", "--port", "0") as gateway:
            tokens.append(gateway.token)
            assert gateway.stop() == 0
    with user.serving("serve", "--port", "0") as gateway:
        tokens.append(gateway.token)
        assert len(set(tokens)) == 3
        claim = {"email": "ada@example.com", "password": "correct horse battery"}
        statuses = [
            httpx.post(
                f"{gateway.url}/api/setup", json=claim | {"token": token}, trust_env=False, timeout=SECONDS
            ).status_code
            for token in tokens
        ]
        assert statuses == [403, 403, 201]


def test_ctrl_c_during_start_ends_the_start(home: Path) -> None:
    with starting(home) as (_, gateway):
        assert gateway.stop(signal.SIGINT) == 0
        assert "listening" not in gateway.said, "it does not finish the start first"
        assert "Traceback" not in gateway.said


def test_command_gateway_is_starting_waits(home: Path) -> None:
    """A killed gateway has left its socket file."""
    with User(home).serving("serve", "--port", "0") as gateway:
        gateway.stop(signal.SIGKILL)
    with starting(home) as (user, gateway):
        assert not (user.state_dir / "admin.sock").exists()
        made = user.run("keys", "create", "early")
        assert (made.returncode, made.stdout[:3]) == (0, "bm_"), made.stderr
        assert gateway.process.poll() is None


def test_command_starting_gateway_never_answers_reports_a_conflict(home: Path) -> None:
    """The lock is held by a process that does not answer, and no process serves the socket."""
    with starting(home) as (user, gateway):
        gateway.send_signal(signal.SIGSTOP)
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(user.state_dir / "admin.sock"))
        done = user.run("keys", "list")
        assert done.returncode == exits.CONFLICT
        error, remedy = done.stderr.splitlines()
        assert (
            error == f"error: the state directory {user.state_dir} is in use by process {gateway.process.pid}"
        )
        assert "starting" in remedy


def test_public_address_state_dir_from_service_remedy_names_it(home: Path) -> None:
    """Under systemd the state directory is in the service's environment, not in the operator's."""
    (home / "g.toml").write_text('[server]\nhost = "0.0.0.0"\nport = 0\n')
    user = User(home)
    state = str(home / "service state")
    refused = user.run("serve", "--config", "g.toml", STATE_DIRECTORY=state)
    assert refused.returncode == exits.CONFIG_INVALID
    variable, program, *words = shlex.split(refused.stderr.splitlines()[1].removeprefix("help: "))
    name, _, value = variable.partition("=")
    assert (program, value) == ("bluesminds", state)
    assert user.run(*words, stdin="correct horse battery\n", **{name: value}).returncode == 0
    with user.serving("serve", "--config", "g.toml", environ={"STATE_DIRECTORY": state}) as gateway:
        assert "listening on http://0.0.0.0:" in gateway.said
        assert gateway.stop() == 0


# systemd sets JOURNAL_STREAM to the device and inode of the stream it made standard error.
JOURNAL = """
import os, sys
found = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{found.st_dev}:{found.st_ino}"
os.execv(sys.executable, [sys.executable, "-m", "bluesminds", *sys.argv[1:]])
"""


def test_secrets_stderr_is_the_journal_are_written_to_files(home: Path) -> None:
    user = demo_user(home)
    kept = {}
    for command, name in (("serve", "first-key"), ("demo", "guest-key")):
        gateway = user.launch(command, "--port", "0", launcher=(sys.executable, "-c", JOURNAL))
        try:
            gateway.wait_for("/api/setup")
            assert f"in {user.state_dir / name}; read it once, then delete the file" in gateway.said
            assert not re.search("bm_[0-9A-Za-z]{36}", gateway.said) and not TOKEN.search(gateway.said)
            kept[name] = (user.state_dir / name).read_text().strip()
            assert gateway.stop(signal.SIGTERM) == 0
        finally:
            gateway.process.kill()
            gateway.process.wait(SECONDS)
    assert (user.state_dir / "first-key").read_text().strip() == kept["first-key"] != kept["guest-key"]


def test_serve_without_terminal_writes_secrets_to_owner_only_files(home: Path) -> None:
    user = User(home)
    with user.serving("serve", "--port", "0") as gateway:
        assert not re.search("bm_[0-9A-Za-z]{36}", gateway.said) and not TOKEN.search(gateway.said)
        for name in ("first-key", "bootstrap-token"):
            path = user.state_dir / name
            assert f"in {path}; read it once, then delete the file" in gateway.said
            assert path.stat().st_mode & 0o777 == 0o600
        assert has_key_and_token(gateway)
        assert gateway.stop() == 0


def test_serve_on_terminal_prints_secrets(home: Path) -> None:
    user = User(home)
    reader, terminal = os.openpty()
    command = (*COMMAND, "serve", "--port", "0")
    process = subprocess.Popen(command, stderr=terminal, cwd=home, env=user.environment({}))
    os.close(terminal)
    try:
        said = b""
        while b"Ctrl-C" not in said:
            said += os.read(reader, 65536)  # OSError when the process has ended
        assert re.search(rb"Bearer bm_[0-9A-Za-z]{36}\"", said)
        assert not {"first-key", "bootstrap-token"} & {path.name for path in user.state_dir.iterdir()}
    finally:
        process.kill()
        process.wait(SECONDS)
        os.close(reader)


def test_secrets_terminal_inside_a_service_are_printed(home: Path) -> None:
    """A shell started by a service has its JOURNAL_STREAM, but not its standard error."""
    with User(home).serving("demo", "--port", "0", environ={"JOURNAL_STREAM": "9:12345"}) as gateway:
        assert gateway.key.startswith("bm_")
        assert gateway.stop() == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can work in another user's directory")
def test_root_state_dir_of_another_user_needs_its_running_gateway(home: Path) -> None:
    user = User(home)
    with user.serving("serve", "--port", "0") as gateway:
        os.chown(user.state_dir, 12345, -1)
        assert user.run("keys", "create", "beside").returncode == 0
        assert gateway.stop() == 0
    before = sorted(path.name for path in user.state_dir.iterdir())
    alone = user.run("keys", "create", "alone")
    assert alone.returncode == exits.CONFIG_INVALID
    assert "belongs to another user (uid 12345)" in alone.stderr
    assert sorted(path.name for path in user.state_dir.iterdir()) == before


def test_garbage_collector_gateway_has_started_skips_loaded_objects(home: Path) -> None:
    """A full collection of all loaded objects would stop all requests for as long as dozens of them take."""
    report = "import atexit, gc, sys; atexit.register(lambda: print(gc.get_freeze_count(), file=sys.stderr))"
    run = "from bluesminds.__main__ import main; main()"
    gateway = User(home).start("demo", "--port", "0", launcher=(sys.executable, "-c", f"{report}; {run}"))
    assert gateway.stop() == 0
    assert int(gateway.said.splitlines()[-1]) > 50_000
