"""Names of tools that are too long for the format of the server."""

import json
from typing import Any

import pytest

from tests.fakes.model_server import ModelServer
from tests.gateways import Gateway

LONG = "mcp__plugin_" + "a" * 100
OTHER = LONG + "b"
SCHEMA = {"type": "object", "properties": {}}
TURNS: list[Any] = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": LONG, "input": {}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "x"}]},
]


@pytest.mark.parametrize("stream", [False, True])
async def test_long_name_of_a_tool_is_short_for_the_server_and_whole_for_the_client(
    gateway: Gateway, models: ModelServer, stream: bool
) -> None:
    body = {
        "model": "m",
        "max_tokens": 9,
        "messages": TURNS,
        "tools": [{"name": name, "input_schema": SCHEMA} for name in (LONG, OTHER, "f")],
        "tool_choice": {"type": "tool", "name": OTHER},
        "stream": stream,
    }
    async with gateway.client() as client:
        answer = await client.post("/v1/messages", json=body)
    (asked,) = models.asked
    long, other, plain = [tool["function"]["name"] for tool in asked.body["tools"]]
    assert len({long, other}) == 2 and max(len(long), len(other)) == 64 and plain == "f"
    assert long.startswith(LONG[:50])
    assert asked.body["tool_choice"]["function"]["name"] == other
    assert asked.body["messages"][1]["tool_calls"][0]["function"]["name"] == long
    if stream:
        blocks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
        names = [block["content_block"].get("name") for block in blocks if "content_block" in block]
    else:
        names = [block.get("name") for block in answer.json()["content"]]
    assert names == [OTHER]
