"""The state directory: what must survive a restart and belongs to one process at a time.

It promises owner-only modes and one writer: whoever holds the lock file is the only process with the store
open, so SQLite never has two writers. Secrets found missing are made once, with as much randomness as they
need.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

MAX_SOCKET_PATH = 104  # bytes; sun_path holds 108 on Linux and 104 on macOS


class StateBusy(Exception):
    """Another process holds the state directory. `pid` is its process id if it could be read."""

    def __init__(self, path: Path, pid: str) -> None:
        super().__init__(f"the state directory {path} is in use by process {pid or 'unknown'}")
        self.pid = pid


class StateDir:
    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self) -> None:
        """Create the directory, owner only. Raises OSError."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def socket_path(self) -> Path:
        """Where the running server listens for its operator. Raises ValueError when the path is too long
        for a socket.
        """
        path = self.path / "admin.sock"
        if len(os.fsencode(path)) >= MAX_SOCKET_PATH:
            raise ValueError(f"the path {path} is too long for a Unix socket; choose a shorter state_dir")
        return path

    def secret(self, name: str, make: Callable[[], bytes]) -> bytes:
        """The secret kept in file `name`, made now if there is none. Raises OSError."""
        path = self.path / name
        with contextlib.suppress(FileNotFoundError):
            return path.read_bytes().strip()
        secret = make()
        self.keep(name, secret)
        return secret

    def keep(self, name: str, secret: bytes) -> Path:
        """Write a secret to file `name`, for the owner's eyes only and all or nothing. Raises OSError."""
        path = self.path / name
        draft = path.with_suffix(".new")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secret + b"\n")
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
        return path

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory. Raises StateBusy at once when another process does."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise StateBusy(self.path, file.read(20).strip()) from exc
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield
