"""The WebSocket mode and the compaction of the Responses API: OpenAI's Python SDK on servers of each kind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from openai import OpenAI
from openai.resources.responses.responses import ResponsesConnection

from tests import gateways
from tests.fakes import anthropic_server, gemini_server, model_server, responses_server
from tests.fakes.model_server import ModelServer
from tests.gateways import Gateway, entry

pytestmark = pytest.mark.process
T = TypeVar("T")
SECONDS = 120  # for one step of the SDK, against hangs
SERVERS: dict[str, tuple[Any, dict[str, str]]] = {
    "chat": (model_server.serve, {}),
    "messages": (anthropic_server.serve, {"dialect": "anthropic", "api_key": "sk-ant-upstream"}),
    "gemini": (gemini_server.serve, {"dialect": "gemini", "api_key": "upstream"}),
    "responses": (responses_server.serve, {"dialect": "litellm"}),
}
LAST = ("response.completed", "response.failed", "response.incomplete", "error")


@pytest.fixture(params=list(SERVERS))
async def gateway(request: pytest.FixtureRequest, nursery: trio.Nursery, home: Path) -> Gateway:
    serve, fields = SERVERS[request.param]
    models: ModelServer = await nursery.start(serve)
    return await gateways.start(nursery, home, servers=[entry("one", models.url, **fields)])


async def in_thread(call: Callable[[], T]) -> T:
    with trio.fail_after(SECONDS):
        return await trio.to_thread.run_sync(call, abandon_on_cancel=True)


def client_of(gateway: Gateway) -> OpenAI:
    return OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0, timeout=SECONDS)


def last_event(connection: ResponsesConnection, text: str, **more: Any) -> Any:
    connection.response.create(model="m", input=text, store=False, **more)
    for event in connection:
        if event.type in LAST:
            return event
    raise AssertionError("the connection ended")


async def test_sdk_responses_on_a_websocket_continue_each_other(gateway: Gateway) -> None:
    def talk() -> list[Any]:
        with client_of(gateway) as client, client.responses.connect() as connection:
            first = last_event(connection, "Say hello.").response
            second = last_event(connection, "Again.", previous_response_id=first.id).response
            wrong = last_event(connection, "Again.", previous_response_id="resp_other")
            return [first, second, wrong, last_event(connection, "refuse 400")]

    first, second, wrong, refused = await in_thread(talk)
    assert (first.output_text, second.output_text) == ("Hello world", "Hello world")
    assert (first.status, second.previous_response_id) == ("completed", first.id)
    assert (wrong.status, wrong.error.code) == (400, "previous_response_not_found")
    assert (refused.type, refused.status) == ("error", 400)
    assert [row["endpoint"] for row in await gateway.settled(3)] == ["responses"] * 3


@pytest.mark.parametrize("gateway", ["chat", "messages", "gemini"], indirect=True)
async def test_sdk_responses_compact_a_conversation_and_continue_it(gateway: Gateway) -> None:
    def compact() -> tuple[Any, Any]:
        with client_of(gateway) as client:
            talk: Any = [{"role": "user", "content": "My name is Ada."}]
            compacted = client.responses.compact(model="m", input=talk)
            items: Any = [item.model_dump(exclude_none=True) for item in compacted.output]
            again = client.responses.create(model="m", input=[*items, *talk])
            return compacted, again

    compacted, again = await in_thread(compact)
    assert [item.type for item in compacted.output] == ["compaction"]
    assert compacted.usage.total_tokens > 0
    assert again.output_text == "Hello world"
