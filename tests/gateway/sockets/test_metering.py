"""Usage and limits of Realtime sessions: each response is reserved, and is a usage row."""

from pathlib import Path
from typing import Any

import pytest
import trio

from tests.fakes import socket_upstream
from tests.fakes.realtime_server import USAGE, created, delta, done
from tests.fakes.socket_upstream import ServerSocket, SocketUpstream
from tests.gateway.cases import Since
from tests.gateway.sockets.conftest import CREATE, Session, opened, session, start
from tests.gateways import Gateway, eventually

PRICE = {
    "model": "m",
    "input_usd": "10",
    "cached_input_usd": "1",
    "output_usd": "100",
    "max_output_tokens": 50,
}


async def ask(client: Session, **event: Any) -> None:
    await client.say(CREATE | event)
    await client.hear_until("response.done")


async def make(client: Session, *events: dict[str, Any]) -> None:
    """Let the server send these events, and receive them."""
    await client.say({"type": "test.send", "events": events})
    for event in events:
        assert await client.hear() == event


def counts(row: dict[str, Any]) -> tuple[Any, ...]:
    return (row["input_tokens"], row["cache_read_tokens"], row["output_tokens"], row["usage_source"])


# Usage


async def test_session_each_response_is_a_usage_row(
    nursery: trio.Nursery, home: Path, realtime: SocketUpstream
) -> None:
    gateway = await start(nursery, home, realtime, prices=[PRICE])
    async with opened(gateway, headers=[("X-Request-Id", "mine")]) as client:
        await ask(client)
        usage = {"input_tokens": 100, "output_tokens": 1, "total_tokens": 101}
        await make(client, created("r2"), done("r2", usage))
        await ask(client)
    rows = await gateway.settled(3)
    assert [counts(row) for row in rows] == [
        (20, 4, 10, "upstream"),
        (100, None, 1, "upstream"),
        (20, 4, 10, "upstream"),
    ]
    assert [row["cost_nano"] for row in rows] == [1_164_000, 1_100_000, 1_164_000]
    assert len({row["id"] for row in rows}) == 3
    for row in rows:
        assert (row["endpoint"], row["model"], row["server"]) == ("realtime", "m", "server-0")
        assert (row["status"], row["outcome"], row["streamed"], row["attempts"]) == (200, "ok", 1, 1)
        assert (row["request_id"], row["day"]) == ("mine", rows[0]["day"])
        assert row["first_byte_ms"] <= row["duration_ms"]
    assert await gateway.metric("bluesminds_tokens_total", kind="input", model="m") == 140
    assert [line["request_id"] for line in gateway.events("request")] == ["mine"] * 3
    assert await gateway.metric("bluesminds_requests_running") == 0
    assert await gateway.holds_no_rows()


USAGES: list[tuple[Any, tuple[Any, ...]]] = [
    (None, (0, None, 100, "estimated")),
    ({}, (0, None, 100, "estimated")),
    ({"input_tokens": 7}, (7, None, 100, "estimated")),
    ({"input_tokens": -7, "output_tokens": 3}, (0, None, 100, "estimated")),
    ({"input_tokens": 7, "output_tokens": 1}, (7, None, 1, "upstream")),
    ("no", (0, None, 100, "estimated")),
]


async def test_session_response_without_a_usable_report_is_estimated(
    gateway: Gateway, subtests: pytest.Subtests
) -> None:
    for usage, expected in USAGES:
        with subtests.test(repr(usage)):
            since = Since(gateway)
            async with opened(gateway) as client:
                await make(client, created("r1"), delta("r1", "x" * 398), done("r1", usage))
            (row,) = await since.settled(1)
            assert counts(row) == expected
            implausible = (
                usage is not None and usage != {} and "output_tokens" in usage and usage["input_tokens"] < 0
            )
            assert bool(since.events("usage_implausible")) == (implausible or usage == "no")


