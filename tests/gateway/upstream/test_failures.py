"""Which failures eject a server, and which actions of a client must not."""

import random
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests import gateways
from tests.fakes.model_server import (
    DONE,
    Cut,
    Fin,
    ModelServer,
    Pause,
    Plan,
    Stall,
    chunk,
    completion,
    error,
    hang,
    refusal,
    streamed,
    whole,
)
from tests.gateway.cases import own_servers
from tests.gateway.test_client_disconnects import begin, until
from tests.gateways import ASK, IMPATIENT, STREAM, Gateway, entry, eventually

TOUCHY = {"eject_after": 2, "eject_seconds": 60.0}
BROKEN = b"data: " + error("out of memory") + b"\n\n"
WRONG_TOOL = b"data: " + error("tool_use_failed", type="invalid_request_error") + b"\n\n"


@pytest.fixture
async def touchy(nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer) -> Gateway:
    """Leaves `models` out after two failures in a row; `second` answers then."""
    servers = [entry("first", models.url, priority=0), entry("second", second.url, priority=1)]
    return await gateways.start(nursery, home, servers=servers, upstream=TOUCHY | IMPATIENT)


async def asked_last(gateway: Gateway) -> str:
    return str((await gateway.chat()).headers["x-bluesminds-server"])


async def test_failing_server_is_ejected_and_returns(
    nursery: trio.Nursery,
    home: Path,
    models: ModelServer,
    second: ModelServer,
    mock_clock: MockClock,
) -> None:
    mock_clock.rate = 1.0
    servers = [entry("first", models.url, priority=0), entry("second", second.url, priority=1)]
    upstream = {"eject_after": 2, "eject_seconds": 3600.0}
    gateway = await gateways.start(nursery, home, servers=servers, upstream=upstream)
    models.plan(refusal(500), refusal(500))
    assert [await asked_last(gateway) for _ in range(4)] == ["second"] * 4
    mock_clock.jump(1800)
    assert await asked_last(gateway) == "second"
    assert len(models.asked) == 2
    mock_clock.jump(1801)
    assert await asked_last(gateway) == "first"


BROKEN_STREAMS: dict[str, tuple[Any, str]] = {
    "reset": (Cut, "UpstreamCut"),
    "closed": (Fin, "UpstreamCut"),
    "silent": (Stall, "ChunkTimeout"),
    "error": (BROKEN, "error_in_stream"),
}


async def test_server_that_cuts_streams_is_ejected(
    nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer, subtests: pytest.Subtests
) -> None:
    servers = own_servers(len(BROKEN_STREAMS), models.url, second.url)
    servers[2 * list(BROKEN_STREAMS).index("silent")]["chunk_timeout"] = 1.0
    gateway = await gateways.start(nursery, home, servers=servers, upstream=TOUCHY)
    for number, (name, (end, outcome)) in enumerate(BROKEN_STREAMS.items()):
        with subtests.test(name):
            model = {"model": f"m{number}"}
            for _ in range(2):
                models.plan(streamed(chunk("one"), Pause(0.05), end))
                assert b'"error"' in (await gateway.chat(STREAM | model)).content
            answer = await gateway.chat(ASK | model)
            assert answer.headers["x-bluesminds-server"] == f"m{number}-1"
            labels = {"server": f"m{number}-0", "outcome": outcome}
            assert await gateway.metric("bluesminds_upstream_attempts_total", **labels) == 2


async def test_complete_stream_resets_failures_of_server(touchy: Gateway, models: ModelServer) -> None:
    cut = streamed(chunk("one"), Pause(0.05), Cut)
    models.plan(cut, streamed(chunk("one"), DONE), cut)
    for _ in range(3):
        await touchy.chat(STREAM)
    assert await asked_last(touchy) == "first"


FAULTS_OF_THE_CLIENT: list[tuple[Plan, dict[str, Any]]] = [
    (refusal(400, b"x" * 200_000), ASK),
    (refusal(400, b"x" * 2_000_000), ASK),
    (refusal(403, error("flagged", code=403)), ASK),
    (refusal(403, b"<html>blocked"), ASK),
    (refusal(408), ASK),
    (whole(error("bad prompt", code=400)), ASK),
    (streamed(b"data: " + error("bad prompt", code=400) + b"\n\n"), STREAM),
    (streamed(chunk("one"), WRONG_TOOL), STREAM),
]


