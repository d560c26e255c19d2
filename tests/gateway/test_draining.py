"""Streams that are read to the end after the client has disconnected, and servers with their own timeouts."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from tests import gateways
from tests.fakes import model_server
from tests.fakes.model_server import DONE, USAGE, ModelServer, Stall, chunk, hang, streamed
from tests.gateway.test_client_disconnects import begin, is_idle, until
from tests.gateways import ASK, STREAM, Gateway, entry, eventually

Start = Callable[..., Awaitable[Gateway]]


@pytest.fixture
async def models(nursery: trio.Nursery) -> ModelServer:
    server: ModelServer = await nursery.start(model_server.serve)
    return server


@pytest.fixture
def start(nursery: trio.Nursery, home: Path, models: ModelServer) -> Start:
    async def start(**server: Any) -> Gateway:
        upstream = {"first_byte_timeout": 600.0, "chunk_timeout": 600.0, "total_timeout": 600.0}
        servers = [entry("one", models.url, **server)]
        return await gateways.start(nursery, home, servers=servers, upstream=upstream)

    return start


async def leave_after(gateway: Gateway, words: bytes) -> None:
    """Begin a stream, and leave when these words have arrived. Returns when the gateway has noticed."""
    stream = await begin(gateway, STREAM)
    await until(stream, words)
    await stream.aclose()

    async def noticed() -> bool:
        return await gateway.metric("bluesminds_client_disconnects_total") == 1

    await eventually(noticed)


async def test_drained_stream_has_the_usage_of_the_server(start: Start, models: ModelServer) -> None:
    gateway = await start(on_disconnect="drain", max_concurrency=1)
    go_on = trio.Event()
    models.plan(streamed(chunk("one"), go_on, chunk("two"), chunk(finish="stop"), chunk(usage=USAGE), DONE))
    await leave_after(gateway, b"one")
    assert not await is_idle(gateway)
    assert gateway.rows() == []
    refused = await gateway.chat()
    assert refused.json()["error"]["code"] == "servers_busy"  # the stream holds its place
    go_on.set()
    (row, *_) = sorted(await gateway.settled(2), key=lambda row: str(row["outcome"]))
    assert (row["outcome"], row["status"], row["usage_source"]) == ("client_gone", 499, "upstream")
    assert (row["input_tokens"], row["output_tokens"]) == (11, 2)
    await eventually(lambda: is_idle(gateway))
    assert (await gateway.chat()).status_code == 200
    assert len(models.asked) == 2


async def test_drained_stream_that_stalls_is_left_after_its_seconds(
    start: Start, models: ModelServer
) -> None:
    gateway = await start(on_disconnect="drain", drain_seconds=0.2)
    models.plan(streamed(chunk("one"), Stall))
    await leave_after(gateway, b"one")
    (row,) = await gateway.settled(1)
    assert (row["outcome"], row["usage_source"], row["output_tokens"]) == ("client_gone", "estimated", 1)
    await eventually(lambda: models.left == 1)
    await eventually(lambda: is_idle(gateway))


async def test_drained_stream_ends_at_its_tokens(start: Start, models: ModelServer) -> None:
    gateway = await start(on_disconnect="drain", drain_tokens=3)
    go_on = trio.Event()
    more = [chunk(f"word{number} ") for number in range(10)]
    models.plan(streamed(chunk("one"), go_on, *more, Stall))
    await leave_after(gateway, b"one")
    go_on.set()
    (row,) = await gateway.settled(1)
    assert (row["outcome"], row["usage_source"]) == ("client_gone", "estimated")
    assert row["output_tokens"] >= 4
    await eventually(lambda: is_idle(gateway))


async def test_drain_is_cut_when_the_gateway_stops(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    servers = [entry("one", models.url, on_disconnect="drain")]
    gateway = await gateways.start(nursery, home, servers=servers, server={"drain_timeout": 0.2})
    models.plan(streamed(chunk("one"), Stall))
    await leave_after(gateway, b"one")
    await gateway.stop()
    (row,) = gateway.rows()
    assert (row["outcome"], row["output_tokens"]) == ("client_gone", 1)
    await eventually(lambda: models.left == 1)


async def test_broken_drained_stream_is_settled_once(start: Start, models: ModelServer) -> None:
    gateway = await start(on_disconnect="drain")
    go_on = trio.Event()
    models.plan(streamed(chunk("one"), go_on, chunk("two"), model_server.Cut))
    await leave_after(gateway, b"one")
    go_on.set()
    (row,) = await gateway.settled(1)
    assert (row["outcome"], row["usage_source"]) == ("client_gone", "estimated")
    await eventually(gateway.holds_no_rows)
    assert len(gateway.rows()) == 1


@pytest.mark.parametrize("body", [ASK, STREAM])
async def test_total_timeout_of_a_server_ends_an_attempt(
    start: Start, models: ModelServer, body: dict[str, Any]
) -> None:
    gateway = await start(total_timeout=0.2)
    models.plan(hang)
    answer = await gateway.chat(body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")


@pytest.mark.parametrize("setting", ["total_timeout", "chunk_timeout"])
async def test_timeout_of_a_server_ends_a_stream(
    start: Start, models: ModelServer, mock_clock: MockClock, setting: str
) -> None:
    mock_clock.rate = 1
    gateway = await start(**{setting: 300.0})
    models.plan(streamed(chunk("one"), Stall))
    stream = await begin(gateway, STREAM)
    await until(stream, b"one")
    mock_clock.jump(301)
    seen = await until(stream, b"upstream_cut")
    await stream.aclose()
    assert b"[DONE]" not in seen
    (row,) = await gateway.settled(1)
    assert row["outcome"] == "cut"


async def test_options_of_a_server_are_changed_one_by_one(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await gateways.start(nursery, home, servers=[])
    path = "/api/admin/servers"
    async with gateway.operator() as client:
        body = {"name": "one", "url": models.url, "models": ["m"], "chunk_timeout": 5, "drain_tokens": 7}
        added = (await client.post(path, json=body)).json()
        assert (added["chunk_timeout"], added["on_disconnect"], added["drain_tokens"]) == (5, "cancel", 7)
        changes = {"on_disconnect": "drain", "drain_seconds": 9, "chunk_timeout": None}
        changed = (await client.patch(f"{path}/one", json=changes)).json()
        wrong = await client.patch(f"{path}/one", json={"total_timeout": 0})
        listed = (await client.get(path)).json()["data"][0]
    assert msgspec.json.encode(changed) and wrong.status_code == 400
    for view in (changed, listed):
        assert (view["chunk_timeout"], view["on_disconnect"]) == (None, "drain")
        assert (view["drain_seconds"], view["drain_tokens"]) == (9, 7)
