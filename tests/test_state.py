"""The state directory: who may read it, and who holds it."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bluesminds.state import MAX_SOCKET_PATH, StateBusy, StateDir

HOLD = """
import sys
from pathlib import Path
from bluesminds.state import StateDir
with StateDir(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def state(home: Path) -> StateDir:
    state = StateDir(home / "deep" / "state")
    state.prepare()
    return state


def test_directory_and_secrets_belong_to_their_owner_alone(state: StateDir) -> None:
    before = os.umask(0)
    try:
        StateDir(state.path / "inner").prepare()
        state.secret("pepper", lambda: b"s3cret")
        with state.locked():
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE(state.path.stat().st_mode) == 0o700
    assert stat.S_IMODE((state.path / "inner").stat().st_mode) == 0o700
    assert stat.S_IMODE((state.path / "pepper").stat().st_mode) == 0o600
    assert stat.S_IMODE((state.path / "lock").stat().st_mode) == 0o600


def test_a_secret_is_made_once(state: StateDir) -> None:
    assert state.secret("pepper", lambda: b"first") == b"first"
    assert state.secret("pepper", lambda: b"second") == b"first"
    assert state.secret("master.key", lambda: b"third") == b"third"
    assert sorted(path.name for path in state.path.iterdir()) == ["master.key", "pepper"]


def test_a_draft_left_by_a_crash_is_not_taken_for_the_secret(state: StateDir) -> None:
    (state.path / "pepper.new").write_bytes(b"half")
    assert state.secret("pepper", lambda: b"whole") == b"whole"


def test_one_process_at_a_time(state: StateDir) -> None:
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


def test_a_path_too_long_for_a_socket_is_refused(home: Path) -> None:
    assert StateDir(home).socket_path == home / "admin.sock"
    with pytest.raises(ValueError, match="too long for a Unix socket"):
        _ = StateDir(home / ("x" * MAX_SOCKET_PATH)).socket_path