async def test_no_request_can_get_a_server_left_out(
    nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer, subtests: pytest.Subtests
) -> None:
    servers = own_servers(len(FAULTS_OF_THE_CLIENT), models.url, second.url)
    gateway = await gateways.start(nursery, home, servers=servers, upstream=TOUCHY)
    for number, (plan, body) in enumerate(FAULTS_OF_THE_CLIENT):
        with subtests.test(str(number)):
            model = {"model": f"m{number}"}
            models.asked.clear()
            for _ in range(3):
                models.plan(plan)
                await gateway.chat(body | model)
            assert len(models.asked) == 3
            answer = await gateway.chat(ASK | model)
            assert answer.headers["x-bluesminds-server"] == f"m{number}-0"


async def test_client_disconnect_ejects_no_server(touchy: Gateway, models: ModelServer) -> None:
    for number in range(3):
        models.plan(streamed(chunk("one"), Stall))
        stream = await begin(touchy, STREAM)
        await until(stream, b"one")
        await stream.aclose()
        await eventually(lambda seen=number + 1: models.left == seen)  # type: ignore[misc]
    assert await asked_last(touchy) == "first"


async def test_long_error_body_is_shortened(gateway: Gateway, models: ModelServer) -> None:
    quoting = error("x" * 200_000)
    models.plan(refusal(400, quoting), refusal(422, b"y" * 2_000_000))
    assert (await gateway.chat()).content == quoting
    answer = await gateway.chat()
    assert (answer.status_code, len(models.asked)) == (422, 2)
    message = answer.json()["error"]["message"]
    assert "and a very long message" in message
    assert "y" * 400 in message
    assert len(message) < 700


async def test_json_response_after_first_byte_timeout_is_accepted(
    pair: Gateway, models: ModelServer, second: ModelServer
) -> None:
    async def late(server: ModelServer, peer: Any, asked: Any) -> None:
        await trio.sleep(1.4)
        await whole(completion("thought about"))(server, peer, asked)

    models.plan(late)
    assert (await pair.chat()).content == completion("thought about")
    assert second.asked == []


async def test_response_that_never_arrives_is_requested_once(
    nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer
) -> None:
    servers = [entry("first", models.url, priority=0), entry("second", second.url, priority=1)]
    upstream = TOUCHY | IMPATIENT | {"total_timeout": 4.0}
    gateway = await gateways.start(nursery, home, servers=servers, upstream=upstream)
    models.plan(hang, hang)

    async def ask() -> None:
        answer = await gateway.chat()
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")

    async with trio.open_nursery() as clients:
        clients.start_soon(ask)
        clients.start_soon(ask)
    assert second.asked == []
    assert await asked_last(gateway) == "second"


async def test_server_without_model_list_is_kept(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    models.list_status = b"404 Not Found"
    upstream = {"eject_after": 1, "eject_seconds": 60.0, "probe_interval": 0.05, "probe_timeout": 30.0}
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)], upstream=upstream)
    await eventually(lambda: len(models.upstream.requests) > 3)
    assert await gateway.is_ready()


async def test_random_choice_uses_own_generator(
    nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer
) -> None:
    """A seed of the process-wide generator must not choose the servers, and must not show their order."""
    upstream = {"probe_interval": 0.05}
    servers = [entry("first", models.url), entry("second", second.url)]
    before = random.getstate()
    gateway = await gateways.start(nursery, home, servers=servers, upstream=upstream)
    await eventually(lambda: len(models.upstream.requests) > 3)
    assert (await gateway.chat()).status_code == 200
    assert random.getstate() == before


async def test_probing_leaves_a_dead_server_out_until_it_is_back(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    upstream = {"eject_after": 2, "eject_seconds": 60.0, "probe_interval": 0.1}
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)], upstream=upstream)
    models.list_status = b"503 Starting"

    async def is_out() -> bool:
        return not await gateway.is_ready()

    await eventually(is_out)
    models.list_status = b"200 OK"
    await eventually(gateway.is_ready)


async def test_answering_probes_does_not_excuse_failing(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    upstream = {"eject_after": 1, "eject_seconds": 60.0, "probe_interval": 0.05, "attempts": 1}
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)], upstream=upstream)
    models.plan(refusal(500))
    await gateway.chat()
    probes = len(models.upstream.requests)
    await eventually(lambda: len(models.upstream.requests) > probes + 3)
    assert not await gateway.is_ready()
