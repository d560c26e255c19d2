"""What the gateway knows about the tokens of a model is used in translated requests and answers."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from tests import gateways
from tests.fakes.model_server import ModelServer
from tests.gateways import ASK, Gateway, entry

MESSAGE = {"model": "m", "max_tokens": 9, "messages": ASK["messages"]}
PRICE = {"model": "m", "input_usd": 1, "output_usd": 1, "max_output_tokens": 20}


async def ask(gateway: Gateway, body: dict[str, Any]) -> httpx.Response:
    async with gateway.client() as client:
        return await client.post("/v1/messages", json=body)


async def test_maximum_above_the_one_of_the_model_is_lowered(
    nursery: trio.Nursery, home: Path, models: ModelServer, subtests: pytest.Subtests
) -> None:
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)], prices=[PRICE])
    for asked, sent in [(50, 20), (20, 20), (5, 5)]:
        with subtests.test(f"{asked} {sent}"):
            models.asked.clear()
            answer = await ask(gateway, MESSAGE | {"max_tokens": asked})
            assert answer.status_code == 200
            assert answer.headers.get("x-bluesminds-dropped") == (None if asked == sent else "max_tokens")
            assert [one.body["max_tokens"] for one in models.asked] == [sent]


async def test_maximum_of_a_request_that_is_not_translated_is_kept(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)], prices=[PRICE])
    await gateway.chat(ASK | {"max_tokens": 50})
    assert [one.body["max_tokens"] for one in models.asked] == [50]


async def test_translated_stream_starts_with_the_expected_input_and_ends_with_the_reported_one(
    gateway: Gateway, models: ModelServer
) -> None:
    text = "word " * 200
    body = MESSAGE | {"stream": True, "messages": [{"role": "user", "content": text}]}
    answer = await ask(gateway, body)
    start = anthropic_events(answer)["message_start"]["message"]["usage"]
    assert 200 <= start["input_tokens"] <= 300 and start["output_tokens"] == 0
    assert anthropic_events(answer)["message_delta"]["usage"]["input_tokens"] == 11


def anthropic_events(answer: httpx.Response) -> dict[str, Any]:
    """The last event of each type."""
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    events = [json.loads(line) for line in lines]
    return {event["type"]: event for event in events}
