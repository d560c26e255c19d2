"""Responses on a WebSocket that continue the latest one, and the end of those that fail."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests import gateways
from tests.fakes import responses_server
from tests.fakes.model_server import ModelServer, chunk, refusal, streamed
from tests.gateway.sockets.conftest import Session, session
from tests.gateways import Gateway, entry

LAST = ("response.completed", "response.failed", "response.incomplete", "error")
ORPHAN = {"type": "function_call_output", "call_id": "call_x", "output": "5"}
UNKNOWN = (400, "previous_response_not_found")


def create(text: Any = "Say hello.", **more: Any) -> dict[str, Any]:
    return {"type": "response.create", "model": "m", "input": text, "store": False} | more


async def answer(client: Session, event: dict[str, Any]) -> dict[str, Any]:
    """The last event of the response."""
    await client.say(event)
    while (heard := await client.hear())["type"] not in LAST:
        pass
    return heard


async def completed(client: Session, event: dict[str, Any]) -> dict[str, Any]:
    last = await answer(client, event)
    assert last["type"] == "response.completed", last
    response: dict[str, Any] = last["response"]
    return response


async def refused(client: Session, event: dict[str, Any]) -> tuple[int | None, str]:
    last = await answer(client, event)
    assert last["type"] == "error", last
    return last.get("status"), last["error"]["code"]


@asynccontextmanager
async def opened(gateway: Gateway) -> AsyncIterator[Session]:
    async with session(gateway, "/v1/responses") as client:
        assert client.status == 101, client.body
        yield client


@pytest.fixture
async def native(nursery: trio.Nursery) -> ModelServer:
    server: ModelServer = await nursery.start(responses_server.serve)
    return server


@pytest.fixture
async def gateway(nursery: trio.Nursery, home: Path, models: ModelServer) -> Gateway:
    servers = [entry("one", models.url)]
    return await gateways.start(nursery, home, servers=servers, upstream={"attempts": 1})


@pytest.fixture
async def native_gateway(nursery: trio.Nursery, home: Path, native: ModelServer) -> Gateway:
    return await gateways.start(nursery, home, servers=[entry("one", native.url, dialect="litellm")])


async def check_previous_id(gateway: Gateway) -> None:
    async with opened(gateway) as client:
        first = await completed(client, create("One"))
        await client.say(create("Two", previous_response_id=first["id"]))
        created = await client.hear()
        assert created["response"]["previous_response_id"] == first["id"]
        done = await client.hear_until("response.completed")
        assert done["response"]["previous_response_id"] == first["id"]


async def test_response_that_is_translated_says_which_one_it_continues(gateway: Gateway) -> None:
    await check_previous_id(gateway)


async def test_response_of_a_server_says_which_one_it_continues(native_gateway: Gateway) -> None:
    await check_previous_id(native_gateway)


async def test_server_gets_the_items_instead_of_the_id(native_gateway: Gateway, native: ModelServer) -> None:
    async with opened(native_gateway) as client:
        first = await completed(client, create("One"))
        await completed(client, create("Two", previous_response_id=first["id"]))
    assert "previous_response_id" not in native.asked[1].body
    assert len(native.asked[1].body["input"]) == 3


FAILING: list[tuple[Any, tuple[int, str] | None]] = [
    ([ORPHAN], (400, "invalid_value")),
    ("refuse 400", (400, "invalid_request")),
    ("cut", None),
]


async def test_response_that_could_not_be_continued_is_forgotten(
    gateway: Gateway, subtests: pytest.Subtests
) -> None:
    for text, error in FAILING:
        with subtests.test(str(text)):
            async with opened(gateway) as client:
                first = await completed(client, create())
                got = await refused(client, create(text, previous_response_id=first["id"]))
                assert got == error or (error is None and got[1] == "upstream_cut")
                assert await refused(client, create(previous_response_id=first["id"])) == UNKNOWN
                await completed(client, create())


async def test_result_of_a_call_of_the_latest_response_is_accepted(
    gateway: Gateway, models: ModelServer
) -> None:
    tool = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}
    async with opened(gateway) as client:
        first = await completed(client, create('call weather {"city": "Oslo"}', tools=[tool]))
        (call,) = first["output"]
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
        await completed(client, create([result], tools=[tool], previous_response_id=first["id"]))
    assert [turn["role"] for turn in models.asked[1].body["messages"]] == ["user", "assistant", "tool"]


async def test_ids_that_the_server_has_not_kept_are_left_out_with_its_reasoning(
    native_gateway: Gateway, native: ModelServer, subtests: pytest.Subtests
) -> None:
    said = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": []}
    for sealed in [None, "gAAAA"]:
        with subtests.test("sealed" if sealed else "not sealed"):
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


async def test_request_that_generates_nothing_is_continued(gateway: Gateway, models: ModelServer) -> None:
    async with opened(gateway) as client:
        warm = await completed(client, create("One", generate=False, stream_id="s1"))
        assert (warm["output"], warm["usage"], models.asked) == ([], None, [])
        await completed(client, create("Two", previous_response_id=warm["id"]))
    (asked,) = models.asked
    assert "One" in str(asked.body["messages"]) and "Two" in str(asked.body["messages"])
    assert len(await gateway.settled(1)) == 1


async def test_failure_in_a_stream_is_reported_by_one_event(gateway: Gateway, models: ModelServer) -> None:
    broken = b'data: {"error":{"message":"Overloaded.","code":503}}\n\n'
    models.plan(streamed(chunk("x"), broken), refusal(400))
    async with opened(gateway) as client:
        assert (await answer(client, create()))["type"] == "error"
        assert await refused(client, create()) == (400, "invalid_request")
        await completed(client, create())