async def test_session_estimate_counts_what_the_client_sent_and_audio(gateway: Gateway) -> None:
    async with opened(gateway) as client:
        await client.say({"type": "conversation.item.create", "item": {"content": "x" * 385}})
        await client.say({"type": "input_audio_buffer.append", "audio": "A" * 6398})
        audio = {"type": "response.output_audio.delta", "response_id": "r1", "delta": "A" * 9598}
        await make(client, created("r1"), audio, done("r1", None))
        await make(client, created("r2"), done("r2", None))
    first, second = await gateway.settled(2)
    assert counts(first) == (101, None, 3, "estimated")
    assert counts(second) == (104, None, 0, "estimated")


OUTCOMES: list[tuple[str | None, int, str]] = [
    ("failed", 502, "upstream_error"),
    ("cancelled", 200, "ok"),
    ("incomplete", 200, "ok"),
    (None, 200, "ok"),
]


async def test_session_response_that_did_not_complete_has_its_outcome(
    gateway: Gateway, subtests: pytest.Subtests
) -> None:
    for status, row_status, outcome in OUTCOMES:
        with subtests.test(str(status)):
            since = Since(gateway)
            async with opened(gateway) as client:
                await make(client, created("r1"), done("r1", USAGE, status))
            (row,) = await since.settled(1)
            assert (row["status"], row["outcome"], row["input_tokens"]) == (row_status, outcome, 20)


async def test_session_response_that_is_reported_twice_counts_once(gateway: Gateway) -> None:
    async with opened(gateway) as client:
        events = [created("r1"), created("r1"), done("r1"), done("r1"), created("r1"), done("")]
        await make(client, *events, created("r2"), done("r2"))
    assert len(await gateway.settled(3)) == 3
    assert [counts(row)[0] for row in gateway.rows()] == [20, 20, 20]


async def test_session_responses_without_ids_are_counted_one_by_one(gateway: Gateway) -> None:
    async with opened(gateway) as client:
        await make(client, created(""), delta(""), done(""), created(""), done("", {"input_tokens": 7}))
    rows = await gateway.settled(2)
    assert [(row["outcome"], row["input_tokens"]) for row in rows] == [("ok", 20), ("ok", 7)]


async def test_session_response_that_the_server_does_not_announce_is_counted(gateway: Gateway) -> None:
    async with opened(gateway) as client:
        await make(client, done("r1"))
    rows = await gateway.settled(1)
    assert [counts(row) for row in rows if row["status"] == 200] == [(20, 4, 10, "upstream")]


async def test_session_responses_at_the_same_time_are_kept_apart(gateway: Gateway) -> None:
    async with opened(gateway) as client:
        usages = [{"input_tokens": n, "output_tokens": n, "total_tokens": 2 * n} for n in (1, 2)]
        begun = (created("r1"), created("r2"), delta("r2", "x" * 38), delta("r1", "x" * 78))
        await make(client, *begun, done("r2", usages[1]), done("r1", None))
    assert sorted(counts(row)[2] for row in await gateway.settled(2)) == [2, 20]


async def test_session_transcription_is_a_usage_row_of_its_model(
    nursery: trio.Nursery, home: Path, realtime: SocketUpstream
) -> None:
    gateway = await start(nursery, home, realtime, prices=[PRICE | {"model": "whisper"}])
    transcribed = {
        "type": "conversation.item.input_audio_transcription.completed",
        "transcript": "Hello",
        "usage": {"type": "tokens", "input_tokens": 14, "output_tokens": 3, "total_tokens": 17},
    }
    async with opened(gateway) as client:
        update = {"audio": {"input": {"transcription": {"model": "whisper"}}}}
        await client.say({"type": "session.update", "session": update})
        assert (await client.hear())["type"] == "session.updated"
        await make(client, transcribed, {**transcribed, "usage": {"type": "duration", "seconds": 3}})
        assert len(gateway.rows()) == 1
    rows = await gateway.settled(2)
    by_model = {row["model"]: row for row in rows}
    assert counts(by_model["whisper"]) == (14, None, 3, "upstream")
    assert by_model["whisper"]["cost_nano"] == 440_000
    assert (by_model["m"]["status"], by_model["m"]["input_tokens"]) == (101, None)


