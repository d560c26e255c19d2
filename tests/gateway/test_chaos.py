"""Three servers that fail, hang, cut streams, slow down and recover, while 64 clients send requests.

The clients send in rounds. In each round, one server has a fault. Trio's clock is moved on, and slow servers
continue, when every request that is left is at a server that hangs or has paused. So no request fails because
the machine is slow.
"""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

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
EJECTED = 30.0  # seconds that a server is ejected, and that it then gets half of its share
BEFORE_CUT = 3  # words
BEFORE_PAUSE = 4  # words; more than before a cut, to see that a stream continues elsewhere
Behaviour = Literal["well", "fail", "hang", "cut", "slow"]
Round = tuple[Behaviour, Behaviour, Behaviour]
ALL_WELL: Round = ("well", "well", "well")
# One server fails at a time: two of three would use up the budget for retries.
FAULTS: tuple[Round, ...] = (("fail", "slow", "well"), ("slow", "hang", "well"), ("well", "slow", "cut"))


class Chaos:
    """What the servers do now. `hanging` has the requests at servers that never answer, `paused` the prompts
    of those at servers that wait for `go_on`.
    """

    def __init__(self, servers: list[ModelServer]) -> None:
        self.servers = servers
        self.now: Round = ALL_WELL
        self.hanging: set[object] = set()
        self.paused: set[str] = set()
        self.go_on = trio.Event()
        for number, server in enumerate(servers):
            server.default = self._plan(number)

    def _plan(self, number: int) -> model_server.Plan:
        async def play(server: ModelServer, peer: Peer, asked: Asked) -> None:
            prompt = asked.body["messages"][0]["content"]
            events = [*text_chunks(words_of(prompt)), chunk(finish="stop"), chunk(usage=USAGE), DONE]
            match self.now[number]:
                case "well":
                    await streamed(*events)(server, peer, asked)
                case "fail":
                    await refusal(503)(server, peer, asked)
                case "hang":
                    async with self._hang():
                        await hang(server, peer, asked)
                case "cut":
                    await streamed(*events[:BEFORE_CUT], Cut)(server, peer, asked)
                case "slow":
                    await peer.begin_chunked(EVENT_STREAM)
                    await peer.chunk(b"".join(events[:BEFORE_PAUSE]))
                    self.paused.add(prompt)
                    await self.go_on.wait()
                    self.paused.discard(prompt)
                    await peer.chunk(b"".join(events[BEFORE_PAUSE:]))
                    await peer.send(b"0\r\n\r\n")

        return play

    @asynccontextmanager
    async def _hang(self) -> AsyncIterator[None]:
        mark = object()
        self.hanging.add(mark)
        try:
            yield
        finally:
            self.hanging.discard(mark)


class RoundResult:
    """What the clients of a round have received so far."""

    def __init__(self) -> None:
        self.words: Counter[str] = Counter()  # by prompt, of the requests that run
        self.ended: Counter[bool] = Counter()  # whether the response was complete

    async def send(self, client: httpx.AsyncClient, prompt: str) -> None:
        body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": prompt}]}
        content = b""
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            async for piece in response.aiter_bytes():
                content += piece
                self.words[prompt] = content.count(b" word")
        del self.words[prompt]
        complete = response.status_code == 200 and b'"error"' not in content
        if complete:
            assert text_of(content) == "".join(words_of(prompt))
            assert content.count(DONE) == 1 and content.endswith(DONE)
        self.ended[complete] += 1


def words_of(prompt: str) -> list[str]:
    """The response to a prompt, the same at every server."""
    return [f"{prompt} word{number} " for number in range(6)]


def text_of(body: bytes) -> str:
    events = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line.startswith(b"data: {")]
    chunks = [msgspec.json.decode(event) for event in events]
    return "".join(
        choice["delta"].get("content") or "" for one in chunks for choice in one.get("choices") or ()
    )


