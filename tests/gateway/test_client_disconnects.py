"""Client disconnects and stops of the gateway: upstream requests end, and usage is counted once."""

from collections.abc import Mapping
from pathlib import Path

import httpx
import msgspec
import pytest
import trio

from tests import gateways
from tests.fakes.model_server import DONE, USAGE, ModelServer, Pause, Stall, chunk, hang, streamed
from tests.gateway.limits.test_limits import Wall
from tests.gateways import ASK, STREAM, Gateway, entry, eventually

HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\nAuthorization: Bearer %b\r\n\r\n"
)


async def begin(gateway: Gateway, body: Mapping[str, object], key: str | None = None) -> trio.SocketStream:
    """Send a request by hand."""
    sent = httpx.Request("POST", gateway.url, json=body).content
    stream = await trio.open_tcp_stream("127.0.0.1", gateway.port)
    await stream.send_all(HEAD % (len(sent), (key or gateway.key).encode()) + sent)
    return stream


async def is_idle(gateway: Gateway) -> bool:
    return await gateway.metric("bluesminds_requests_running") == 0


async def until(stream: trio.SocketStream, words: bytes) -> bytes:
    """What arrives, up to these words."""
    seen = b""
    with trio.fail_after(60):
        while words not in seen:
            data = await stream.receive_some()
            assert data, seen
            seen += data
    return seen


@pytest.mark.parametrize(
    ("steps", "tokens", "source"),
    [
        ([chunk("one"), chunk("two")], 2, "estimated"),
        ([chunk("one", usage=USAGE), chunk("two")], 2, "upstream"),
    ],
)
async def test_client_disconnect_ends_upstream_request(
    patient: Gateway, models: ModelServer, steps: list[bytes], tokens: int, source: str
) -> None:
    gateway = patient  # which would keep the server at work for a minute
    models.plan(streamed(*steps, Stall))
    _, key = await gateway.new_key(limits={"concurrency": 1})
    stream = await begin(gateway, STREAM, key)
    await until(stream, b"two")
    assert (await gateway.chat(key=key)).json()["error"]["code"] == "concurrency_limit_exceeded"
    await stream.aclose()
    await eventually(lambda: models.left == 1)
    (row,) = await gateway.settled(1)
    assert (row["outcome"], row["status"]) == ("client_gone", 499)
    assert (row["output_tokens"], row["usage_source"]) == (tokens, source)
    assert (await gateway.chat(key=key)).status_code == 200
    assert len(await gateway.settled(2)) == 2


async def test_client_disconnect_before_first_byte_is_recorded(patient: Gateway, models: ModelServer) -> None:
    gateway = patient
    models.plan(hang)
    stream = await begin(gateway, ASK)
    await eventually(lambda: bool(models.asked))
    await stream.aclose()
    await eventually(lambda: models.left == 1)
    (row,) = await gateway.settled(1)
    assert (row["outcome"], row["status"], row["server"]) == ("client_gone", 499, "one")
    assert await gateway.metric("bluesminds_requests_running") == 0
    await eventually(gateway.holds_no_rows)  # a row is in the file a moment before it is no longer held
    assert gateway.events("request_failed") == []
    assert gateway.events("connection_failed") == []


async def test_repeated_client_disconnects_use_up_limit(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)], clock=Wall())
    body = ASK | {"max_tokens": 1}
    prompt = -(-sum(len(msgspec.json.encode(value)) for value in body.values()) // 4)
    _, key = await gateway.new_key(limits={"tokens_per_day": 3 * prompt + 5})
    models.plan(hang, hang, hang)
    for serial in range(3):
        stream = await begin(gateway, body, key)
        await eventually(lambda asked=serial + 1: len(models.asked) == asked)
        await stream.aclose()
        await gateway.settled(serial + 1)
    used = [(row["input_tokens"], row["output_tokens"], row["usage_source"]) for row in gateway.rows()]
    assert used == [(prompt, 0, "estimated")] * 3
    refused = await gateway.chat(body, key=key)
    assert refused.json()["error"]["code"] == "daily_token_quota_exceeded"


async def test_many_that_leave_at_any_moment_leave_nothing_behind(
    gateway: Gateway, models: ModelServer
) -> None:
    _, key = await gateway.new_key(limits={"concurrency": 5})

    async def leave(seconds: float) -> None:
        stream = await begin(gateway, STREAM, key)
        await trio.sleep(seconds)
        await stream.aclose()

    models.plan(*[streamed(chunk("one"), Pause(0.02), chunk("two"), Pause(0.02), DONE)] * 40)
    for _ in range(8):
        async with trio.open_nursery() as nursery:
            for serial in range(5):
                nursery.start_soon(leave, serial * 0.012)
        await eventually(lambda: is_idle(gateway))
    answers = [await gateway.chat(key=key) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 6
    rows = await gateway.settled(6)
    assert len({row["id"] for row in rows}) == len(rows)
    assert {row["outcome"] for row in rows} <= {"ok", "client_gone"}
    assert await gateway.metric("bluesminds_usage_rows_held") == 0
    assert await gateway.metric("bluesminds_usage_rows_committed_total") == len(rows)


async def test_graceful_stop_lets_streams_finish(patient: Gateway, models: ModelServer) -> None:
    gateway = patient
    models.plan(*[streamed(chunk("one"), Pause(0.2), chunk("two"), DONE)] * 5)
    answers: list[bytes] = []

    async def ask() -> None:
        answers.append((await gateway.chat(STREAM)).content)

    with trio.fail_after(60):  # half of what a stop may take: it waits for the streams and not for the time
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
            await eventually(lambda: len(models.asked) == 5)
            await gateway.stop()
    assert answers == [chunk("one") + chunk("two") + DONE] * 5
    assert len(gateway.rows()) == 5
    with pytest.raises(httpx.ConnectError):
        await gateway.chat()


async def test_cancelled_gateway_still_records_usage(home: Path, models: ModelServer) -> None:
    models.plan(*[streamed(chunk("one"), Stall)] * 3, hang)
    async with trio.open_nursery() as life:
        gateway = await gateways.start(life, home, servers=[entry("one", models.url)])
        streams = [await begin(gateway, STREAM) for _ in range(3)]
        for stream in streams:
            await until(stream, b"one")
        streams.append(await begin(gateway, ASK))
        await eventually(lambda: len(models.asked) == 4)
        life.cancel_scope.cancel()
    for stream in streams:
        await stream.aclose()
    rows = gateway.rows()
    assert [(row["outcome"], row["status"]) for row in rows] == [("interrupted", 499)] * 4
    assert [row["output_tokens"] for row in rows] == [1, 1, 1, None]
    assert gateway.events("usage_row_unrecorded") == []


async def test_drain_timeout_cuts_streams_and_records_usage(
    patient_with_short_drain: Gateway, models: ModelServer
) -> None:
    gateway = patient_with_short_drain
    models.plan(streamed(chunk("one"), Stall))
    stream = await begin(gateway, STREAM)
    await until(stream, b"one")
    with trio.fail_after(60):
        await gateway.stop()
    await stream.aclose()
    (row,) = gateway.rows()
    assert (row["outcome"], row["status"], row["output_tokens"]) == ("interrupted", 499, 1)