async def test_session_request_that_the_server_refuses_gives_its_reservation_back(
    nursery: trio.Nursery, home: Path
) -> None:
    async def script(socket: ServerSocket) -> None:
        await socket.send({"type": "session.created"})
        while True:
            event = await socket.receive()
            error = {"code": "conversation_already_has_active_response", "event_id": event.get("event_id")}
            await socket.send({"type": "error", "error": error})

    server: SocketUpstream = await nursery.start(socket_upstream.serve, script)
    gateway = await start(nursery, home, server)
    _, key = await gateway.new_key(limits={"tokens_per_day": 1000})
    async with opened(gateway, key=key) as client:
        for name in ("one", None, "three"):
            await client.say(CREATE | {"event_id": name})
            assert (await client.hear())["error"]["event_id"] == name
        await client.say({"type": "other", "event_id": "four"})
        await client.hear()
    rows = await gateway.settled(3)
    assert [(row["status"], row["outcome"], row["input_tokens"]) for row in rows] == [
        (400, "client_error", None)
    ] * 3


# Limits


async def test_session_counts_as_one_running_request(gateway: Gateway) -> None:
    _, key = await gateway.new_key(concurrency=1)
    async with opened(gateway, key=key) as client:
        assert await gateway.metric("bluesminds_requests_running") == 1
        async with session(gateway, key=key) as other:
            assert (other.status, other.error["code"]) == (429, "concurrency_limit_exceeded")
        assert (await gateway.chat(key=key)).status_code == 429
        for _ in range(3):
            await ask(client)
        await make(client, created("r4"), done("r4"))
        await client.close()
    await eventually(lambda: _opens(gateway, key))


async def _opens(gateway: Gateway, key: str) -> bool:
    async with session(gateway, key=key) as client:
        return client.status == 101


async def test_session_response_beyond_the_requests_per_minute_ends_it(
    gateway: Gateway, realtime: SocketUpstream
) -> None:
    _, key = await gateway.new_key(rpm=2)
    async with opened(gateway, key=key) as client:
        await ask(client)
        await ask(client)
        await client.say(CREATE)
        (event,), closed = await client.hear_closed()
    assert (event["error"]["code"], event["error"]["type"]) == ("rate_limit_exceeded", "rate_limit_error")
    assert (closed.code, closed.reason) == (1013, event["error"]["message"])
    await eventually(lambda: realtime.closed == [1000])
    assert [row["outcome"] for row in await gateway.settled(2)] == ["ok", "ok"]
    assert len(gateway.rows()) == 2


async def test_session_response_beyond_a_quota_ends_it_for_good(gateway: Gateway) -> None:
    _, key = await gateway.new_key(limits={"tokens_per_day": 600})
    async with opened(gateway, key=key) as client:
        await ask(client)
        usage = {"input_tokens": 300, "output_tokens": 1, "total_tokens": 301}
        await make(client, created("r2"), done("r2", usage))
        await client.say(CREATE)
        (event,), closed = await client.hear_closed()
    assert (event["error"]["code"], closed.code) == ("request_too_large_for_limit", 1008)
    async with session(gateway, key=key) as client:
        assert (client.status, client.error["code"]) == (429, "daily_token_quota_exceeded")


async def test_session_response_is_allowed_by_what_it_may_use(gateway: Gateway) -> None:
    _, key = await gateway.new_key(limits={"tokens_per_day": 600})
    async with opened(gateway, key=key) as client:
        await ask(client, response={"max_output_tokens": 500})
        await client.say({"type": "session.update", "session": {"max_output_tokens": 100}})
        await client.hear()
        for _ in range(4):
            await ask(client)
        await client.say(CREATE | {"response": {"max_output_tokens": "inf"}})
        (event,), closed = await client.hear_closed()
    assert (event["error"]["code"], closed.code) == ("daily_token_quota_exceeded", 1008)


