"""What the gateway changes in translated requests and replies."""

import json
from typing import Any

import pytest

from tests.fakes.model_server import ModelServer, completion, whole
from tests.gateways import Gateway

LONG = "mcp__plugin_" + "a" * 100
OTHER = LONG + "b"
SCHEMA = {"type": "object", "properties": {}}
TURNS: list[Any] = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": LONG, "input": {}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "x"}]},
]


async def test_name_of_a_tool_that_servers_refuse_is_another_one_for_the_server(
    gateway: Gateway, models: ModelServer, subtests: pytest.Subtests
) -> None:
    for stream in [False, True]:
        with subtests.test("stream" if stream else "whole"):
            models.asked.clear()
            body = {
                "model": "m",
                "max_tokens": 9,
                "messages": TURNS,
                "tools": [{"name": name, "input_schema": SCHEMA} for name in (LONG, OTHER, "f", "1c.a:b")],
                "tool_choice": {"type": "tool", "name": OTHER},
                "stream": stream,
            }
            async with gateway.client() as client:
                answer = await client.post("/v1/messages", json=body)
            (asked,) = models.asked
            long, other, plain, dotted = [tool["function"]["name"] for tool in asked.body["tools"]]
            assert len({long, other}) == 2 and max(len(long), len(other)) == 64 and plain == "f"
            assert long.startswith(LONG[:50]) and dotted.startswith("_1c_a_b_")
            assert asked.body["tool_choice"]["function"]["name"] == other
            assert asked.body["messages"][1]["tool_calls"][0]["function"]["name"] == long
            if stream:
                blocks = [
                    json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")
                ]
                names = [block["content_block"].get("name") for block in blocks if "content_block" in block]
            else:
                names = [block.get("name") for block in answer.json()["content"]]
            assert names == [OTHER]


async def test_client_of_a_reply_without_usage_gets_the_estimate(
    gateway: Gateway, models: ModelServer
) -> None:
    models.plan(whole(completion("Hello " * 40, usage=...)))
    async with gateway.client() as client:
        body = {"model": "m", "max_tokens": 99, "messages": TURNS[:1]}
        usage = (await client.post("/v1/messages", json=body)).json()["usage"]
    (row,) = gateway.rows()
    assert row["usage_source"] == "estimated"
    assert usage["input_tokens"] == row["input_tokens"] > 0
    assert usage["output_tokens"] == row["output_tokens"] > 40
