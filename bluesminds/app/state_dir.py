"""The state directory: what must survive a restart and belongs to one process at a time.

It promises owner-only modes and one writer: whoever holds the lock file is the only process with the store
open, so SQLite never has two writers. It refuses a directory that anybody else could have written to, and
secrets that are empty: whoever can put a file there could choose the pepper.
"""

import contextlib
import fcntl
import os
import secrets
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

MAX_SOCKET_PATH = 104  # bytes; sun_path holds 108 on Linux and 104 on macOS
_NEEDED = "the gateway needs a directory of its own that it may write to: state_dir"


class StateBusy(Exception):
    """Another process holds the state directory. `pid` is its process id if it could be read."""

    def __init__(self, path: Path, pid: str) -> None:
        super().__init__(f"the state directory {path} is in use by process {pid or 'unknown'}")
        self.pid = pid


class BadState(Exception):
    """The state directory, or something in it, cannot be used. `remedy` says what to do; the cause is the
    system's error, if there was one.
    """

    def __init__(self, message: str, remedy: str = _NEEDED) -> None:
        super().__init__(message)
        self.remedy = remedy


class ForeignState(BadState):
    """The directory belongs to another user."""


class StateDir:
    """Every method raises BadState for what the system, or the directory's state, does not allow."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket_path = path / "admin.sock"
        """Where the running server listens for its operator."""

    def create(self) -> None:
        """Create the directory, owner only. Raises ForeignState for somebody else's."""
        self._check_length()
        with _as_bad_state(self.path):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._check_owner()

    def check(self) -> bool:
        """Whether the directory exists; what `create` would refuse raises here too, and nothing is made."""
        self._check_length()
        with _as_bad_state(self.path):
            exists = self.path.exists()
        if exists:
            self._check_owner()
        return exists

    def _check_length(self) -> None:
        if len(os.fsencode(self.socket_path)) >= MAX_SOCKET_PATH:
            raise BadState(
                f"the path {self.socket_path} is too long for a Unix socket", "choose a shorter state_dir"
            )

    def _check_owner(self) -> None:
        with _as_bad_state(self.path):
            found = self.path.stat()
        quoted = shlex.quote(str(self.path))
        if found.st_uid != os.geteuid():
            raise ForeignState(
                f"the state directory {self.path} belongs to another user (uid {found.st_uid})",
                f"work as that user, or take the directory over: chown -R {os.geteuid()} {quoted}",
            )
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise BadState(
                f"others may write to the state directory {self.path}, so its secrets cannot be trusted",
                f"chmod 700 {quoted}",
            )

    def secret(self, name: str) -> bytes | None:
        """The secret kept in file `name`; None when there is no such file."""
        path = self.path / name
        with _as_bad_state(path), contextlib.suppress(FileNotFoundError):
            secret = path.read_bytes().strip()
            if not secret:
                raise BadState(f"{path} is empty", f"restore {path} from your backup")
            return secret
        return None

    def write_secret(self, name: str, secret: bytes) -> Path:
        """Write a secret to file `name`, for the owner's eyes only and all or nothing."""
        path = self.path / name
        draft = path.with_name(f"{name}.new")
        with _as_bad_state(path):
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secret + b"\n")
                file.flush()
                os.fsync(file.fileno())
            draft.rename(path)
        return path

    def instance(self) -> str:
        """What this directory's gateway is known as to others, made at its first start."""
        name = self.secret("instance")
        if name is None:
            name = secrets.token_hex(16).encode()
            self.write_secret("instance", name)
        return name.decode("ascii", "replace")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory. Raises StateBusy at once when another process does."""
        with _as_bad_state(self.path / "lock"):
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "r+") as file:
            with _as_bad_state(self.path / "lock"):
                self._take(file.fileno())
                file.truncate(0)
                file.write(f"{os.getpid()}\n")
                file.flush()
                self._remove_stale_socket()
            yield

    def _take(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise StateBusy(
                self.path, os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            ) from exc

    def _remove_stale_socket(self) -> None:
        """A process that was killed leaves its socket behind; commands would take it for a gateway's."""
        if self.socket_path.is_socket():
            self.socket_path.unlink()


@contextlib.contextmanager
def _as_bad_state(path: Path) -> Iterator[None]:
    """The system's errors as BadState; `path` is what was worked on when the error does not say."""
    try:
        yield
    except OSError as exc:
        name = path if exc.filename is None else os.fsdecode(exc.filename)
        raise BadState(f"{name} cannot be used: {exc.strerror}") from exc
