"""What a fleet does when servers fail, hang, cut streams or send what they should not, with its figures.

Trio's clock is moved on where a time has to pass, so that no figure depends on the machine.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from bluesminds.gateway.upstream.backoff import Backoff
from bluesminds.gateway.upstream.retry_budget import MOST
from tests import gateways
from tests.deployment import code_of
from tests.fakes import model_server, raw_upstream
from tests.fakes.model_server import (
    DONE,
    USAGE,
    Cut,
    ModelServer,
    Stall,
    chunk,
    completion,
    correct,
    hang,
    refusal,
    streamed,
    text_chunks,
    whole,
)
from tests.fakes.raw_upstream import Peer
from tests.gateways import ASK, STREAM, Gateway, entry

NAMES = "abc"
IN_ORDER = [{"server": name, "priority": at} for at, name in enumerate(NAMES)]
EJECTED = 30.0  # seconds, by default
FIRST_TOKEN = 30.0  # seconds, by default
PATIENCE = 60.0  # seconds that a client waits
STALLED = 45.0  # seconds
LONGEST_PAUSE = Backoff(random=lambda: 1.0)
PRICES = [{"model": "m", "input_usd": "1", "output_usd": "1", "max_output_tokens": 1000}]


class Fleet:
    """Three servers behind a gateway."""

    def __init__(self, gateway: Gateway, servers: list[ModelServer], clock: MockClock) -> None:
        self.gateway = gateway
        self.servers = servers
        self.clock = clock

    async def ask(self, count: int, body: dict[str, Any] = ASK) -> list[httpx.Response]:
        async with self.gateway.client(timeout=None) as client:
            return [await client.post("/v1/chat/completions", json=body) for _ in range(count)]

    def asked(self) -> list[int]:
        return [len(server.asked) for server in self.servers]

    def ejected(self) -> list[tuple[str, float]]:
        """The servers that were ejected, and for how many seconds."""
        return [(event["server"], event["seconds"]) for event in self.gateway.events("server_ejected")]


async def start(nursery: trio.Nursery, home: Path, clock: MockClock, **route: Any) -> Fleet:
    """The clock stands still afterwards."""
    clock.rate = 1
    servers: list[ModelServer] = [await nursery.start(model_server.serve) for _ in NAMES]
    rows = [entry(name, server.url) for name, server in zip(NAMES, servers, strict=True)]
    given = {"model": "m", "targets": list(NAMES), "policy": "weighted"} | route
    upstream = {"probe_interval": 86400.0, "chunk_timeout": STALLED}
    gateway = await gateways.start(
        nursery, home, servers=rows, routes=[given], prices=PRICES, upstream=upstream, backoff=LONGEST_PAUSE
    )
    clock.rate = 0
    return Fleet(gateway, servers, clock)


async def until(check: Callable[[], bool]) -> None:
    """Like `eventually`, while the clock stands still."""
    for _ in range(6000):
        if check():
            return
        await wait_all_tasks_blocked(0.01)
    raise trio.TooSlowError


async def test_server_that_fails_is_ejected_and_admitted_again(
    nursery: trio.Nursery, home: Path, mock_clock: MockClock
) -> None:
    fleet = await start(nursery, home, mock_clock)
    bad = fleet.servers[0]
    bad.default = refusal(500)
    assert {answer.status_code for answer in await fleet.ask(60)} == {200}, "at most 1 % may fail"
    assert len(bad.asked) == 5
    for trial, factor in enumerate((1, 1, 2, 3)):
        assert fleet.ejected()[-1] == ("a", factor * EJECTED)
        mock_clock.jump(factor * EJECTED - 1)
        assert {answer.status_code for answer in await fleet.ask(6)} == {200}
        assert len(bad.asked) == 5 + trial, "no request before its time"
        mock_clock.jump(1)
        assert {answer.status_code for answer in await fleet.ask(6)} == {200}
        assert len(bad.asked) == 6 + trial, "one trial"
    bad.default = correct
    mock_clock.jump(fleet.ejected()[-1][1])
    assert {answer.status_code for answer in await fleet.ask(60)} == {200}
    assert len(bad.asked) >= 9 + 10, "it gets at least half of its share"
    assert [event["server"] for event in fleet.gateway.events("server_recovered")] == ["a"]


async def test_at_most_half_of_the_servers_are_ejected(
    nursery: trio.Nursery, home: Path, mock_clock: MockClock
) -> None:
    fleet = await start(nursery, home, mock_clock)
    for server in fleet.servers[:2]:
        server.default = refusal(500)
    assert {answer.status_code for answer in await fleet.ask(60)} == {200}
    assert {name for name, _ in fleet.ejected()} == {"a", "b"}
    before = fleet.asked()
    mock_clock.jump(10)  # fills the retry budget
    assert {answer.status_code for answer in await fleet.ask(30)} == {200}
    first, second, third = (now - then for now, then in zip(fleet.asked(), before, strict=True))
    assert min(first, second) == 0 and max(first, second) > 0, "one of three is left out"
    assert third == 30


@pytest.mark.parametrize("plan", [hang, streamed(Stall)], ids=["no response", "only its head"])
async def test_server_without_content_is_left_in_time(
    nursery: trio.Nursery, home: Path, mock_clock: MockClock, plan: model_server.Plan
) -> None:
    fleet = await start(nursery, home, mock_clock, policy="priority", targets=IN_ORDER)
    fleet.servers[0].plan(plan)
    answers: list[httpx.Response] = []

    async def ask() -> None:
        with trio.fail_after(PATIENCE):
            answers.extend(await fleet.ask(1, STREAM))

    async with trio.open_nursery() as clients:
        clients.start_soon(ask)
        await until(lambda: fleet.asked() == [1, 0, 0])
        await wait_all_tasks_blocked(0.05)
        mock_clock.jump(FIRST_TOKEN)
    assert answers[0].status_code == 200 and answers[0].content.endswith(DONE)
    assert fleet.asked() == [1, 1, 0]


async def test_stalled_stream_ends_with_an_error_event_in_time(
    nursery: trio.Nursery, home: Path, mock_clock: MockClock
) -> None:
    fleet = await start(nursery, home, mock_clock, policy="priority", targets=IN_ORDER, recovery="error")
    fleet.servers[0].plan(streamed(*text_chunks(), Stall))
    received = [b""]

    async def ask() -> None:
        async with (
            fleet.gateway.client(timeout=None) as client,
            client.stream("POST", "/v1/chat/completions", json=STREAM) as response,
        ):
            with trio.fail_after(STALLED + 1):
                async for piece in response.aiter_bytes():
                    received[0] += piece

    async with trio.open_nursery() as clients:
        clients.start_soon(ask)
        await until(lambda: b"world" in received[0])
        await wait_all_tasks_blocked(0.05)
        mock_clock.jump(STALLED)
    assert b"upstream_cut" in received[0] and DONE not in received[0]
    assert fleet.asked() == [1, 0, 0]


async def test_outage_is_answered_at_once_and_not_multiplied(
    nursery: trio.Nursery, home: Path, mock_clock: MockClock
) -> None:
    fleet = await start(nursery, home, mock_clock)
    for server in fleet.servers:
        server.default = refusal(503)
    mock_clock.autojump_threshold = 0.01  # for the pauses before the servers are ejected
    await fleet.ask(20)
    mock_clock.autojump_threshold = math.inf
    assert {name for name, _ in fleet.ejected()} == set(NAMES)
    before, requests = sum(fleet.asked()), 100
    for answer in await fleet.ask(requests):
        assert answer.status_code == 503
        assert 0 < int(answer.headers["retry-after"]) <= EJECTED
    assert sum(fleet.asked()) - before <= 1.2 * requests + MOST
    rows = fleet.gateway.rows()
    assert len(rows) == 20 + requests
    assert max(row["duration_ms"] for row in rows[20:]) <= 50, "no request waits"


@pytest.mark.parametrize("tokens", [10, 40])
async def test_cut_stream_is_not_repeated_and_charged_once(
    nursery: trio.Nursery, home: Path, mock_clock: MockClock, tokens: int
) -> None:
    fleet = await start(nursery, home, mock_clock, recovery="error")
    text = [f"word{number} " for number in range(tokens)]
    for server in fleet.servers:
        server.default = streamed(*text_chunks(text), chunk(usage=USAGE | {"completion_tokens": tokens}), Cut)
    (answer,) = await fleet.ask(1, STREAM)
    assert answer.status_code == 200
    assert answer.content.count(b"word") == tokens
    assert answer.content.count(b"upstream_cut") == 1 and b"[DONE]" not in answer.content
    assert sum(fleet.asked()) == 1
    (row,) = fleet.gateway.rows()
    assert (row["outcome"], row["attempts"], row["output_tokens"]) == ("cut", 1, tokens)
    assert row["cost_nano"] == (USAGE["prompt_tokens"] + tokens) * 1000


@pytest.mark.parametrize("place", ["http://169.254.169.254/latest/meta-data", "http://127.0.0.1:{port}/"])
async def test_redirect_of_a_server_is_not_followed(
    gateway: Gateway, models: ModelServer, second: ModelServer, place: str
) -> None:
    location = place.format(port=second.upstream.port)
    for status in (301, 302, 303, 307, 308):
        models.default = whole(b"", b"Location: " + location.encode(), status=b"%d Moved" % status)
        answer = await gateway.chat()
        assert (answer.status_code, code_of(answer)) == (502, "upstream_error")
        assert "location" not in answer.headers
    assert second.upstream.accepted == 0


async def test_cookie_of_a_server_reaches_no_client_and_no_later_request(
    gateway: Gateway, models: ModelServer
) -> None:
    models.default = whole(completion(), b"Set-Cookie: session=ada; Path=/", b"Set-Cookie2: a=b")
    _, other = await gateway.new_key()
    for key in (gateway.key, other, gateway.key):
        answer = await gateway.chat(key=key)
        assert answer.status_code == 200
        assert not {"set-cookie", "set-cookie2"} & set(answer.headers)
    assert [asked.header(b"cookie") for asked in models.asked] == [None] * 3


async def test_proxies_and_credentials_of_the_environment_are_not_used(
    nursery: trio.Nursery, home: Path, models: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = await nursery.start(raw_upstream.serve, _answer_all)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv(name.lower(), f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NETRC", str(home / ".netrc"))
    (home / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)])
    assert (await gateway.chat()).status_code == 200
    assert proxy.accepted == 0
    assert [asked.header(b"authorization") for asked in models.asked] == [None]


async def _answer_all(peer: Peer) -> None:
    await peer.request()
    await peer.answer(b"")
