"""The real gateway in this process: real sockets, a real database, settings from a real file.

gateway = await start(nursery, home, servers=[entry("one", models.url)])
answer = await gateway.chat({"model": "m", ...})
"""

import sqlite3
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import tomli_w
import trio
from argon2 import PasswordHasher

from bluesminds.app import serve
from bluesminds.app.operator import operator_client
from bluesminds.app.services import Services
from bluesminds.common.clock import Clock, SystemClock
from bluesminds.common.log import Log
from bluesminds.config import Loaded, Settings, load
from bluesminds.gateway.bodies import BodyMemory
from bluesminds.gateway.spool import SpoolSpace
from bluesminds.gateway.upstream.backoff import Backoff
from tests.databases import create_sqlite
from tests.secrets_found import found_after, found_in, secrets_of

ASK = {"model": "m", "messages": [{"role": "user", "content": "Say hello."}]}
STREAM = ASK | {"stream": True}
TLS = ssl.create_default_context()  # shared: each context reads every root certificate
# Password hashing at its real cost would make the tests slow.
CHEAP_HASHER = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
NO_PAUSE = Backoff(random=lambda: 0.0)  # a server is tried again at once
DEFAULTS = {
    "server": {"port": 0, "drain_timeout": 5.0},
    "upstream": {
        "connect_timeout": 60.0,
        "first_byte_timeout": 60.0,
        "chunk_timeout": 60.0,
        "total_timeout": 120.0,
        "probe_timeout": 60.0,
    },
    "storage": {"settle_timeout": 60.0},
    "webhooks": {"enabled": True},
}
IMPATIENT = {"first_byte_timeout": 1.0, "chunk_timeout": 1.0}


def entry(name: str, url: str, **more: Any) -> dict[str, Any]:
    """A [[servers]] table that offers the model "m"."""
    return {"name": name, "url": url, "models": ["m"]} | more


def settings_of(home: Path, servers: list[dict[str, Any]], sections: Mapping[str, Any]) -> Settings:
    return _load(home, servers, sections).settings


def _load(home: Path, servers: list[dict[str, Any]], sections: Mapping[str, Any]) -> Loaded:
    document: dict[str, Any] = {name: dict(table) for name, table in DEFAULTS.items()}
    for name, table in sections.items():
        document[name] = document.get(name, {}) | dict(table) if isinstance(table, Mapping) else table
    document["state_dir"] = str(home / "state")
    document["servers"] = servers
    path = home / "gateway.toml"
    path.write_text(tomli_w.dumps(document))
    path.chmod(0o600)
    return load(path, {}, {})


