"""Three servers that fail, hang, cut streams, slow down and recover, while 64 clients send requests.

The clients send in rounds. Trio's clock is moved on when every request that is left waits for a server that
hangs or pauses, so no request fails because the machine is slow.
"""

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import httpx
import msgspec
import pytest
import trio
from trio.testing import MockClock

from tests import gateways
from tests.fakes import model_server
from tests.fakes.model_server import (
    DONE,
    EVENT_STREAM,
    USAGE,
    Asked,
    Cut,
    ModelServer,
    chunk,
    hang,
    refusal,
    streamed,
    text_chunks,
)
from tests.fakes.raw_upstream import Peer
from tests.gateways import Gateway, entry, eventually

CLIENTS = 64
FIRST_TOKEN = 30.0  # seconds, the limit of the route
PAUSE = 20.0  # seconds within a slow answer
Behaviour = Literal["well", "fail", "hang", "cut", "slow"]
# One server fails at a time, because two of three would use up the budget for retries.
ROUNDS: tuple[tuple[Behaviour, Behaviour, Behaviour], ...] = (
    ("well", "well", "well"),
    ("fail", "slow", "well"),
    ("slow", "hang", "well"),
    ("well", "slow", "cut"),
    ("hang", "well", "slow"),
    ("well", "cut", "slow"),
    ("slow", "well", "fail"),
    ("well", "well", "well"),
)


class Chaos:
    """What the servers do now. `waiting` has the requests at servers that hang or pause."""

    def __init__(self, servers: list[ModelServer]) -> None:
        self.servers = servers
        self.now: tuple[Behaviour, ...] = ROUNDS[0]
        self.waiting: set[object] = set()
        for number, server in enumerate(servers):
            server.default = self._plan(number)

    def _plan(self, number: int) -> model_server.Plan:
        async def play(server: ModelServer, peer: Peer, asked: Asked) -> None:
            first, *more = text_chunks(words_of(asked.body["messages"][0]["content"]))
            end = [chunk(finish="stop"), chunk(usage=USAGE), DONE]
            match self.now[number]:
                case "well":
                    await streamed(first, *more, *end)(server, peer, asked)
                case "fail":
                    await refusal(503)(server, peer, asked)
                case "hang":
                    async with self._wait():
                        await hang(server, peer, asked)
                case "cut":
                    await streamed(first, *more[:2], Cut)(server, peer, asked)
                case "slow":
                    await peer.begin_chunked(EVENT_STREAM)
                    await peer.chunk(first)
                    async with self._wait():
                        await trio.sleep(PAUSE)
                    for event in (*more, *end):
                        await peer.chunk(event)
                    await peer.send(b"0\r\n\r\n")

        return play

    @asynccontextmanager
    async def _wait(self) -> AsyncIterator[None]:
        mark = object()
        self.waiting.add(mark)
        try:
            yield
        finally:
            self.waiting.discard(mark)


def words_of(prompt: str) -> list[str]:
    """The answer to a prompt, the same at every server."""
    return [f"{prompt} word{number} " for number in range(6)]


def text_of(body: bytes) -> str:
    events = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line.startswith(b"data: {")]
    chunks = [msgspec.json.decode(event) for event in events]
    return "".join(
        choice["delta"].get("content") or "" for one in chunks for choice in one.get("choices") or ()
    )


async def send(client: httpx.AsyncClient, prompt: str) -> bool:
    """Whether the client got the whole answer to its own prompt, once."""
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": prompt}]}
    answer = await client.post("/v1/chat/completions", json=body)
    if answer.status_code != 200 or b'"error"' in answer.content:
        return False
    assert text_of(answer.content) == "".join(words_of(prompt))
    assert answer.content.count(DONE) == 1 and answer.content.endswith(DONE)
    return True


async def send_round(gateway: Gateway, chaos: Chaos, clock: MockClock, number: int) -> Counter[bool]:
    results: Counter[bool] = Counter()

    async def ask(client: httpx.AsyncClient, prompt: str) -> None:
        results[await send(client, prompt)] += 1

    limits = httpx.Limits(max_connections=None)
    async with (
        gateway.client(timeout=None, limits=limits) as client,
        trio.open_nursery() as nursery,
    ):
        for one in range(CLIENTS):
            nursery.start_soon(ask, client, f"round{number}-client{one}")
        while results.total() < CLIENTS:
            await eventually(lambda: len(chaos.waiting) == CLIENTS - results.total())
            moved = set(chaos.waiting)
            clock.jump(FIRST_TOKEN + 1)
            await eventually(lambda moved=moved: not moved & chaos.waiting)  # type: ignore[misc]
    return results


async def running(gateway: Gateway) -> int:
    async with gateway.operator() as client:
        shown = (await client.get("/api/admin/health")).json()
    return sum(server["running"] for server in shown["servers"])


@pytest.mark.parametrize("policy", ["weighted", "least_latency"])
async def test_failing_servers_under_load_are_hidden_from_clients(
    nursery: trio.Nursery, home: Path, mock_clock: MockClock, policy: str
) -> None:
    mock_clock.rate = 1
    servers = [await nursery.start(model_server.serve) for _ in range(3)]
    chaos = Chaos(servers)
    names = ["a", "b", "c"]
    rows = [
        entry(name, server.url, max_concurrency=2 * CLIENTS)
        for name, server in zip(names, servers, strict=True)
    ]
    route = {"model": "m", "targets": names, "policy": policy, "first_token_timeout": FIRST_TOKEN}
    upstream = {"first_byte_timeout": 600.0, "chunk_timeout": 600.0, "total_timeout": 600.0}
    gateway = await gateways.start(nursery, home, servers=rows, routes=[route], upstream=upstream)
    source = random.Random(11)  # noqa: S311
    results: Counter[bool] = Counter()
    for number, behaviours in enumerate(ROUNDS):
        chaos.now = behaviours
        results += await send_round(gateway, chaos, mock_clock, number)
        mock_clock.jump(source.uniform(0, 60))  # servers are ejected for 30 seconds
    assert results.total() == CLIENTS * len(ROUNDS)
    assert results[False] / results.total() < 0.01
    rows_ = await gateway.settled(results.total())
    assert len(rows_) == len({row["request_id"] for row in rows_}) == results.total()
    assert Counter(row["outcome"] for row in rows_)["ok"] == results[True]
    asked = Counter(one.body["messages"][0]["content"] for server in servers for one in server.asked)
    assert max(asked.values()) <= 3, "a request has at most one attempt for each server"
    assert await gateway.metric("bluesminds_requests_running") == 0
    assert await running(gateway) == 0
