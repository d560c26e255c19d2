"""Runs the command as a user does: a real process with its own environment and home directory.

user = User(home).prepare()
done = user.run("keys", "list")
done = user.call("keys", "list")  # the same in this process, which is faster
with user.serving("demo", "--port", "0") as gateway: ...
"""

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import trio
from click.testing import CliRunner

from bluesminds.app.services import open_services
from bluesminds.cli.app import cli
from bluesminds.common.clock import SystemClock
from bluesminds.common.log import Log
from bluesminds.config import Settings, find_file, load
from tests.databases import create_sqlite
from tests.secrets_found import found_in_output

ROOT = Path(__file__).resolve().parent.parent
COMMAND = (sys.executable, "-m", "bluesminds")
SECONDS = 120.0  # the timeout of any command
POLL = 0.02
_NO_OLLAMA = "127.0.0.1:9"  # the discard port, which does not answer


@dataclass
class Serving:
    """A gateway process. `said` is its standard error so far."""

    process: subprocess.Popen[bytes]
    errors: Path

    @property
    def said(self) -> str:
        return self.errors.read_text()

    @property
    def url(self) -> str:
        found = re.search(r"listening on (http://127\.0\.0\.1:\d+)", self.said)
        assert found, self.said
        return found[1]

    @property
    def key(self) -> str:
        """The API key that the banner prints, or that is in the file it names."""
        found = re.search(r"Bearer (bm_[0-9A-Za-z]{36}|\$\(cat (\S+)\))\"", self.said)
        assert found, self.said
        return found[1] if found[2] is None else Path(found[2]).read_text().strip()

    @property
    def token(self) -> str:
        """The bootstrap token that the banner prints, or that is in the file it names."""
        found = re.search(r"\}' \"(?:([A-Za-z0-9_-]{43})|\$\(cat (\S+)\))\"", self.said)
        assert found, self.said
        return found[1] or Path(found[2]).read_text().strip()

    def wait_for(self, text: str) -> None:
        """Wait until its standard error contains `text`."""
        give_up = monotonic() + SECONDS
        while text not in self.said:
            assert not _ended(self.process, POLL) and monotonic() < give_up, self.said

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """The exit code."""
        self.send_signal(number)
        return self.process.wait(SECONDS)


def demo_user(home: Path) -> "User":
    """A user whose demo uses `state_dir`, like all other commands."""
    return User(home, {"STATE_DIRECTORY": str(home / "s" / "bluesminds")})


@dataclass
class User:
    """`environ` adds to the environment, or replaces in it."""

    home: Path
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def state_dir(self) -> Path:
        return self.home / "s" / "bluesminds"

    @property
    def database(self) -> Path:
        return self.state_dir / "bluesminds.db"

    def prepare(self, config: str | None = None) -> "User":
        """Create the state directory and the database, as the first start of a gateway does."""
        with contextlib.chdir(self.home):
            environ = self.environment({"STATE_DIRECTORY": str(self.state_dir)})
            path = find_file(environ) if config is None else Path(config)
            settings = load(path, environ, {}, defer_secrets=True).settings
            if settings.storage.url is None and not settings.state_dir.exists():
                settings.state_dir.mkdir(mode=0o700, parents=True)
                create_sqlite(settings.state_dir / "bluesminds.db")
            trio.run(_open_services, settings)
        return self

    def environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        """Without the variables of the developer, because the gateway would use API keys in them. The process
        runs the code of this checkout, whichever one is installed.
        """
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        own = {"HOME": str(self.home), "XDG_STATE_HOME": str(self.home / "s"), "OLLAMA_HOST": _NO_OLLAMA}
        return kept | own | {"PYTHONPATH": str(ROOT)} | self.environ | extra

    def run(
        self, *words: str, stdin: str = "", launcher: Sequence[str] = COMMAND, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            (*launcher, *words),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            cwd=self.home,
            env=self.environment(environ),
        )
        self._search(words, done.stdout + done.stderr, environ)
        return done

    def _search(self, words: Sequence[str], output: str, environ: Mapping[str, str]) -> None:
        leaked = found_in_output(words, output, self.home, self.environment(environ))
        assert not leaked, leaked

    def call(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run the command in this process, which has already imported all modules."""
        environ = dict.fromkeys(os.environ) | self.environment({})
        with contextlib.chdir(self.home):
            done = CliRunner().invoke(cli, words, input=stdin, env=environ, prog_name="bluesminds")
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        self._search(words, done.stdout + done.stderr, {})
        return subprocess.CompletedProcess(words, done.exit_code, done.stdout, done.stderr)

    def launch(
        self,
        *words: str,
        launcher: Sequence[str] = COMMAND,
        environ: Mapping[str, str] | None = None,
        **process: Any,
    ) -> Serving:
        """Start without waiting."""
        errors = self.home / "errors"
        with errors.open("wb") as sink:
            child = subprocess.Popen(
                (*launcher, *words),
                stdin=subprocess.DEVNULL,
                stderr=sink,
                cwd=self.home,
                env=self.environment(environ or {}),
                **process,
            )
        return Serving(child, errors)

    def start(self, *words: str, **more: Any) -> Serving:
        """Start and wait until it serves. Raises AssertionError with its output if it ends before."""
        serving = self.launch(*words, **more)
        serving.wait_for("Ctrl-C")
        return serving

    @contextmanager
    def serving(self, *words: str, **more: Any) -> Iterator[Serving]:
        """Start it; kill it at the end if it still runs."""
        serving = self.start(*words, **more)
        try:
            yield serving
        finally:
            if serving.process.poll() is None:
                serving.process.kill()
                serving.process.wait(SECONDS)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of the database, read over a separate connection."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as database:
            return database.execute(sql).fetchall()


async def _open_services(settings: Settings) -> None:
    clock = SystemClock()
    log = Log(clock, level="error", json=False)
    async with open_services(settings, clock=clock, log=log):
        pass


def _ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True
