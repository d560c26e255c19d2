"""The state directory: modes, secrets and the lock."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bluesminds.app.state_dir import MAX_SOCKET_PATH, BadState, ForeignState, StateBusy, StateDir

HOLD = """
import sys
from pathlib import Path
from bluesminds.app.state_dir import StateDir
with StateDir(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def state(home: Path) -> StateDir:
    state = StateDir(home / "deep" / "state")
    state.create()
    return state


def test_create_any_umask_only_the_owner_has_access(state: StateDir) -> None:
    before = os.umask(0)
    try:
        StateDir(state.path / "inner").create()
        state.write_secret("pepper", b"s3cret")
        with state.locked():
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE(state.path.stat().st_mode) == 0o700
    assert stat.S_IMODE((state.path / "inner").stat().st_mode) == 0o700
    assert stat.S_IMODE((state.path / "pepper").stat().st_mode) == 0o600
    assert stat.S_IMODE((state.path / "lock").stat().st_mode) == 0o600


def test_write_secret_is_read_back(state: StateDir) -> None:
    assert state.secret("pepper") is None
    assert state.write_secret("pepper", b"first") == state.path / "pepper"
    state.write_secret("master.key", b"second")
    assert (state.secret("pepper"), state.secret("master.key")) == (b"first", b"second")
    assert sorted(path.name for path in state.path.iterdir()) == ["master.key", "pepper"]


@pytest.mark.parametrize("content", [b"", b"\n", b"  \n"])
def test_secret_empty_file_is_refused(state: StateDir, content: bytes) -> None:
    (state.path / "pepper").write_bytes(content)
    with pytest.raises(BadState, match="pepper is empty"):
        state.secret("pepper")


def test_secret_temporary_file_of_a_crash_is_ignored(state: StateDir) -> None:
    (state.path / "pepper.new").write_bytes(b"half a secret, and longer")
    assert state.secret("pepper") is None
    state.write_secret("pepper", b"whole")
    assert state.secret("pepper") == b"whole"


@pytest.mark.process
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_create_directory_writable_by_others_is_refused(home: Path, mode: int) -> None:
    path = home / "open directory"
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(BadState, match="other users can write") as caught:
        StateDir(path).create()
    assert caught.value.remedy == f"chmod 700 '{path}'"
    subprocess.run(caught.value.remedy, shell=True, check=True)  # noqa: S602 - as it is shown
    StateDir(path).create()


@pytest.mark.process
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_create_directory_of_another_user_is_refused(home: Path) -> None:
    os.chown(home, 12345, -1)
    with pytest.raises(ForeignState, match=r"belongs to another user \(uid 12345\)") as caught:
        StateDir(home).create()
    command = caught.value.remedy.partition(": ")[2]
    subprocess.run(command, shell=True, check=True)  # noqa: S602 - as it is shown
    StateDir(home).create()


def test_locked_socket_of_a_dead_process_is_removed(state: StateDir) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(state.socket_path))
    with state.locked():
        assert not state.socket_path.exists()
    state.socket_path.write_text("a regular file")
    with state.locked():
        assert state.socket_path.exists()


@pytest.mark.process
def test_locked_second_process_is_refused(state: StateDir) -> None:
    command = [sys.executable, "-c", HOLD, str(state.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StateBusy) as caught, state.locked():
            pass
        assert caught.value.pid == str(holder.pid)
        holder.kill()
    with state.locked():
        assert (state.path / "lock").read_text() == f"{os.getpid()}\n"
        with pytest.raises(StateBusy), state.locked():
            pass
    with state.locked():
        pass


def test_create_path_too_long_for_a_socket_is_refused(home: Path) -> None:
    assert StateDir(home).socket_path == home / "admin.sock"
    too_long = StateDir(home / ("x" * MAX_SOCKET_PATH))
    with pytest.raises(BadState, match="too long for a Unix socket"):
        too_long.create()
    assert not too_long.path.exists()


def test_write_secret_system_error_names_the_file(state: StateDir) -> None:
    (state.path / "pepper.new").mkdir()
    with pytest.raises(BadState, match=r"pepper\.new cannot be used: Is a directory") as caught:
        state.write_secret("pepper", b"secret")
    assert isinstance(caught.value.__cause__, IsADirectoryError)
