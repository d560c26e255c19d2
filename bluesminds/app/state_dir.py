"""The state directory: secrets, the default database, the lock and the operator's socket.

Files are readable by their owner only. The process that holds the lock is the only one that opens the store,
so SQLite never has two writing processes. A directory that other users can write to is rejected, because
they could replace the secrets; so is an empty secret.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

PEPPER, MASTER_KEY = "pepper", "master.key"  # files
MAX_SOCKET_PATH = 104  # bytes; sun_path holds 108 on Linux and 104 on macOS
_DEFAULT_REMEDY = "set state_dir to a directory that only the gateway can write to"
_FULL_REMEDY = "free space for the state directory, or set state_dir to a directory on another disk"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class StateBusy(Exception):
    """Another process holds the state directory. `pid` is its process id, or "" if it cannot be read."""

    def __init__(self, path: Path, pid: str) -> None:
        super().__init__(f"the state directory {path} is in use by process {pid or 'unknown'}")
        self.pid = pid


class BadState(Exception):
    """The state directory, or a file in it, cannot be used. `remedy` says what to do."""

    def __init__(self, message: str, remedy: str = _DEFAULT_REMEDY) -> None:
        super().__init__(message)
        self.remedy = remedy


class ForeignState(BadState):
    """The directory belongs to another user."""


class StateDir:
    """Every method raises BadState for an operating system error and for an unusable directory or file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket_path = path / "admin.sock"
        """The running server listens for operator commands here."""

    def create(self) -> None:
        """Create the directory, mode 700, if it is missing. Raises ForeignState if another user owns it."""
        self._check_length()
        with _as_bad_state(self.path):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._check_owner()

    def check(self) -> bool:
        """Whether the directory exists. Raises the same errors as `create`, and creates nothing."""
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
                f"run as that user, or change the owner: chown -R {os.geteuid()} {quoted}",
            )
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise BadState(
                f"other users can write to the state directory {self.path}, so its secrets cannot be trusted",
                f"chmod 700 {quoted}",
            )

    def secret(self, name: str) -> bytes | None:
        """The content of file `name`; None when it does not exist."""
        path = self.path / name
        with _as_bad_state(path), contextlib.suppress(FileNotFoundError):
            secret = path.read_bytes().strip()
            if not secret:
                raise BadState(f"{path} is empty", f"restore {path} from your backup")
            return secret
        return None

    def write_secret(self, name: str, secret: bytes) -> Path:
        """Write file `name` with mode 600, atomically."""
        path = self.path / name
        temporary = path.with_name(f"{name}.new")
        with _as_bad_state(path):
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secret + b"\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
        return path

    def instance(self) -> str:
        """The id of this gateway among those on the same database, created at the first start."""
        name = self.secret("instance")
        if name is None:
            name = secrets.token_hex(16).encode()
            self.write_secret("instance", name)
        return name.decode("ascii", "replace")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock. Raises StateBusy at once when another process holds it."""
        with _as_bad_state(self.path / "lock"):
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with _as_bad_state(self.path / "lock"):
                self._acquire(descriptor)
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()}\n".encode())
                self._remove_stale_socket()
            yield
        finally:
            os.close(descriptor)

    def _acquire(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise StateBusy(
                self.path, os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            ) from exc

    def _remove_stale_socket(self) -> None:
        """A killed process leaves its socket behind."""
        if self.socket_path.is_socket():
            self.socket_path.unlink()


@contextlib.contextmanager
def _as_bad_state(path: Path) -> Iterator[None]:
    """Turns an OSError into BadState. `path` is the file to name when the error names none."""
    try:
        yield
    except OSError as exc:
        name = path if exc.filename is None else os.fsdecode(exc.filename)
        remedy = _FULL_REMEDY if exc.errno in _FULL else _DEFAULT_REMEDY
        raise BadState(f"{name} cannot be used: {exc.strerror}", remedy) from exc