@dataclass
class Gateway:
    """A running gateway. `key` is its first API key, `lines` its log, `secrets` those of its settings."""

    settings: Settings
    running: serve.Running
    key: str
    lines: list[bytes]
    shutdown: trio.Event
    secrets: frozenset[bytes] = frozenset()
    ended: trio.Event = field(default_factory=trio.Event)

    @property
    def services(self) -> Services:
        return self.running.services

    @property
    def port(self) -> int:
        return int(self.running.addresses[0][1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def database(self) -> Path:
        return self.settings.state_dir / "bluesminds.db"

    @property
    def log(self) -> str:
        return b"".join(self.lines).decode()

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for line in self.lines if (event := msgspec.json.decode(line))["event"] == name]

    def client(self, key: str | None = None, **more: Any) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {key or self.key}"}
        settings = {"verify": TLS, "timeout": 60, "event_hooks": {"response": [self._search]}} | more
        return httpx.AsyncClient(base_url=self.url, headers=headers, trust_env=False, **settings)

    async def _search(self, answer: httpx.Response) -> None:
        """Errors and metrics contain no secret."""
        if answer.is_error or answer.url.path == "/metrics":
            text = str(answer.headers).encode() + await answer.aread()
            leaked = found_in(answer.url.path, text, self.secrets)
            assert not leaked, leaked

    async def chat(
        self,
        body: Mapping[str, Any] | bytes = ASK,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """POST /v1/chat/completions; the response with its whole body."""
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        async with self.client(key) as client:
            return await client.post("/v1/chat/completions", content=content, headers=headers)

    async def get(self, path: str) -> httpx.Response:
        async with self.client() as client:
            return await client.get(path)

    @asynccontextmanager
    async def operator(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client of the operator's API on the local socket."""
        async with operator_client(self.settings, clock=SystemClock(), log=self.services.log) as client:
            yield client

    async def new_key(
        self, *, rpm: int | None = None, concurrency: int | None = None, **fields: Any
    ) -> tuple[str, str]:
        """Create an API key; its id and the key."""
        limits = {"rpm": rpm, "concurrency": concurrency} | fields.pop("limits", {})
        async with self.operator() as client:
            answer = await client.post("/api/admin/keys", json={"name": "tests", "limits": limits, **fields})
        assert answer.status_code == 201, answer.text
        return answer.json()["id"], answer.json()["key"]

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A read-only connection to the database."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as database:
            yield database

    def rows(self) -> list[dict[str, Any]]:
        """The usage rows that are committed at this moment."""
        with self.reading() as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute("SELECT * FROM usage ORDER BY at, id")]

    async def alter(self, statement: str) -> None:
        """Change the database without the gateway. In a thread: the gateway must be able to end a transaction
        that it has begun.
        """

        def execute() -> None:
            with closing(sqlite3.connect(self.database, timeout=60, isolation_level=None)) as database:
                database.execute(statement)

        await trio.to_thread.run_sync(execute)

    async def settled(self, count: int) -> list[dict[str, Any]]:
        """Wait for `count` usage rows; all rows."""
        await eventually(lambda: len(self.rows()) >= count)
        return self.rows()

    async def holds_no_rows(self) -> bool:
        """Whether every usage row is committed and has left the queue."""
        return await self.metric("bluesminds_usage_rows_held") == 0

    async def is_ready(self) -> bool:
        return (await self.get("/ready")).status_code == 200

    async def metric(self, name: str, **labels: str) -> float:
        """The value of a sample in /metrics; 0 if it is missing."""
        wanted = (
            "{" + ",".join(f'{key}="{value}"' for key, value in sorted(labels.items())) + "}"
            if labels
            else ""
        )
        for line in (await self.get("/metrics")).text.splitlines():
            if line.startswith(f"{name}{wanted} "):
                return float(line.rpartition(" ")[2])
        return 0.0

    async def stop(self) -> None:
        self.shutdown.set()
        with trio.fail_after(60):
            await self.ended.wait()


def body_memory(limit: int, directory: Path = Path()) -> BodyMemory:
    """Room for request bodies, on disk as much as in memory."""
    return BodyMemory(limit, largest=limit, disk=SpoolSpace(directory, limit))


async def eventually(check: Callable[[], bool | Awaitable[bool]], seconds: float = 60) -> None:
    """Wait until `check` returns True. Raises trio.TooSlowError."""
    with trio.fail_after(seconds):
        while True:
            found = check()
            if found is True or (found is not False and await found):
                return
            await trio.sleep(0.01)


def _create_database(settings: Settings) -> None:
    """Save the first start the work of the migrations."""
    path = settings.state_dir / "bluesminds.db"
    if settings.storage.url is None and not settings.state_dir.exists():
        settings.state_dir.mkdir(mode=0o700)
        create_sqlite(path)


async def start(
    nursery: trio.Nursery,
    home: Path,
    *,
    servers: list[dict[str, Any]],
    clock: Clock | None = None,
    key: str = "",
    backoff: Backoff = NO_PAUSE,
    **sections: Any,
) -> Gateway:
    """Start a gateway and wait until it takes requests. `key` is the first API key of an existing state."""
    loaded = _load(home, servers, sections)
    settings = loaded.settings
    _create_database(settings)
    secrets = frozenset(secrets_of(settings))
    lines: list[bytes] = []
    shutdown = trio.Event()
    ended = trio.Event()
    clock = clock or SystemClock()
    log = Log(clock, level=settings.log.level, json=True, write=lines.append)

    async def run(task_status: trio.TaskStatus[serve.Running]) -> None:
        try:
            await serve.serve(
                settings,
                clock=clock,
                log=log,
                environ={},
                shutdown=shutdown,
                reread=lambda: load(home / "gateway.toml", {}, {}).settings,
                config_path=home / "gateway.toml",
                origins=loaded.origins,
                password_hasher=CHEAP_HASHER,
                backoff=backoff,
                task_status=task_status,
            )
        finally:
            leaked = found_after(settings.state_dir, b"".join(lines), secrets)
            assert not leaked, leaked
        ended.set()

    running = await nursery.start(run)
    return Gateway(settings, running, running.first_run.key or key, lines, shutdown, secrets, ended)
