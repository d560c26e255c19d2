"""Responses on a WebSocket: each is an ordinary request, to servers of any format."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests import gateways
from tests.fakes import model_server, responses_server
from tests.fakes.model_server import DONE, Cut, ModelServer, Stall, chunk, refusal, streamed
from tests.gateway.sockets.conftest import Session, does_not_listen, session
from tests.gateways import Gateway, entry, eventually
from tests.http.sockets import Closed

PATH = "/v1/responses"
LAST = ("response.completed", "response.failed", "response.incomplete", "error")
ORPHAN = {"type": "function_call_output", "call_id": "call_x", "output": "5"}


def create(text: Any = "Say hello.", **more: Any) -> dict[str, Any]:
    return {"type": "response.create", "model": "m", "input": text, "store": False} | more


async def answer(client: Session, event: dict[str, Any] | None = None) -> dict[str, Any]:
    """The last event of the next response."""
    if event is not None:
        await client.say(event)
    while (heard := await client.hear())["type"] not in LAST:
        pass
    return heard


async def completed(client: Session, event: dict[str, Any]) -> dict[str, Any]:
    last = await answer(client, event)
    assert last["type"] == "response.completed", last
    response: dict[str, Any] = last["response"]
    return response


async def refused(client: Session, event: dict[str, Any]) -> tuple[int, str]:
    last = await answer(client, event)
    assert last["type"] == "error", last
    return last["status"], last["error"]["code"]


@asynccontextmanager
async def opened(gateway: Gateway, key: str | None = None) -> AsyncIterator[Session]:
    async with session(gateway, PATH, key=key) as client:
        assert client.status == 101, client.body
        yield client


@pytest.fixture
async def models(nursery: trio.Nursery) -> ModelServer:
    """A server of chat completions."""
    server: ModelServer = await nursery.start(model_server.serve)
    return server


@pytest.fixture
async def native(nursery: trio.Nursery) -> ModelServer:
    server: ModelServer = await nursery.start(responses_server.serve)
    return server


@pytest.fixture
async def gateway(nursery: trio.Nursery, home: Path, models: ModelServer) -> Gateway:
    return await start(nursery, home, models)


async def start(nursery: trio.Nursery, home: Path, models: ModelServer, **sections: Any) -> Gateway:
    servers = [entry("one", models.url)]
    return await gateways.start(nursery, home, servers=servers, upstream={"attempts": 1}, **sections)


@pytest.fixture
async def native_gateway(nursery: trio.Nursery, home: Path, native: ModelServer) -> Gateway:
    return await gateways.start(nursery, home, servers=[entry("one", native.url, dialect="litellm")])


async def test_response_socket_answers_one_request_after_the_other(
    gateway: Gateway, models: ModelServer
) -> None:
    async with opened(gateway) as client:
        await client.say(create("One"))
        await client.say(create("Two"))
        kinds = [(await client.hear())["type"] for _ in range(2)]
        assert kinds == ["response.created", "response.in_progress"]
        first = (await answer(client))["response"]
        assert (first["store"], first["usage"]["total_tokens"]) == (False, 13)
        (message,) = (await answer(client))["response"]["output"]
        assert message["content"][0]["text"] == "Hello world"
        await completed(client, create("Three"))
        assert await client.close() == Closed(1000)
    assert [asked.body["messages"][0]["content"] for asked in models.asked] == ["One", "Two", "Three"]
    rows = await gateway.settled(3)
    assert {(row["endpoint"], row["status"], row["outcome"]) for row in rows} == {("responses", 200, "ok")}
    assert len({row["id"] for row in rows}) == 3 and len({row["request_id"] for row in rows}) == 1
    await eventually(gateway.holds_no_rows)
    assert await gateway.metric("bluesminds_body_bytes_held") == 0
    assert await gateway.metric("bluesminds_sessions_open") == 0


async def test_response_socket_sends_a_server_with_responses_an_ordinary_request(
    native_gateway: Gateway, native: ModelServer
) -> None:
    async with opened(native_gateway) as client:
        await client.say(create(stream_options={"x": 1}, event_id="e1", metadata={"a": "b"}))
        kinds = []
        while not kinds or kinds[-1] != "response.completed":
            event = await client.hear()
            assert event["sequence_number"] == len(kinds)
            kinds.append(event["type"])
    assert kinds[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
    (asked,) = native.asked
    assert asked.body == {
        "model": "m",
        "input": "Say hello.",
        "store": False,
        "stream": True,
        "metadata": {"a": "b"},
    }


@pytest.mark.parametrize("kind", ["chat", "responses"])
async def test_response_socket_continues_a_response_that_is_not_stored(
    nursery: trio.Nursery, home: Path, models: ModelServer, native: ModelServer, kind: str
) -> None:
    server = models if kind == "chat" else native
    one = entry("one", server.url, dialect="openai" if kind == "chat" else "litellm")
    gateway = await gateways.start(nursery, home, servers=[one])
    async with opened(gateway) as client:
        ids = []
        for number, text in enumerate(("One", "Two", "Three")):
            more = {"previous_response_id": ids[-1]} if ids else {}
            await client.say(create(text, **more))
            created = await client.hear()
            assert created["response"]["previous_response_id"] == (ids[-1] if ids else None)
            done = (await answer(client))["response"]
            assert done["previous_response_id"] == (ids[-1] if ids else None)
            ids.append(done["id"])
            body = server.asked[number].body
            assert "previous_response_id" not in body
            turns = body["messages"] if kind == "chat" else body["input"]
            assert len(turns) == 2 * number + 1 or isinstance(turns, str)
    roles = [turn["role"] for turn in turns]
    assert roles == ["user", "assistant", "user", "assistant", "user"]


async def test_response_socket_of_another_connection_does_not_know_the_response(gateway: Gateway) -> None:
    async with opened(gateway) as client:
        response = await completed(client, create())
    async with opened(gateway) as client:
        again = create(previous_response_id=response["id"])
        assert await refused(client, again) == (400, "previous_response_not_found")
        await completed(client, create())


async def test_response_socket_continues_a_stored_response_of_another_connection(
    gateway: Gateway, models: ModelServer
) -> None:
    async with opened(gateway) as client:
        response = await completed(client, create("One", store=True))
        assert response["store"] is True
    async with opened(gateway) as client:
        again = await completed(client, create("Two", previous_response_id=response["id"]))
        assert again["previous_response_id"] == response["id"]
    assert [turn["role"] for turn in models.asked[1].body["messages"]] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("text", "error"),
    [([ORPHAN], (400, "invalid_value")), ("refuse 400", (400, None)), ("cut", (502, "upstream_cut"))],
)
async def test_response_socket_forgets_a_response_after_a_failure(
    gateway: Gateway, text: Any, error: tuple[int, str | None]
) -> None:
    async with opened(gateway) as client:
        first = await completed(client, create())
        status, code = await refused(client, create(text, previous_response_id=first["id"]))
        assert (status, code if error[1] else None) == error
        again = create(previous_response_id=first["id"])
        assert await refused(client, again) == (400, "previous_response_not_found")


async def test_response_socket_answers_a_tool_call_by_its_id(gateway: Gateway, models: ModelServer) -> None:
    tool = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}
    async with opened(gateway) as client:
        first = await completed(client, create('call weather {"city": "Oslo"}', tools=[tool]))
        (call,) = first["output"]
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
        await completed(client, create([result], tools=[tool], previous_response_id=first["id"]))
    assert [turn["role"] for turn in models.asked[1].body["messages"]] == ["user", "assistant", "tool"]


async def test_response_socket_leaves_out_reasoning_that_the_server_has_not_kept(
    native_gateway: Gateway, native: ModelServer
) -> None:
    said = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": []}
    for sealed in (None, "gAAAA"):
        reasoning = {"type": "reasoning", "id": "rs_1", "summary": []}
        reasoning |= {"encrypted_content": sealed} if sealed else {}
        response = responses_server.response("m", [reasoning, said])
        done = json.dumps({"type": "response.completed", "sequence_number": 0, "response": response})
        native.plan(streamed(b"event: response.completed\ndata: %b\n\n" % done.encode()))
        async with opened(native_gateway) as client:
            await completed(client, create())
            await completed(client, create("Two", previous_response_id="resp_1"))
        items = native.asked[-1].body["input"][1:-1]
        assert [item["type"] for item in items] == (["reasoning", "message"] if sealed else ["message"])
        assert all(("id" in item) is bool(sealed) for item in items)


async def test_response_socket_without_generation_remembers_the_input(
    gateway: Gateway, models: ModelServer
) -> None:
    async with opened(gateway) as client:
        warm = await completed(client, create("One", generate=False))
        assert (warm["output"], warm["usage"], models.asked) == ([], None, [])
        await completed(client, create("Two", previous_response_id=warm["id"]))
        assert await refused(client, create(generate=False, model=None)) == (400, "invalid_value")
    (asked,) = models.asked
    assert len(asked.body["messages"]) == 1
    assert "One" in str(asked.body["messages"]) and "Two" in str(asked.body["messages"])


async def test_response_socket_repeats_the_name_of_a_stream_in_all_its_events(gateway: Gateway) -> None:
    async with opened(gateway) as client:
        for event in (create(stream_id="s1"), create("refuse 400", stream_id="s2"), create(stream_id="s3")):
            await client.say(event)
            heard: dict[str, Any] = {"type": ""}
            while heard["type"] not in LAST:
                heard = await client.hear()
                assert heard["stream_id"] == event["stream_id"]
        await client.say({"type": "response.steer", "stream_id": "s4"})
        assert (await client.hear())["stream_id"] == "s4"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "invalid_json"),
        ("[]", "invalid_json"),
        ('{"type":"response.cancel"}', "invalid_value"),
        ('{"type":"response.create","input":"x"}', "invalid_value"),
        ('{"type":"response.create","model":"m","input":"x","background":true}', "invalid_value"),
        ('{"type":"response.create","model":"other","input":"x"}', "model_not_found"),
    ],
)
async def test_response_socket_stays_open_after_a_wrong_message(
    gateway: Gateway, message: str, code: str
) -> None:
    async with opened(gateway) as client:
        await client.send(message)
        event = await client.hear()
        assert set(event) == {"type", "status", "error"}
        assert set(event["error"]) == {"type", "code", "message", "param"}
        assert (event["type"], event["error"]["code"]) == ("error", code)
        await completed(client, create())


async def test_response_socket_gets_a_binary_message_and_closes(gateway: Gateway) -> None:
    async with opened(gateway) as client:
        await client.send(b"{}")
        (event,), closed = await client.hear_closed()
    assert (event["error"]["code"], closed.code) == ("invalid_json", 1003)


async def test_response_socket_checks_the_limits_of_every_response(gateway: Gateway) -> None:
    _, key = await gateway.new_key(rpm=1)
    async with opened(gateway, key) as client:
        await completed(client, create())
        assert await refused(client, create()) == (429, "rate_limit_exceeded")
        assert await refused(client, create()) == (429, "rate_limit_exceeded")


async def test_response_socket_reports_a_failed_stream_once(gateway: Gateway, models: ModelServer) -> None:
    broken = b'data: {"error":{"message":"Overloaded.","code":503}}\n\n'
    models.plan(streamed(chunk("x"), broken), streamed(chunk("x"), Cut), refusal(500))
    async with opened(gateway) as client:
        assert (await refused(client, create()))[0] == 502
        assert await refused(client, create()) == (502, "upstream_cut")
        assert await refused(client, create()) == (502, "upstream_error")
        await completed(client, create())


async def test_response_socket_whose_client_leaves_cancels_the_response(
    gateway: Gateway, models: ModelServer
) -> None:
    models.plan(streamed(chunk("one"), Stall))
    async with opened(gateway) as client:
        await client.say(create())
        await client.say(create("never"))
        await client.hear()
    await eventually(lambda: models.left == 1)
    (row,) = await gateway.settled(1)
    assert (row["outcome"], len(models.asked)) == ("client_gone", 1)
    await eventually(gateway.holds_no_rows)
    assert await gateway.metric("bluesminds_body_bytes_held") == 0


async def test_response_socket_of_a_revoked_key_is_closed(gateway: Gateway) -> None:
    key_id, key = await gateway.new_key()
    async with opened(gateway, key) as client:
        async with gateway.operator() as operator:
            assert (await operator.delete(f"/api/admin/keys/{key_id}")).status_code == 204
        (event,), closed = await client.hear_closed()
    assert (event["error"]["code"], closed.code) == ("api_key_revoked", 1008)


async def test_response_socket_at_shutdown_ends_its_response_and_closes(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    sections = {"server": {"drain_timeout": 3600.0}, "websocket": {"drain_grace": 3600.0}}
    gateway = await start(nursery, home, models, **sections)
    go_on = trio.Event()
    models.plan(streamed(chunk("one"), go_on, chunk(finish="stop"), DONE))
    async with opened(gateway) as client:
        await client.say(create())
        await client.hear()
        gateway.shutdown.set()
        await eventually(lambda: does_not_listen(gateway))
        await trio.testing.wait_all_tasks_blocked(0.01)
        await client.say(create("Two"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        go_on.set()
        assert (await answer(client))["type"] == "response.completed"
        events, closed = await client.hear_closed()
    assert closed == Closed(1001, "The gateway is shutting down.")
    assert {event["error"]["code"] for event in events} <= {"shutting_down"}
    assert len(models.asked) == 1


async def test_response_socket_refuses_more_waiting_messages_than_allowed(
    gateway: Gateway, models: ModelServer
) -> None:
    go_on = trio.Event()
    models.plan(streamed(chunk("one"), go_on, chunk(finish="stop"), DONE))
    async with opened(gateway) as client:
        await client.say(create())
        await client.hear()
        for _ in range(9):
            await client.say(create())
        event = await client.hear_until("error")
        assert (event["status"], event["error"]["code"]) == (429, "too_many_responses")
        go_on.set()
        for _ in range(9):
            assert (await answer(client))["type"] == "response.completed"


async def test_response_socket_idle_for_too_long_is_closed(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, models, websocket={"idle_timeout": 0.3})
    async with opened(gateway) as client:
        assert await client.hear_closed() == ([], Closed(1000, "No message was sent for 0.3 seconds."))


async def test_response_socket_open_for_too_long_ends_its_response_and_closes(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await start(nursery, home, models, websocket={"session_timeout": 0.3})
    go_on = trio.Event()
    models.plan(streamed(chunk("one"), go_on, chunk(finish="stop"), DONE))
    async with opened(gateway) as client:
        begun = trio.current_time()
        await client.say(create())
        await client.say(create("Two"))
        await eventually(lambda: len(models.asked) == 1)
        await eventually(lambda: trio.current_time() > begun + 0.3)
        await trio.testing.wait_all_tasks_blocked(0.01)
        go_on.set()
        assert (await answer(client))["type"] == "response.completed"
        events, closed = await client.hear_closed()
    assert [event["error"]["code"] for event in events] == ["session_expired", "session_expired"]
    assert closed.code == 1001


async def test_response_socket_handshake_that_is_refused_is_an_ordinary_response(gateway: Gateway) -> None:
    _, key = await gateway.new_key(scopes=["embeddings"])
    for given, status, code in (
        ("bm_wrong", 401, "invalid_api_key"),
        (key, 403, "scope_not_allowed"),
    ):
        async with session(gateway, PATH, key=given) as client:
            assert (client.status, client.error["code"]) == (status, code)
    answer = await gateway.get(PATH)
    assert (answer.status_code, answer.json()["error"]["code"]) == (426, "upgrade_required")
    async with session(gateway, PATH, headers=[("Origin", "https://elsewhere.example")]) as client:
        assert (client.status, client.error["code"]) == (403, "origin_not_allowed")
    protocols = ["realtime", f"openai-insecure-api-key.{gateway.key}"]
    async with session(gateway, PATH, key="", subprotocols=protocols) as client:
        assert (client.status, client.subprotocol) == (101, "realtime")
