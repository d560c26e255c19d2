"""Silent streams have pings that clients ignore."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

from tests import gateways
from tests.fakes.model_server import DONE, USAGE, ModelServer, chunk, streamed, text_chunks
from tests.gateway.cases import Since
from tests.gateway.test_client_disconnects import begin, is_idle, until
from tests.gateways import STREAM, Gateway, entry, eventually

COMMENT = b": ping\n\n"
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
MESSAGES = STREAM | {"max_tokens": 50}
GENERATE = {"contents": [{"role": "user", "parts": [{"text": "Say hello."}]}]}
Start = Callable[..., Awaitable[Gateway]]


@pytest.fixture
def start(nursery: trio.Nursery, home: Path, models: ModelServer) -> Start:
    async def start(seconds: float, **sections: object) -> Gateway:
        upstream = {"keep_alive_interval": seconds, "chunk_timeout": 6000.0, "total_timeout": 6000.0}
        return await gateways.start(
            nursery, home, servers=[entry("one", models.url)], upstream=upstream, **sections
        )

    return start


def answer(go_on: trio.Event) -> list[object]:
    first, second = text_chunks()
    return [first, go_on, second, chunk(finish="stop"), chunk(usage=USAGE), DONE]


async def read_with_ping(
    gateway: Gateway, path: str, body: dict[str, object], go_on: trio.Event, ping: bytes
) -> bytes:
    """The whole stream; the server continues after the client has a ping."""
    async with (
        gateway.client(timeout=None) as client,
        client.stream("POST", path, json=body) as response,
    ):
        found = b""
        async for data in response.aiter_raw():
            found += data
            if ping in found:
                go_on.set()
        return found


FORMATS: list[tuple[str, dict[str, Any], bytes, bytes]] = [
    ("/v1/chat/completions", STREAM, COMMENT, DONE),
    ("/v1/messages", MESSAGES, PING, b"message_stop"),
    ("/v1/responses", {"model": "m", "input": "Hi.", "stream": True}, COMMENT, b"response.completed"),
]


async def test_silent_stream_gets_the_ping_of_its_format(
    start: Start, models: ModelServer, subtests: pytest.Subtests
) -> None:
    gateway = await start(0.05)
    for path, body, ping, end in FORMATS:
        with subtests.test(path):
            since = Since(gateway)
            go_on = trio.Event()
            models.plan(streamed(*answer(go_on)))
            found = await read_with_ping(gateway, path, body, go_on, ping)
            before, _, after = found.partition(ping)
            assert before.endswith(b"\n\n") and b"Hello" in before and b"world" in after and end in after
            (row,) = await since.settled(1)
            assert (row["outcome"], row["output_tokens"]) == ("ok", USAGE["completion_tokens"])


async def test_stream_of_geminis_format_gets_no_ping(start: Start, models: ModelServer) -> None:
    gateway = await start(0.001)
    models.plan(streamed(*text_chunks(), chunk(finish="stop"), chunk(usage=USAGE), DONE))
    async with gateway.client() as client:
        response = await client.post("/v1beta/models/m:streamGenerateContent?alt=sse", json=GENERATE)
    assert response.status_code == 200 and b"ping" not in response.content


async def test_interval_of_zero_sends_no_ping(
    start: Start, models: ModelServer, mock_clock: MockClock
) -> None:
    mock_clock.rate = 1
    gateway = await start(0)
    go_on = trio.Event()
    models.plan(streamed(*answer(go_on)))
    stream = await begin(gateway, STREAM)
    await until(stream, b"Hello")
    mock_clock.jump(1000)
    go_on.set()
    found = await until(stream, b"[DONE]")
    assert COMMENT not in found
    await stream.aclose()


async def test_client_that_leaves_a_silent_stream_is_noticed_once(start: Start, models: ModelServer) -> None:
    gateway = await start(0.01)
    models.plan(streamed(text_chunks()[0], trio.Event()))
    stream = await begin(gateway, STREAM)
    await until(stream, COMMENT)
    await stream.aclose()
    (row,) = await gateway.settled(1)
    assert row["outcome"] == "client_gone"
    await eventually(lambda: is_idle(gateway))
    assert gateway.events("background_task_failed") == []


async def test_cached_answer_has_no_pings(start: Start, models: ModelServer) -> None:
    gateway = await start(0.05, cache={"enabled": True})
    go_on = trio.Event()
    models.plan(streamed(*answer(go_on)))
    first = await read_with_ping(gateway, "/v1/chat/completions", STREAM, go_on, COMMENT)
    second: httpx.Response = await gateway.chat(STREAM)
    assert second.headers["x-bluesminds-cache"] == "hit"
    assert first.replace(COMMENT, b"") == second.content
