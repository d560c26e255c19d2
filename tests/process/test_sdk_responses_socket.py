"""The WebSocket of OpenAI's Python SDK for responses, against the gateway and its demo server."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from openai import OpenAI
from openai.resources.responses.responses import ResponsesConnection

from tests import gateways
from tests.gateways import Gateway

T = TypeVar("T")
SECONDS = 120  # for one step of the SDK, against hangs


@pytest.fixture
async def gateway(nursery: trio.Nursery, home: Path) -> Gateway:
    return await gateways.start(nursery, home, servers=[{"name": "demo", "dialect": "demo"}])


async def in_thread(call: Callable[[], T]) -> T:
    """The SDK for asyncio does not run on Trio, so its synchronous client runs in a thread."""
    with trio.fail_after(SECONDS):
        return await trio.to_thread.run_sync(call, abandon_on_cancel=True)


def create(connection: ResponsesConnection, **fields: Any) -> list[Any]:
    """The events of one response."""
    connection.response.create(**fields)
    events: list[Any] = []
    for event in connection:
        events.append(event)
        if event.type in ("response.completed", "response.failed", "error"):
            return events
    raise AssertionError(f"the connection ended after {[event.type for event in events]}")


@pytest.mark.parametrize("store", [True, False])
async def test_sdk_continues_responses_on_a_websocket(gateway: Gateway, store: bool) -> None:
    def talk() -> tuple[str, Any, Any]:
        client = OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, timeout=SECONDS)
        with client, client.responses.connect() as connection:
            first = create(connection, model="demo/echo", input="one", store=store)
            text = "".join([one.delta for one in first if one.type == "response.output_text.delta"])
            second = create(
                connection,
                model="demo/echo",
                input="two",
                store=store,
                previous_response_id=first[-1].response.id,
            )
            return text, second[-1], create(connection, model="demo/echo", previous_response_id="resp_no")[-1]

    text, last, refused = await in_thread(talk)
    assert (text, last.type, last.response.output_text) == ("one", "response.completed", "two")
    assert (refused.type, refused.error.code) == ("error", "previous_response_not_found")
    first, second = await gateway.settled(2)
    assert (first["endpoint"], first["outcome"], second["outcome"]) == ("responses", "ok", "ok")
    assert second["input_tokens"] > first["input_tokens"], "the earlier turn is part of the input"