async def test_session_first_response_larger_than_its_reservation_is_refused(
    gateway: Gateway, realtime: SocketUpstream
) -> None:
    _, key = await gateway.new_key(limits={"tokens_per_day": 600})
    async with opened(gateway, key=key) as client:
        await client.say(CREATE | {"response": {"max_output_tokens": 1000}})
        (event,), closed = await client.hear_closed()
    assert (event["error"]["code"], closed.code) == ("request_too_large_for_limit", 1008)
    (row,) = await gateway.settled(1)
    assert (row["status"], row["outcome"], row["input_tokens"]) == (429, "cut", None)
    async with opened(gateway, key=key) as client:  # nothing is held
        await ask(client)


async def test_session_response_of_the_server_that_the_limits_refuse_ends_it(
    gateway: Gateway, realtime: SocketUpstream
) -> None:
    _, key = await gateway.new_key(rpm=1)
    async with opened(gateway, key=key) as client:
        await make(client, created("r1"), done("r1"))
        await client.say({"type": "conversation.item.create", "item": {"content": "x" * 385}})
        await client.say({"type": "test.send", "events": [created("r2"), done("r2")]})
        (event,), closed = await client.hear_closed()
    assert (event["error"]["code"], closed.code) == ("rate_limit_exceeded", 1013)
    _, second = await gateway.settled(2)
    assert (second["status"], second["outcome"], second["usage_source"]) == (429, "cut", "estimated")
    assert second["input_tokens"] == 30 + 100
    assert await gateway.metric("bluesminds_requests_running") == 0


async def test_session_asks_for_too_many_responses_and_ends(nursery: trio.Nursery, home: Path) -> None:
    async def script(socket: ServerSocket) -> None:
        await socket.send({"type": "session.created"})
        while True:
            await socket.receive()

    server: SocketUpstream = await nursery.start(socket_upstream.serve, script)
    gateway = await start(nursery, home, server)
    async with opened(gateway) as client:
        for _ in range(33):
            await client.say(CREATE)
        (event,), closed = await client.hear_closed()
    assert (event["error"]["code"], closed.code) == ("too_many_responses", 1013)
    rows = await gateway.settled(32)
    assert {(row["status"], row["outcome"]) for row in rows} == {(429, "cut")}
    assert await gateway.metric("bluesminds_requests_running") == 0


async def test_session_budget_counts_the_cost_of_every_response(
    nursery: trio.Nursery, home: Path, realtime: SocketUpstream
) -> None:
    gateway = await start(nursery, home, realtime, prices=[PRICE])
    _, key = await gateway.new_key(limits={"usd_per_day": "0.0100"})
    async with opened(gateway, key=key) as client:  # a response may cost 0.0053 USD, and costs 0.001164
        for _ in range(5):
            await ask(client)
        await client.say(CREATE)
        (event,), closed = await client.hear_closed()
    assert (event["error"]["code"], closed.code) == ("daily_budget_exceeded", 1008)
    assert sum(row["cost_nano"] for row in await gateway.settled(5)) == 5 * 1_164_000


async def test_session_changed_limits_apply_to_its_next_response(gateway: Gateway) -> None:
    key_id, key = await gateway.new_key()
    async with opened(gateway, key=key) as client:
        await ask(client)
        async with gateway.operator() as operator:
            path = f"/api/admin/keys/{key_id}"
            assert (await operator.patch(path, json={"limits": {"rpm": 1}})).status_code == 200
        await trio.testing.wait_all_tasks_blocked(0.01)
        await client.say(CREATE)
        (event,), _ = await client.hear_closed()
    assert event["error"]["code"] == "rate_limit_exceeded"
