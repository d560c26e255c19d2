"""What a Realtime session may ask for, and every way in which it ends."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.fakes import socket_upstream
from tests.fakes.realtime_server import created, delta, done
from tests.fakes.socket_upstream import ServerSocket, SocketUpstream
from tests.gateway.cases import Since
from tests.gateway.limits.test_limits import Wall
from tests.gateway.sockets.conftest import CREATE, KEY, opened, session, start
from tests.gateways import Gateway, eventually
from tests.http.sockets import Closed, frame
from tests.storage.locks import exclusive

CUT = "upstream_cut"


def events_of(realtime: SocketUpstream) -> list[Any]:
    """What the server has received in its only session."""
    (socket,) = realtime.sockets
    return socket.received


async def talking(
    nursery: trio.Nursery, home: Path, script: socket_upstream.Script, **sections: Any
) -> Gateway:
    """A gateway in front of a server with this script."""
    return await start(nursery, home, await nursery.start(socket_upstream.serve, script), **sections)


# Models


async def test_session_update_to_another_model_is_refused_and_the_session_goes_on(
    gateway: Gateway, realtime: SocketUpstream
) -> None:
    async with opened(gateway) as client:
        for session_ in (
            {"model": "other"},
            {"model": 1},
            {"Model": "m"},
            {"type": "realtime", "MODEL": "x"},
        ):
            await client.say({"type": "session.update", "event_id": "mine", "session": session_})
            refused = await client.hear()
            assert refused["type"] == "error"
            assert refused["event_id"].startswith("event_")
            assert refused["error"]["type"] == "invalid_request_error"
            assert refused["error"]["event_id"] == "mine"
        await client.say({"type": "session.update", "session": {"model": "m"}})
        assert (await client.hear())["type"] == "session.updated"
        assert events_of(realtime) == [{"type": "session.update", "session": {"model": "m"}}]


REPEATED_KEYS: list[tuple[str, Any]] = [
    (
        '{"type":"session.update","session":{"model":"other"},"session":{"model":"m"}}',
        {"type": "session.update", "session": {"model": "m"}},
    ),
    (
        '{"type":"session.update","session":{"model":"other","model":"m"}}',
        {"type": "session.update", "session": {"model": "m"}},
    ),
    (
        '{"type":"session.update","type":"session.updat\\u0065","session":{"mod\\u0065l":"m"}}',
        {"type": "session.update", "session": {"model": "m"}},
    ),
    ('{"type":"x","a":1,"a":2}', {"type": "x", "a": 2}),
]


async def test_session_event_with_a_repeated_key_reaches_the_server_with_the_last(
    gateway: Gateway, realtime: SocketUpstream, subtests: pytest.Subtests
) -> None:
    for text, received in REPEATED_KEYS:
        with subtests.test(text):
            await eventually(lambda: not realtime.sockets)
            async with opened(gateway) as client:
                await client.send(text)
                await client.say({"type": "test.send", "events": [{"type": "ready"}]})
                await client.hear_until("ready")
                assert events_of(realtime)[0] == received


TRANSCRIPTIONS: list[Any] = [
    {"audio": {"input": {"transcription": {"model": "whisper"}}}},
    {"input_audio_transcription": {"model": "whisper"}},
    {"audio": {"input": {"Transcription": [{"MODEL": "whisper"}]}}},
]


async def test_session_transcription_model_that_the_key_may_not_use_is_refused(
    gateway: Gateway, realtime: SocketUpstream, subtests: pytest.Subtests
) -> None:
    _, key = await gateway.new_key(allowed_models=["m", "gpt-transcribe"])
    for session_ in TRANSCRIPTIONS:
        with subtests.test(json.dumps(session_)):
            await eventually(lambda: not realtime.sockets)
            async with opened(gateway, key=key) as client:
                await client.say({"type": "session.update", "session": session_})
                refused = await client.hear()
                assert refused["error"]["code"] == "model_not_allowed"
                allowed = {"audio": {"input": {"transcription": {"model": "gpt-transcribe"}}}}
                others = {"tools": [{"name": "f", "model": "x"}], "metadata": {"model": "y"}}
                await client.say({"type": "session.update", "session": allowed | others})
                assert (await client.hear())["type"] == "session.updated"
                await client.say(CREATE | {"response": {"model": "other"}})
                assert (await client.hear())["error"]["code"] == "model_not_allowed"
                assert len(events_of(realtime)) == 1
            async with opened(gateway) as client:
                await client.say({"type": "session.update", "session": session_})
                assert (await client.hear())["type"] == "session.updated"


UNREADABLE = [
    "",
    "no",
    "[]",
    '"x"',
    "{",
    '{"type":1}',
    "{}",
    '{"type":"session.update","session":1}',
    "\0",
    "{}{}",
]


async def test_session_event_that_cannot_be_read_is_an_error_event(
    gateway: Gateway, realtime: SocketUpstream, subtests: pytest.Subtests
) -> None:
    for text in UNREADABLE:
        with subtests.test(repr(text)):
            await eventually(lambda: not realtime.sockets)
            async with opened(gateway) as client:
                await client.send(text)
                assert (await client.hear())["error"]["code"] in ("invalid_json", "invalid_value")
                await client.say({"type": "other", "event_id": 5})
                assert (await client.hear())["error"]["param"] == "event_id"
                await client.say(CREATE)
                await client.hear_until("response.done")
                assert events_of(realtime) == [CREATE]


async def test_session_binary_message_of_the_client_ends_it(
    gateway: Gateway, realtime: SocketUpstream
) -> None:
    async with opened(gateway) as client:
        await client.send(b'{"type":"session.update","session":{"model":"other"}}')
        (refused,), closed = await client.hear_closed()
        assert (refused["error"]["code"], closed.code) == ("invalid_json", 1003)
    await eventually(lambda: realtime.closed == [1000])
    (row,) = await gateway.settled(1)
    assert (row["status"], row["outcome"]) == (400, "client_error")


# The client ends it


async def test_session_closed_by_the_client_closes_the_server(
    gateway: Gateway, realtime: SocketUpstream
) -> None:
    async with opened(gateway) as client:
        assert await gateway.metric("bluesminds_sessions_open") == 1
        assert await client.close(4001, "x") == Closed(4001, "x")
    await eventually(lambda: realtime.closed == [1000])
    (row,) = await gateway.settled(1)
    assert (row["status"], row["outcome"], row["input_tokens"], row["usage_source"]) == (
        101,
        "ok",
        None,
        "none",
    )
    await eventually(lambda: len(gateway.events("session_closed")) == 1)
    (line,) = gateway.events("session_closed")
    assert (line["code"], line["error"], line["server"], line["model"]) == (4001, None, "server-0", "m")
    assert await gateway.metric("bluesminds_sessions_open") == 0
    assert await gateway.metric("bluesminds_requests_running") == 0


@pytest.mark.parametrize("half", [False, True])
async def test_session_of_a_client_that_has_left_closes_the_server(
    gateway: Gateway, realtime: SocketUpstream, half: bool
) -> None:
    async with opened(gateway) as client:
        await client.say({"type": "test.send", "events": [created("r1"), delta("r1", "x" * 400)]})
        await client.hear_types(2)
        if half:
            assert isinstance(client.stream, trio.SocketStream)
            await client.stream.send_eof()
            await client.receive_closed()
    await eventually(lambda: realtime.closed == [1001])
    (row,) = await gateway.settled(1)
    assert (row["status"], row["outcome"], row["usage_source"]) == (499, "client_gone", "estimated")
    assert row["output_tokens"] == 101
    assert (
        await gateway.metric("bluesminds_upstream_attempts_total", server="server-0", outcome="answered") == 1
    )


BROKEN_RULES = [
    ("too large", frame(b"x" * 5000), 1009),
    ("not UTF-8", frame(b"\xff"), 1007),
    ("compressed", frame(b"x", rsv=4), 1002),
    ("pings", frame(b"", 9) * 200, 1008),
]


async def test_session_of_a_client_that_breaks_a_rule_is_closed_with_its_code(
    nursery: trio.Nursery, home: Path, realtime: SocketUpstream, subtests: pytest.Subtests
) -> None:
    gateway = await start(nursery, home, realtime, websocket={"max_message_bytes": 4096})
    for name, data, code in BROKEN_RULES:
        with subtests.test(name):
            since = Since(gateway)
            realtime.closed.clear()
            async with opened(gateway) as client:
                await client.send_raw(data)
                assert (await client.receive_closed()).code == code
            await eventually(lambda: realtime.closed == [1000])
            assert (await since.settled(1))[0]["outcome"] == "client_error"


async def test_session_message_without_memory_left_ends_it(
    nursery: trio.Nursery, home: Path, realtime: SocketUpstream
) -> None:
    limits = {"server": {"max_buffered_bytes": 10_000}, "websocket": {"max_message_bytes": 10_000}}
    gateway = await start(nursery, home, realtime, **limits)
    async with opened(gateway) as first, opened(gateway) as client:
        await first.send_raw(frame(b'{"type":"' + b"x" * 6000, fin=False))
        await eventually(lambda: _holds(gateway, 6000))
        await client.say({"type": "y" * 5000})
        (refused,), closed = await client.hear_closed()
        assert (refused["error"]["code"], closed.code) == ("body_memory_exhausted", 1013)
        await first.send_raw(frame(b'"}', 0))
        await first.say({"type": "test.send", "events": [{"type": "ready"}]})
        await first.hear_until("ready")
        await eventually(lambda: _holds(gateway, 0))


async def _holds(gateway: Gateway, size: int) -> bool:
    held = await gateway.metric("bluesminds_body_bytes_held")
    return held >= size if size else not held


async def test_session_with_a_slow_client_holds_one_message(nursery: trio.Nursery, home: Path) -> None:
    sent = 0

    async def flood(socket: ServerSocket) -> None:
        nonlocal sent
        while True:
            await socket.send({"type": "x", "data": "y" * 100_000})
            sent += 1

    gateway = await talking(nursery, home, flood)
    async with session(gateway) as client:
        await eventually(lambda: sent > 0)
        before = -1
        while before != sent:  # until the server cannot send more
            before = sent
            for _ in range(20):
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert await gateway.metric("bluesminds_body_bytes_held") < 250_000
        for _ in range(sent + 10):
            assert (await client.hear())["type"] == "x"
        assert sent > before


# The server ends it


async def test_session_closed_by_the_server_passes_code_and_reason(nursery: trio.Nursery, home: Path) -> None:
    async def script(socket: ServerSocket) -> None:
        await socket.send({"type": "session.created"})
        await socket.receive()
        await socket.close(4321, f"enough of {KEY}")

    gateway = await talking(nursery, home, script)
    async with opened(gateway) as client:
        await client.say(CREATE)
        assert await client.hear_closed() == ([], Closed(4321, "enough of [redacted]"))
    (row,) = await gateway.settled(1)
    assert (row["outcome"], row["status"], row["output_tokens"]) == ("cut", 200, 0)
    assert KEY not in gateway.log


@pytest.mark.parametrize("way", ["reset", "close", "1011", "1012"])
async def test_session_lost_by_the_server_is_an_error_event(
    nursery: trio.Nursery, home: Path, way: str
) -> None:
    async def script(socket: ServerSocket) -> None:
        await socket.send({"type": "session.created"})
        await socket.receive()
        for event in (created("r1"), delta("r1", "x" * 38)):
            await socket.send(event)
        await socket.receive()
        if way == "reset":
            socket.peer.reset()
        elif way == "close":
            await socket.peer.close()
        else:
            await socket.close(int(way), "restarting")

    gateway = await talking(nursery, home, script, upstream={"eject_after": 1})
    async with opened(gateway) as client:
        await client.say(CREATE)
        await client.hear_types(2)
        await client.say({"type": "go"})
        events, closed = await client.hear_closed()
    if way in ("reset", "close"):
        assert [event["error"]["code"] for event in events] == [CUT]
        assert closed.code == 1011
    else:
        assert (events, closed) == ([], Closed(int(way), "restarting"))
    (row,) = await gateway.settled(1)
    assert (row["outcome"], row["output_tokens"], row["usage_source"]) == ("cut", 10, "estimated")
    labels = {
        "server": "server-0",
        "outcome": "UpstreamCut" if way in ("reset", "close") else "WebSocketClosed",
    }
    assert await gateway.metric("bluesminds_upstream_attempts_total", **labels) == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [(frame(b"x" * 5000, masked=False), "larger than 4096 bytes"), (frame(b"\xff", masked=False), "utf-8")],
)
async def test_session_of_a_server_that_breaks_a_rule_is_an_error_event(
    nursery: trio.Nursery, home: Path, data: bytes, reason: str
) -> None:
    async def script(socket: ServerSocket) -> None:
        await socket.send({"type": "session.created"})
        await socket.send_raw(data)
        await socket.receive()

    gateway = await talking(nursery, home, script, websocket={"max_message_bytes": 4096})
    async with opened(gateway) as client:
        (event,), closed = await client.hear_closed()
    assert (event["error"]["code"], closed.code) == ("upstream_invalid", 1011)
    assert reason in event["error"]["message"]
    assert (await gateway.settled(1))[0]["outcome"] == "upstream_error"


async def test_session_silent_server_gets_pings_and_is_given_up(nursery: trio.Nursery, home: Path) -> None:
    async def script(socket: ServerSocket) -> None:
        socket.deaf = True
        await socket.send({"type": "session.created"})
        await socket.receive()

    gateway = await talking(nursery, home, script, websocket={"ping_interval": 0.2})
    async with opened(gateway) as client:
        (event,), closed = await client.hear_closed()
    assert (event["error"]["code"], closed.code) == (CUT, 1011)


async def test_session_events_of_the_server_pass_unchanged_but_for_secrets(
    nursery: trio.Nursery, home: Path
) -> None:
    odd = [
        '{"type":"x", "a":1,"a":2}',
        "not JSON",
        "",
        '{"type": "response.done"}',
        '{"type":"error","error":[]}',
    ]

    async def script(socket: ServerSocket) -> None:
        for text in (*odd, f'{{"type":"error","error":{{"message":"{KEY}"}}}}'):
            await socket.send(text)
        await socket.send(b"\0\1")
        await socket.receive()

    gateway = await talking(nursery, home, script)
    async with session(gateway) as client:
        assert [await client.receive() for _ in odd] == odd
        assert (await client.hear())["error"]["message"] == "[redacted]"
        assert await client.receive() == b"\0\1"


# The gateway ends it


async def test_session_idle_for_too_long_is_closed(
    nursery: trio.Nursery, home: Path, realtime: SocketUpstream
) -> None:
    gateway = await start(nursery, home, realtime, websocket={"idle_timeout": 0.3, "ping_interval": 0.1})
    async with opened(gateway) as client:
        assert await client.hear_closed() == ([], Closed(1000, "No message was sent for 0.3 seconds."))
        assert client.pings
    await eventually(lambda: realtime.closed == [1000])
    assert (await gateway.settled(1))[0]["outcome"] == "timeout"


async def test_session_open_for_too_long_gets_an_error_event(
    nursery: trio.Nursery, home: Path, realtime: SocketUpstream
) -> None:
    gateway = await start(nursery, home, realtime, websocket={"session_timeout": 0.3})
    async with opened(gateway) as client:
        (event,), closed = await client.hear_closed()
    assert (event["error"]["code"], closed.code) == ("session_expired", 1001)
    (row,) = await gateway.settled(1)
    assert (row["status"], row["outcome"]) == (504, "timeout")


async def test_session_of_a_revoked_key_is_closed(gateway: Gateway, realtime: SocketUpstream) -> None:
    key_id, key = await gateway.new_key()
    async with opened(gateway, key=key) as client, opened(gateway) as other:
        async with gateway.operator() as operator:
            assert (await operator.delete(f"/api/admin/keys/{key_id}")).status_code == 204
        (event,), closed = await client.hear_closed()
        assert (event["error"]["code"], closed.code) == ("api_key_revoked", 1008)
        await other.say(CREATE)
        await other.hear_until("response.done")
    rows = await gateway.settled(2)
    assert [(row["status"], row["outcome"]) for row in rows if row["key_id"] == key_id] == [(401, "cut")]


async def test_session_of_a_key_changed_elsewhere_is_closed_after_the_cache_time(
    nursery: trio.Nursery, home: Path, realtime: SocketUpstream
) -> None:
    gateway = await start(nursery, home, realtime, keys={"cache_seconds": 0})
    async with opened(gateway) as client:
        await gateway.alter("UPDATE api_keys SET revoked_at = 1")
        (event,), closed = await client.hear_closed()
    assert (event["error"]["code"], closed.code) == ("api_key_revoked", 1008)


async def test_session_of_a_key_that_may_no_longer_use_the_model_is_closed(gateway: Gateway) -> None:
    key_id, key = await gateway.new_key()
    async with opened(gateway, key=key) as client:
        async with gateway.operator() as operator:
            path = f"/api/admin/keys/{key_id}"
            assert (await operator.patch(path, json={"limits": {"rpm": 9}})).status_code == 200
            await client.say(CREATE)
            await client.hear_until("response.done")
            assert (await operator.patch(path, json={"allowed_models": ["other"]})).status_code == 200
        (event,), closed = await client.hear_closed()
    assert (event["error"]["code"], closed.code) == ("model_not_allowed", 1008)


async def test_session_of_a_key_that_expires_is_closed(
    nursery: trio.Nursery, home: Path, realtime: SocketUpstream
) -> None:
    wall = Wall()
    gateway = await start(nursery, home, realtime, clock=wall, keys={"cache_seconds": 0})
    _, key = await gateway.new_key(expires_at=(wall.at + timedelta(hours=1)).isoformat())
    async with opened(gateway, key=key) as client:
        wall.at += timedelta(hours=2)
        (event,), closed = await client.hear_closed()
    assert (event["error"]["code"], closed.code) == ("api_key_expired", 1008)


async def test_session_goes_on_while_its_key_cannot_be_checked(
    nursery: trio.Nursery, home: Path, realtime: SocketUpstream
) -> None:
    gateway = await start(nursery, home, realtime, keys={"cache_seconds": 0})
    async with opened(gateway) as client:
        await gateway.alter("UPDATE api_keys SET limits = '{\"unknown\": 1}'")
        async with session(gateway) as other:
            assert (other.status, other.error["code"]) == (503, "limits_unreadable")
        for _ in range(20):
            await trio.testing.wait_all_tasks_blocked(0.05)
        await client.say(CREATE)
        await client.hear_until("response.done")


async def test_session_without_a_response_is_closed_when_the_gateway_stops(
    nursery: trio.Nursery, home: Path, realtime: SocketUpstream
) -> None:
    gateway = await start(nursery, home, realtime, server={"drain_timeout": 60.0})
    async with opened(gateway) as client:
        gateway.shutdown.set()
        assert await client.hear_closed() == ([], Closed(1001, "The gateway is shutting down."))
    with trio.fail_after(60):
        await gateway.ended.wait()
    assert realtime.closed == [1001]
    (row,) = gateway.rows()
    assert (row["status"], row["outcome"]) == (499, "interrupted")


async def test_session_with_a_response_ends_after_it_when_the_gateway_stops(
    nursery: trio.Nursery, home: Path
) -> None:
    go_on = trio.Event()

    async def script(socket: ServerSocket) -> None:
        await socket.send({"type": "session.created"})
        await socket.receive()
        await socket.send(created("r1"))
        await go_on.wait()
        await socket.send(done("r1"))
        await socket.receive()

    sections = {"server": {"drain_timeout": 3600.0}, "websocket": {"drain_grace": 3600.0}}
    gateway = await talking(nursery, home, script, **sections)
    async with opened(gateway) as client:
        await client.say(CREATE)
        await client.hear_until("response.created")
        gateway.shutdown.set()
        await eventually(lambda: _does_not_listen(gateway))
        await trio.testing.wait_all_tasks_blocked(0.01)
        await client.say(CREATE | {"event_id": "late"})
        refused = (await client.hear())["error"]
        assert (refused["code"], refused["event_id"]) == ("shutting_down", "late")
        go_on.set()
        (event,), closed = await client.hear_closed()
    assert (event["type"], closed.code) == ("response.done", 1001)
    with trio.fail_after(60):
        await gateway.ended.wait()
    (row,) = gateway.rows()
    assert (row["outcome"], row["input_tokens"], row["output_tokens"]) == ("ok", 20, 10)


async def _does_not_listen(gateway: Gateway) -> bool:
    try:
        stream = await trio.open_tcp_stream("127.0.0.1", gateway.port)
    except OSError:
        return True
    await stream.aclose()
    return False


async def test_session_with_an_endless_response_is_closed_after_the_grace(
    nursery: trio.Nursery, home: Path
) -> None:
    async def script(socket: ServerSocket) -> None:
        await socket.send({"type": "session.created"})
        await socket.receive()
        await socket.send(created("r1"))
        await socket.receive()

    sections = {"server": {"drain_timeout": 60.0}, "websocket": {"drain_grace": 0.2}}
    gateway = await talking(nursery, home, script, **sections)
    async with opened(gateway) as client:
        await client.say(CREATE)
        await client.hear_until("response.created")
        gateway.shutdown.set()
        assert (await client.hear_closed())[1].code == 1001
    with trio.fail_after(60):
        await gateway.ended.wait()
    assert [(row["status"], row["outcome"]) for row in gateway.rows()] == [(499, "interrupted")]


async def test_session_cancelled_with_the_gateway_is_recorded(
    home: Path, realtime: SocketUpstream, nursery: trio.Nursery
) -> None:
    async with trio.open_nursery() as running:
        gateway = await start(running, home, realtime)
        async with opened(gateway) as client:
            await client.say({"type": "test.send", "events": [created("r1")]})
            await client.hear()
            running.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                assert await client.hear_closed() == ([], Closed(1001, "The gateway is shutting down."))
    assert [(row["status"], row["outcome"]) for row in gateway.rows()] == [(499, "interrupted")]


async def test_session_response_whose_usage_cannot_be_stored_is_not_shown_as_complete(
    nursery: trio.Nursery, home: Path, realtime: SocketUpstream
) -> None:
    gateway = await start(nursery, home, realtime, storage={"settle_timeout": 1.0})
    async with opened(gateway) as client:
        async with exclusive(gateway.database):
            await client.say(CREATE)
            events, closed = await client.hear_closed()
        assert [event["type"] for event in events] == [
            "response.created",
            "response.output_text.delta",
            "error",
        ]
        assert (events[-1]["error"]["code"], closed.code) == ("storage_unavailable", 1011)
    (row,) = await gateway.settled(1)
    assert (row["outcome"], row["input_tokens"]) == ("ok", 20)


async def test_session_response_is_durable_before_the_client_sees_its_end(gateway: Gateway) -> None:
    async with opened(gateway) as client:
        for count in range(1, 6):
            await client.say(CREATE)
            await client.hear_until("response.done")
            assert len(gateway.rows()) == count
