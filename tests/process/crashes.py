"""A gateway process that is killed again and again under load, and what must be true after each restart.

The gateway uses its demo server, so that it needs no other process. Prices, limits, budgets, prepaid credit
and receipts are on. A client keeps the id of every request whose response it has received completely.
"""

import contextlib
import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString

import httpx
import tomli_w
import trio

from bluesminds.common.money import read_usd
from storage import Connection
from storage.store import open_store
from tests.terminal import COMMAND, SECONDS, Serving, User

KILLS = int(os.environ.get("KILLS") or 3)  # `make test-crash KILLS=100`
CLIENTS = 32
TOPUP = "1000"
HANGS = 600.0  # seconds; then the gateway hangs, however slow the machine is
LIMITS = {
    "rpm": 10**6,
    "tpm": 10**9,
    "concurrency": 1000,
    "tokens_per_day": 10**9,
    "usd_per_day": "900",
    "usd_per_month": "900",
    "usd_total": "900",
}
RATES = {"input_usd": "1.5", "output_usd": "7", "max_output_tokens": 200}
USAGE = """
    SELECT id, request_id, key_id, user_id, outcome, day, month,
        coalesce(input_tokens, 0) + coalesce(output_tokens, 0) AS tokens, coalesce(cost_nano, 0) AS nano,
        charged_nano
    FROM usage
"""
COUNTED = """
    SELECT subject, total_tokens, total_nano, day, day_tokens, day_nano, month, month_tokens, month_nano
    FROM quota_counters
"""
SUMMED = """
    SELECT CAST(coalesce(sum(requests), 0) AS BIGINT),
        CAST(coalesce(sum(input_tokens) + sum(output_tokens), 0) AS BIGINT),
        CAST(coalesce(sum(cost_nano), 0) AS BIGINT)
    FROM usage_daily
"""
WITHOUT_RECEIPT = """
    SELECT count(*) FROM usage WHERE outcome <> 'crashed' AND id NOT IN (SELECT id FROM receipts)
"""


@dataclass(frozen=True)
class Member:
    """An account with one API key. `prepaid`: it pays for its requests."""

    user_id: str
    key_id: str
    key: str
    prepaid: bool


