"""The Responses API on a WebSocket: each response is a request of its own."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from tests import gateways
from tests.fakes import object_server
from tests.fakes.model_server import DONE, Cut, ModelServer, chunk, completion, refusal, streamed, whole
from tests.fakes.object_server import ObjectServer
from tests.gateway.passthrough.conftest import new_account, relaying
from tests.gateway.sockets.conftest import Session, session
from tests.gateways import Gateway, entry, eventually
from tests.http.sockets import Closed

TARGET = "/v1/responses"
CREATE = {"type": "response.create", "model": "m", "input": "Say hello."}


@pytest.fixture
async def gateway(nursery: trio.Nursery, home: Path, models: ModelServer) -> Gateway:
    return await gateways.start(nursery, home, servers=[entry("one", models.url)])


@pytest.fixture
async def vendor(nursery: trio.Nursery) -> ObjectServer:
    server: ObjectServer = await nursery.start(object_server.serve, "vendor")
    return server


@asynccontextmanager
async def connected(gateway: Gateway, **more: Any) -> AsyncIterator[Session]:
    async with session(gateway, TARGET, **more) as client:
        assert client.status == 101, client.body
        yield client


async def respond(client: Session, **more: Any) -> dict[str, Any]:
    """The response that the last event has; the error for an error event."""
    await client.say(CREATE | more)
    while (event := await client.hear())["type"] not in (
        "response.completed",
        "response.incomplete",
        "error",
    ):
        pass
    return dict(event.get("response", event))


async def is_zero(gateway: Gateway, gauge: str) -> bool:
    return await gateway.metric(gauge) == 0


def turns(models: ModelServer) -> list[tuple[str, Any]]:
    return [(one["role"], one["content"]) for one in models.asked[-1].body["messages"]]


async def test_response_is_sent_as_its_events(gateway: Gateway, models: ModelServer) -> None:
    async with connected(gateway) as client:
        await client.say(CREATE | {"stream_id": "s1"})
        events = [await client.hear()]
        while events[-1]["type"] != "response.completed":
            events.append(await client.hear())
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert {event["stream_id"] for event in events} == {"s1"}
        assert models.asked[0].body["stream"] is True
        assert (await respond(client))["status"] == "completed"
        assert await client.close() == Closed(1000, "")
    rows = gateway.rows()
    assert [(row["endpoint"], row["outcome"], row["status"]) for row in rows] == [
        ("responses", "ok", 200)
    ] * 2
    assert len({row["id"] for row in rows}) == 2


async def test_response_of_another_account_cannot_be_continued(gateway: Gateway, models: ModelServer) -> None:
    ada = await new_account(gateway, "ada@example.com")
    bob = await new_account(gateway, "bob@example.com")
    models.default = streamed(chunk("One."), chunk(finish="stop"), DONE)
    async with connected(gateway, key=ada.key) as client:
        first = await respond(client, input="a")
        second = await respond(client, input="b", previous_response_id=first["id"])
        assert second["previous_response_id"] == first["id"]
        assert turns(models) == [("user", "a"), ("assistant", "One."), ("user", "b")]
    async with connected(gateway, key=bob.key) as client:
        refused = await respond(client, previous_response_id=first["id"])
        assert (refused["status"], refused["error"]["code"]) == (400, "previous_response_not_found")
        assert refused["error"]["param"] == "previous_response_id"
        unknown = await respond(client, previous_response_id="resp_unknown")
        assert unknown["error"]["message"] == refused["error"]["message"].replace(first["id"], "resp_unknown")
        assert (await respond(client))["status"] == "completed"
    shown = await ada.send("GET", f"/v1/responses/{second['id']}")
    assert shown.json()["status"] == "completed"
    assert (await bob.send("GET", f"/v1/responses/{second['id']}")).status_code == 404
    assert len(models.asked) == 3


async def test_file_of_another_account_is_hidden_from_the_server(
    nursery: trio.Nursery, home: Path, vendor: ObjectServer
) -> None:
    gateway = await gateways.start(nursery, home, servers=[relaying("first", vendor, dialect="litellm")])
    ada = await new_account(gateway, "ada@example.com")
    bob = await new_account(gateway, "bob@example.com")
    file_id = await ada.upload()
    turn = [{"role": "user", "content": [{"type": "input_file", "file_id": file_id}]}]
    async with connected(gateway, key=bob.key) as client:
        await client.say(CREATE | {"input": turn})
        assert (await client.hear()).get("error") is None
    assert file_id.encode() not in vendor.requests[-1].body
    before = vendor.lines()
    async with connected(gateway, key=ada.key) as client:
        await client.say(CREATE | {"input": turn})
        assert (await client.hear()).get("error") is None
    assert vendor.lines() == [*before, "POST /v1/responses"]
    assert file_id.encode() in vendor.requests[-1].body


async def test_response_that_is_not_stored_is_continued_on_its_connection(
    gateway: Gateway, models: ModelServer
) -> None:
    models.plan(*(streamed(chunk("One.", id=f"c{n}"), chunk(finish="stop"), DONE) for n in range(3)))
    async with connected(gateway) as client:
        first = await respond(client, input="a", store=False)
        second = await respond(client, input="b", store=False, previous_response_id=first["id"])
        await respond(client, input="c", store=False, previous_response_id=second["id"])
        assert turns(models) == [
            *(("user", "a"), ("assistant", "One."), ("user", "b"), ("assistant", "One."), ("user", "c"))
        ]
        late = await respond(client, input="d", previous_response_id=first["id"])
        assert late["error"]["code"] == "previous_response_not_found"
    async with connected(gateway) as client:
        other = await respond(client, previous_response_id=second["id"])
        assert other["error"]["code"] == "previous_response_not_found"
    await eventually(lambda: is_zero(gateway, "bluesminds_body_bytes_held"))


WRONG_MESSAGES = [
    ("x", "invalid_json", None),
    ("[]", "invalid_json", None),
    ('{"type":"response.steer"}', "invalid_value", "type"),
    ('{"type":"response.create","input":"x"}', "invalid_value", "model"),
    ('{"type":"response.create","input":"x","generate":false}', "invalid_value", "model"),
    ('{"type":"response.create","model":"none","input":"x"}', "model_not_found", "model"),
]


async def test_wrong_message_gets_an_error_and_the_connection_stays(
    gateway: Gateway, subtests: pytest.Subtests
) -> None:
    for message, code, param in WRONG_MESSAGES:
        with subtests.test(message):
            async with connected(gateway) as client:
                await client.send(message)
                event = await client.hear()
                assert (event["type"], event["error"]["code"], event["error"]["param"]) == (
                    "error",
                    code,
                    param,
                )
                assert event["status"] == (404 if code == "model_not_found" else 400)
                assert (await respond(client))["status"] == "completed"


async def test_error_of_the_server_is_an_error_event(gateway: Gateway, models: ModelServer) -> None:
    async with connected(gateway) as client:
        models.plan(refusal(400))
        assert (await respond(client))["error"]["message"] == "this is 400"
        models.plan(streamed(chunk("one"), Cut))
        failed = await respond(client)
        assert (failed["code"], failed["sequence_number"]) == ("upstream_cut", 5)
        models.plan(whole(completion("Hi")))
        assert (await respond(client))["status"] == "completed"
    assert [row["outcome"] for row in gateway.rows()] == ["client_error", "cut", "ok"]


async def test_client_that_leaves_ends_the_running_response(gateway: Gateway, models: ModelServer) -> None:
    models.plan(streamed(chunk("one"), trio.Event()))
    async with connected(gateway) as client:
        await client.say(CREATE)
        await client.hear_until("response.output_text.delta")
    (row,) = await gateway.settled(1)
    assert (row["outcome"], row["status"]) == ("client_gone", 499)
    await eventually(lambda: is_zero(gateway, "bluesminds_sessions_open"))
    assert gateway.events("request_failed") == gateway.events("connection_failed") == []


async def test_limits_count_every_response(gateway: Gateway) -> None:
    _, key = await gateway.new_key(limits={"rpm": 1})
    async with connected(gateway, key=key) as client:
        assert (await respond(client))["status"] == "completed"
        assert (await respond(client))["error"]["code"] == "rate_limit_exceeded"


async def test_key_that_was_revoked_ends_the_connection(gateway: Gateway) -> None:
    key_id, key = await gateway.new_key()
    async with connected(gateway, key=key) as client:
        async with gateway.operator() as operator:
            assert (await operator.delete(f"/api/admin/keys/{key_id}")).status_code < 300
        await client.say(CREATE)
        events, closed = await client.hear_closed()
        assert (events[0]["status"], closed.code) == (401, 1008)


async def test_connection_that_is_not_allowed_is_refused_before_it_opens(gateway: Gateway) -> None:
    _, key = await gateway.new_key(scopes=["chat.completions"])
    async with session(gateway, TARGET, key=key) as client:
        assert (client.status, client.error["code"]) == (403, "scope_not_allowed")
    async with session(gateway, TARGET, key="") as client:
        assert client.status == 401
    async with session(gateway, TARGET, headers=[("Origin", "https://other.example.com")]) as client:
        assert (client.status, client.error["code"]) == (403, "origin_not_allowed")
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as client:
        answer = await client.get(TARGET, headers={"authorization": f"Bearer {gateway.key}"})
        assert (answer.status_code, answer.headers["upgrade"]) == (426, "websocket")


async def test_binary_and_large_messages_end_the_connection(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await gateways.start(
        nursery, home, servers=[entry("one", models.url)], websocket={"max_message_bytes": 1000}
    )
    async with connected(gateway) as client:
        await client.send(b"x")
        assert (await client.hear_closed())[1].code == 1003
    async with connected(gateway) as client:
        await client.send(json.dumps(CREATE | {"input": "x" * 1000}))
        assert (await client.hear_closed())[1].code == 1009


@pytest.mark.parametrize(
    ("setting", "codes", "close_code"),
    [
        ("idle_timeout", [], 1000),
        ("session_timeout", ["websocket_connection_limit_reached"], 1001),
    ],
)
async def test_connection_ends_when_it_is_idle_or_too_old(
    nursery: trio.Nursery, home: Path, models: ModelServer, setting: str, codes: list[str], close_code: int
) -> None:
    servers = [entry("one", models.url)]
    gateway = await gateways.start(nursery, home, servers=servers, websocket={setting: 1.0})
    async with connected(gateway) as client:
        events, closed = await client.hear_closed()
        assert ([event["error"]["code"] for event in events], closed.code) == (codes, close_code)


async def test_shutdown_waits_for_the_running_response(gateway: Gateway, models: ModelServer) -> None:
    finish = trio.Event()
    models.plan(streamed(chunk("one"), finish, chunk(finish="stop"), DONE))
    async with connected(gateway) as client, trio.open_nursery() as nursery:
        await client.say(CREATE)
        await client.hear_until("response.output_text.delta")
        nursery.start_soon(gateway.stop)
        finish.set()
        events, closed = await client.hear_closed()
        assert (events[-1]["type"], closed.code) == ("response.completed", 1001)
