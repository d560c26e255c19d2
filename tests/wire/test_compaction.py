"""Compaction: a summary takes the place of a conversation, and is read back from its item."""

from typing import Any

import msgspec
import pytest

from bluesminds.common.errors import InvalidRequest
from bluesminds.common.values import Usage
from bluesminds.wire.compaction import COMPACT
from bluesminds.wire.conversation import ConversationReply, ConversationRequest, TextPart
from bluesminds.wire.formats import codec_of
from bluesminds.wire.responses import RESPONSES
from tests.wire.conversations import fields_of, json_of

CODEC = codec_of("compact")
RULES = {"role": "developer", "content": "Answer in Dutch."}
INPUT = [
    RULES,
    {"role": "user", "content": "What is the weather in Oslo?"},
    {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Oslo"}'},
    {"type": "function_call_output", "call_id": "c1", "output": "rain"},
    {"role": "assistant", "content": "Regen."},
    {"role": "user", "content": [{"type": "input_image", "image_url": "https://x/y.png"}]},
]
OWN_TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object"}}


def request_of(**more: Any) -> ConversationRequest:
    return CODEC.decode_request(fields_of({"model": "m", "input": INPUT} | more), 17)


def compacted(summary: str = "Rain in Oslo.") -> dict[str, Any]:
    reply = ConversationReply("r1", "m", (TextPart(summary),), usage=Usage(40, 5))
    made: dict[str, Any] = msgspec.json.decode(CODEC.encode_reply(reply, request_of()))
    return made


def test_compact_request_becomes_one_turn_with_the_whole_conversation() -> None:
    request = request_of(instructions="Be short.", tools=[OWN_TOOL], prompt_cache_key="k")
    ((turn,), tools) = request.turns, request.tools
    (part,) = turn.parts
    assert isinstance(part, TextPart)
    task, conversation = part.text.split("\n\n", 1)
    assert task.startswith("Summarize the conversation")
    assert conversation == (
        "[user]\nWhat is the weather in Oslo?\n\n"
        '[assistant]\n(calls weather: {"city":"Oslo"})\n\n'
        "[user]\n(result: rain)\n\n"
        "[assistant]\nRegen.\n\n"
        "[user]\n(image)"
    )
    assert (turn.role, tools, request.system, request.stream) == ("user", (), "", False)


@pytest.mark.parametrize("empty", [None, [], ""])
def test_compact_request_without_input_is_refused(empty: Any) -> None:
    with pytest.raises(InvalidRequest) as raised:
        request_of(input=empty)
    assert raised.value.param == "input"


def test_compact_reply_has_one_item_and_the_usage() -> None:
    made = compacted()
    (item,) = made.pop("output")
    assert made.pop("usage")["total_tokens"] == 45
    assert made == {"id": "resp_r1", "object": "response.compaction", "created_at": 17}
    assert (item["type"], item["id"]) == ("compaction", "cmp_r1")
    assert COMPACT.read_reply(msgspec.json.encode(compacted())).usage == Usage(40, 5, 0, 0, 0, "upstream")


def test_compact_reply_without_a_summary_is_an_error() -> None:
    with pytest.raises(ValueError, match="summary"):
        compacted(" ")


def test_compaction_item_is_read_as_rules_and_summary() -> None:
    again = [*compacted()["output"], {"role": "user", "content": "Go on."}]
    request = codec_of("responses").decode_request(fields_of({"model": "m", "input": again}), 0)
    (turn,) = request.turns
    assert (request.system, turn.role) == ("Answer in Dutch.", "user")
    texts = [part.text for part in turn.parts if isinstance(part, TextPart)]
    assert texts == ["This is a summary of the conversation so far:\n\nRain in Oslo.", "Go on."]
    twice = CODEC.decode_request(fields_of({"model": "m", "input": again}), 0)
    assert twice.echo == b"Answer in Dutch."


def test_compaction_item_is_written_as_messages_for_a_server_with_responses() -> None:
    last = {"role": "user", "content": "Go on."}
    fields = fields_of({"model": "m", "input": [*compacted()["output"], last], "store": False})
    sent = RESPONSES.prepare(fields, "other", False)
    rules, summary, other = json_of(sent)["input"]
    assert (rules["role"], rules["content"][0]["text"]) == ("developer", "Answer in Dutch.")
    assert (summary["role"], summary["content"][0]["text"][-13:]) == ("user", "Rain in Oslo.")
    assert other == last
    assert (json_of(sent)["model"], json_of(sent)["store"]) == ("other", False)


def test_compaction_item_of_a_server_passes_to_it_and_is_not_translated() -> None:
    theirs = [{"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAAA"}]
    fields = fields_of({"model": "m", "input": theirs})
    assert json_of(RESPONSES.prepare(fields, "m", False))["input"] == theirs
    with pytest.raises(InvalidRequest) as raised:
        codec_of("responses").decode_request(fields, 0)
    assert raised.value.code == "unsupported_by_server"


@pytest.mark.parametrize("content", ["compacted:", "compacted:e30=", "compacted:%%%"])
def test_compaction_item_that_is_damaged_is_refused(content: str) -> None:
    fields = fields_of({"model": "m", "input": [{"type": "compaction", "encrypted_content": content}]})
    with pytest.raises(InvalidRequest, match="damaged"):
        RESPONSES.prepare(fields, "m", False)