@dataclass
class CrashSite:
    """A gateway that is started with the same state again and again. `url`: of the database, if it is
    PostgreSQL. `starts`: seconds from each start of a process until it was ready.
    """

    home: Path
    url: str = ""
    members: list[Member] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    _gateway: Serving | None = None

    @property
    def gateway(self) -> Serving:
        assert self._gateway is not None
        return self._gateway

    def start(self, launcher: Sequence[str] = COMMAND) -> Serving:
        config = self.home / "gateway.toml"
        if not config.exists():
            config.touch(0o600)
            # A slow machine must not make the gateway reject requests.
            storage = {"settle_timeout": SECONDS} | ({"url": self.url} if self.url else {})
            prices = [{"model": f"demo/{name}", **RATES} for name in ("echo", "text")]
            servers = [{"name": "demo", "dialect": "demo"}]
            server = {"max_connections_per_ip": 1000}
            config.write_text(
                tomli_w.dumps({"servers": servers, "prices": prices, "server": server, "storage": storage})
            )
        began = time.monotonic()
        words = ("serve", "--config", str(config), "--port", "0")
        self._gateway = User(self.home).start(*words, launcher=launcher, process_group=0)
        ready = httpx.get(f"{self._gateway.url}/ready", trust_env=False, timeout=SECONDS)
        assert ready.status_code == 200, ready.text
        self.starts.append(time.monotonic() - began)
        return self._gateway

    async def kill(self) -> None:
        self.gateway.send_signal(signal.SIGKILL)
        await self.ended()

    async def ended(self) -> int:
        with trio.fail_after(HANGS):
            return await trio.to_thread.run_sync(self.gateway.process.wait, abandon_on_cancel=True)

    def close(self) -> None:
        if self._gateway is not None and self._gateway.process.poll() is None:
            os.killpg(self._gateway.process.pid, signal.SIGKILL)  # a launcher has a child
            self._gateway.process.wait(SECONDS)

    async def operate(self, method: str, path: str, body: Any = None) -> Any:
        """A request of the operator, over the local socket."""
        transport = httpx.AsyncHTTPTransport(uds=str(User(self.home).state_dir / "admin.sock"))
        async with httpx.AsyncClient(transport=transport, base_url="http://local", timeout=SECONDS) as client:
            answer = await client.request(method, f"/api/admin{path}", json=body)
        assert answer.is_success, answer.text
        return answer.json()

    async def add_member(self, name: str, *, prepaid: bool, limits: Any = LIMITS) -> Member:
        person = {"email": f"{name}@example.com", "password": "a long password"}
        user_id = (await self.operate("POST", "/users", person))["id"]
        key = await self.operate("POST", "/keys", {"name": name, "user_id": user_id, "limits": limits})
        if prepaid:
            for kind, more in (("topup", {}), ("grant", {"ends_at": "2099-01-01T00:00:00Z"})):
                body = {"kind": kind, "amount_usd": TOPUP, "key": name} | more
                await self.operate("POST", f"/users/{user_id}/credit", body)
        member = Member(user_id, key["id"], key["key"], prepaid)
        self.members.append(member)
        return member

    async def rows(self, sql: LiteralString) -> list[tuple[Any, ...]]:
        """Rows of the database, read over a separate connection."""
        if not self.url:
            database = User(self.home).database
            with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as reader:
                return reader.execute(sql).fetchall()

        async def select(connection: Connection) -> list[tuple[Any, ...]]:
            return [tuple(row) for row in await connection.all(sql)]

        async with open_store(self.url, connections=1) as store:
            return await store.read(select)

    async def check(self, complete: Sequence[str]) -> None:
        """What must be true after a restart, before the next request. `complete`: the ids of the requests
        whose responses were received.
        """
        usage = await self.rows(USAGE)
        recorded = Counter(row[1] for row in usage)
        assert [one for one in complete if one not in recorded] == [], "answered requests are lost"
        assert [one for one, count in recorded.items() if count > 1] == [], "requests are recorded twice"
        assert await self.rows(WITHOUT_RECEIPT) == [(0,)]
        assert await self.rows("SELECT count(*) FROM open_requests") == [(0,)], "a reservation is left"
        if not self.url:
            assert await self.rows("PRAGMA integrity_check") == [("ok",)]
        totals = (len(usage), sum(row[7] for row in usage), sum(row[8] for row in usage))
        assert await self.rows(SUMMED) == [totals], "the totals agree with the rows"
        await self._check_counters(usage)
        proof = await self.operate("GET", "/ledger/verify")
        assert proof["ok"], proof
        for member in self.members:
            await self._check_member(member, [row for row in usage if row[2] == member.key_id])

    async def _check_counters(self, usage: Sequence[tuple[Any, ...]]) -> None:
        for subject, *totals, day, day_tokens, day_nano, month, month_tokens, month_nano in await self.rows(
            COUNTED
        ):
            kind, _, owner = subject.partition(":")
            own = [row for row in usage if row[2 if kind == "key" else 3] == owner]
            for counted, rows in (
                (tuple(totals), own),
                ((day_tokens, day_nano), [row for row in own if row[5] == day]),
                ((month_tokens, month_nano), [row for row in own if row[6] == month]),
            ):
                assert counted == (sum(row[7] for row in rows), sum(row[8] for row in rows)), subject

    async def _check_member(self, member: Member, rows: Sequence[tuple[Any, ...]]) -> None:
        """Budgets and credit in the memory of the new process."""
        limits = await self.operate("GET", f"/keys/{member.key_id}/limits")
        assert limits["concurrency"]["used"] == 0
        assert read_usd(limits["usd_total"]["used"]) == sum(row[8] for row in rows)
        if member.prepaid:
            balance = await self.operate("GET", f"/users/{member.user_id}/balance")
            paid = sum(row[9] for row in rows)
            assert read_usd(balance["balance_usd"]) == 2 * read_usd(TOPUP) - paid
            assert paid == sum(row[8] for row in rows)


@dataclass
class AnswerRecorder:
    """Clients that send requests until the gateway is gone. `complete` are the ids of complete responses."""

    complete: list[str] = field(default_factory=list)
    enough: trio.Event = field(default_factory=trio.Event)
    until: int = 0
    rounds: int = 0

    @contextlib.asynccontextmanager
    async def clients(self, site: CrashSite) -> Any:
        """CLIENTS clients, until each has lost its connection."""
        self.rounds += 1
        async with trio.open_nursery() as nursery:
            for client in range(CLIENTS):
                nursery.start_soon(self._ask, site, client, f"r{self.rounds}")
            yield

    async def wait_for(self, more: int) -> None:
        """Wait for that many more complete responses."""
        self.enough, self.until = trio.Event(), len(self.complete) + more
        with trio.fail_after(HANGS):
            await self.enough.wait()

    async def _ask(self, site: CrashSite, client: int, name: str) -> None:
        """Each account has clients for JSON responses and for streams. The last clients read streams of
        seconds, whose use is written down while they run.
        """
        member = site.members[client % len(site.members)]
        streamed, long = client // len(site.members) % 2 == 1, client >= CLIENTS - len(site.members)
        body = {
            "model": "demo/text" if streamed and not long else "demo/echo",
            "stream": streamed,
            "max_tokens": 200 if long else 3 + client,
            "messages": [{"role": "user", "content": "Hello there! " * (80 if long else 1)}],
        }
        async with httpx.AsyncClient(trust_env=False, timeout=SECONDS) as http:
            for number in range(1_000_000):
                request_id = f"{name}-{client}-{number}"
                headers = {"authorization": f"Bearer {member.key}", "x-request-id": request_id}
                url = f"{site.gateway.url}/v1/chat/completions"
                try:
                    answer = await http.post(url, json=body, headers=headers)
                except httpx.HTTPError:
                    return
                assert answer.status_code == 200, answer.text
                if not streamed or answer.content.endswith(b"data: [DONE]\n\n"):
                    self.complete.append(request_id)
                    if len(self.complete) >= self.until:
                        self.enough.set()