async def send_round(
    client: httpx.AsyncClient, chaos: Chaos, clock: MockClock, name: str, behaviours: Round
) -> Counter[bool]:
    """Send one request of each client. Whether the responses were complete."""
    chaos.now, chaos.go_on = behaviours, trio.Event()
    result = RoundResult()

    def stands_still() -> bool:
        left = CLIENTS - result.ended.total()
        paused = sum(result.words[prompt] >= BEFORE_PAUSE for prompt in chaos.paused)
        return left == len(chaos.hanging) + paused

    async with trio.open_nursery() as nursery:
        for number in range(CLIENTS):
            nursery.start_soon(result.send, client, f"{name}-client{number}")
        await eventually(stands_still)
        clock.jump(FIRST_TOKEN + 1)
        chaos.go_on.set()
    return result.ended


async def recover(client: httpx.AsyncClient, gateway: Gateway, chaos: Chaos, clock: MockClock) -> int:
    """Send requests one after the other until all servers are used in full again. Their number."""
    chaos.now = ALL_WELL
    sent = 0
    while not await has_recovered(gateway):
        clock.jump(EJECTED + 1)
        for _ in range(3 * len(chaos.servers)):
            result = RoundResult()
            await result.send(client, f"recovery{sent}")
            assert result.ended[True]
            sent += 1
        assert sent < CLIENTS, "a server has not recovered"
    return sent


async def health(gateway: Gateway) -> list[dict[str, Any]]:
    """Of each server: its running requests, and its circuits that are not closed."""
    async with gateway.operator() as client:
        servers: list[dict[str, Any]] = (await client.get("/api/admin/health")).json()["servers"]
    return servers


async def has_recovered(gateway: Gateway) -> bool:
    return not any(server["circuits"] for server in await health(gateway))


@pytest.mark.parametrize("policy", ["weighted", pytest.param("least_latency", marks=pytest.mark.process)])
async def test_failing_servers_under_load_are_hidden_from_clients(
    nursery: trio.Nursery, home: Path, mock_clock: MockClock, policy: str
) -> None:
    mock_clock.rate = 1
    chaos = Chaos([await nursery.start(model_server.serve) for _ in range(3)])
    rows = [
        entry(name, server.url, max_concurrency=CLIENTS)
        for name, server in zip("abc", chaos.servers, strict=True)
    ]
    route = {"model": "m", "targets": list("abc"), "policy": policy, "first_token_timeout": FIRST_TOKEN}
    upstream = {"first_byte_timeout": 600.0, "chunk_timeout": 600.0, "total_timeout": 600.0}
    gateway = await gateways.start(nursery, home, servers=rows, routes=[route], upstream=upstream)
    _, key = await gateway.new_key(concurrency=CLIENTS)  # a leaked slot would refuse the last round
    results: Counter[bool] = Counter()
    limits = httpx.Limits(max_connections=None)
    async with gateway.client(key, timeout=None, limits=limits) as client:
        for number, behaviours in enumerate((*FAULTS, ALL_WELL)):
            results += await send_round(client, chaos, mock_clock, f"round{number}", behaviours)
            results[True] += await recover(client, gateway, chaos, mock_clock)
    assert results[False] / results.total() < 0.01
    usage = await gateway.settled(results.total())
    assert len(usage) == len({row["request_id"] for row in usage}) == results.total()
    assert Counter(row["outcome"] for row in usage)["ok"] == results[True]
    asked = Counter(one.body["messages"][0]["content"] for server in chaos.servers for one in server.asked)
    assert max(asked.values()) <= len(chaos.servers), "a request has one attempt for each server"
    ejected = {event["server"] for event in gateway.events("server_ejected")}
    assert ejected == {event["server"] for event in gateway.events("server_recovered")}
    assert policy != "weighted" or ejected == set("abc"), "every server has failed often enough"
    assert await gateway.metric("bluesminds_requests_running") == 0
    assert [server["running"] for server in await health(gateway)] == [0, 0, 0]
