"""Compacting conversations, and continuing them, with servers of every format."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from bluesminds.wire.compaction_items import CompactedConversation, write_compacted
from tests import gateways
from tests.fakes import anthropic_server, model_server, responses_server
from tests.fakes.model_server import ModelServer, whole
from tests.gateways import Gateway, entry

COMPACT = "/v1/responses/compact"
TALK = [
    {"role": "developer", "content": "Answer in Dutch."},
    {"role": "user", "content": "My name is Ada."},
    {"role": "assistant", "content": "Hallo Ada."},
]
SERVERS: dict[str, tuple[Any, dict[str, str]]] = {
    "chat": (model_server.serve, {}),
    "messages": (anthropic_server.serve, {"dialect": "anthropic", "api_key": "sk-ant-upstream"}),
}


async def post(gateway: Gateway, path: str, body: Any) -> tuple[int, Any]:
    async with gateway.client() as client:
        answer = await client.post(path, json=body)
    return answer.status_code, answer.json()


async def start(nursery: trio.Nursery, home: Path, kind: str) -> tuple[Gateway, ModelServer]:
    serve, fields = SERVERS[kind]
    server: ModelServer = await nursery.start(serve)
    return await gateways.start(nursery, home, servers=[entry("one", server.url, **fields)]), server


@pytest.mark.parametrize("kind", list(SERVERS))
async def test_compacted_conversation_is_continued(nursery: trio.Nursery, home: Path, kind: str) -> None:
    gateway, server = await start(nursery, home, kind)
    status, made = await post(gateway, COMPACT, {"model": "m", "input": TALK, "instructions": "Be kind."})
    assert (status, made["object"]) == (200, "response.compaction")
    (item,) = made["output"]
    assert item["type"] == "compaction" and made["usage"]["total_tokens"] > 0
    assert "My name is Ada." in str(server.asked[0].body)
    again = {"model": "m", "input": [item, {"role": "user", "content": "Go on."}]}
    assert (await post(gateway, "/v1/responses", again))[0] == 200
    asked = str(server.asked[1].body)
    assert all(text in asked for text in ("Answer in Dutch.", "Hello world", "Go on."))
    assert "compaction" not in asked and "My name is Ada." not in asked
    rows = await gateway.settled(2)
    assert [(row["endpoint"], row["status"]) for row in rows] == [
        ("responses.compact", 200),
        ("responses", 200),
    ]


async def test_compacted_conversation_is_continued_by_a_server_with_responses(
    nursery: trio.Nursery, home: Path
) -> None:
    server: ModelServer = await nursery.start(responses_server.serve)
    gateway = await gateways.start(nursery, home, servers=[entry("one", server.url, dialect="litellm")])
    content = write_compacted(CompactedConversation("Her name is Ada.", "Answer in Dutch."))
    items = [{"type": "compaction", "id": "cmp_1", "encrypted_content": content}, TALK[1]]
    assert (await post(gateway, "/v1/responses", {"model": "m", "input": items}))[0] == 200
    (asked,) = server.asked
    assert [item["role"] for item in asked.body["input"]] == ["developer", "user", "user"]
    assert "Her name is Ada." in str(asked.body)


async def test_compaction_by_a_server_that_has_it_is_forwarded(nursery: trio.Nursery, home: Path) -> None:
    server: ModelServer = await nursery.start(responses_server.serve)
    made: dict[str, Any] = {
        "id": "resp_1",
        "object": "response.compaction",
        "created_at": 1,
        "usage": responses_server.USAGE,
    }
    made["output"] = [{"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAAA"}]
    server.plan(whole(msgspec.json.encode(made)))
    gateway = await gateways.start(nursery, home, servers=[entry("one", server.url, vendor="openai")])
    body = {"model": "m", "input": TALK, "prompt_cache_key": "k"}
    assert await post(gateway, COMPACT, body) == (200, made)
    (asked,) = server.asked
    assert (asked.received.line, asked.body) == (b"POST /v1/responses/compact HTTP/1.1", body)
    (row,) = await gateway.settled(1)
    assert (row["input_tokens"], row["output_tokens"]) == (11, 2)


async def test_compaction_of_a_stored_response_has_its_conversation(
    nursery: trio.Nursery, home: Path
) -> None:
    gateway, server = await start(nursery, home, "chat")
    _, first = await post(gateway, "/v1/responses", {"model": "m", "input": "My name is Ada."})
    status, _ = await post(gateway, COMPACT, {"model": "m", "previous_response_id": first["id"]})
    assert status == 200
    asked = str(server.asked[1].body)
    assert "My name is Ada." in asked and "Hello world" in asked


WRONG_REQUESTS: list[tuple[dict[str, Any], str]] = [
    ({"input": "Hello."}, "model"),
    ({"model": "m"}, "input"),
    ({"model": 1}, "model"),
]


async def test_compaction_of_a_wrong_request_is_refused(
    nursery: trio.Nursery, home: Path, subtests: pytest.Subtests
) -> None:
    gateway, _ = await start(nursery, home, "chat")
    for body, param in WRONG_REQUESTS:
        with subtests.test(str(body)):
            status, made = await post(gateway, COMPACT, body)
            assert (status, made["error"]["param"]) == (400, param)
