"""Streams and requests of the Responses API that are translated, in both directions."""

import json
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.common.values import Usage
from bluesminds.wire.base import Codec
from bluesminds.wire.chat_codec import CHAT_CODEC
from bluesminds.wire.conversation import (
    EncodingOptions,
    StreamEvent,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    Turn,
    reply_of_events,
)
from bluesminds.wire.gemini_codec import GEMINI_CODEC
from bluesminds.wire.messages_codec import MESSAGES_CODEC
from bluesminds.wire.responses_codec import RESPONSES_CODEC
from bluesminds.wire.responses_tools import function_name, read_custom_input, write_custom_arguments
from bluesminds.wire.stages import name_and_data
from bluesminds.wire.translation import Translation
from tests.wire.conversations import (
    chat_conversation,
    check_messages_order,
    check_responses_order,
    events_in,
    facts,
    json_of,
    messages_conversation,
    named,
    responses_conversation,
    run_stage,
    to_responses,
)
from tests.wire.replies import DONE, chunk, event
from tests.wire.test_responses import CALL, MESSAGE, RESPONSE, RESPONSES_STREAM, added, at, done
from tests.wire.test_translation import CHAT_STREAM, MESSAGES_STREAM, call, chat_pieces, state

SERVERS = [(CHAT_CODEC, CHAT_STREAM), (MESSAGES_CODEC, MESSAGES_STREAM)]
PATCH = {"type": "custom", "name": "apply_patch", "format": {"type": "text"}}


def named_events(stream: bytes) -> list[tuple[str, Any]]:
    return [one for one in events_in(stream) if one[0]]


def output_of(stream: bytes) -> list[Any]:
    output: list[Any] = named_events(stream)[-1][1]["response"]["output"]
    return output


@pytest.mark.parametrize(("codec", "stream"), SERVERS)
def test_stream_becomes_a_whole_responses_stream_however_it_is_cut(codec: Codec, stream: list[bytes]) -> None:
    whole = to_responses(codec)
    written = run_stage(whole, stream)
    check_responses_order(named_events(written))
    kinds = [item["type"] for item in output_of(written)]
    assert kinds == ["reasoning", "message", "function_call", "function_call"]
    assert whole.usage.usage_source == "upstream" and whole.finished and whole.error is None
    joined = b"".join(stream)
    bytewise = to_responses(codec)
    assert run_stage(bytewise, [joined[at : at + 1] for at in range(len(joined))]) == written
    assert state(bytewise) == state(whole)
    for place in range(1, len(joined), 11):
        assert run_stage(to_responses(codec), [joined[:place], joined[place:]]) == written


@pytest.mark.parametrize(("codec", "stream"), SERVERS)
def test_end_of_a_translated_responses_stream_is_held_back(codec: Codec, stream: list[bytes]) -> None:
    stage = to_responses(codec)
    sent = b"".join([stage.feed(piece) for piece in stream])
    assert stage.final and b"response.completed" not in sent
    ((name, data),) = events_in(stage.finish())
    assert (name, data["response"]["status"]) == ("response.completed", "completed")


@pytest.mark.parametrize(("codec", "stream"), SERVERS)
def test_cut_stream_gets_no_end(codec: Codec, stream: list[bytes]) -> None:
    last = 2 if codec is CHAT_CODEC else 1
    for length in range(len(stream) - last - 1):
        stage = to_responses(codec)
        written = run_stage(stage, stream[:length])
        assert not stage.finished and b"response.completed" not in written


@pytest.mark.parametrize(("codec", "stream"), SERVERS)
def test_stop_ends_a_translated_responses_stream_cleanly(codec: Codec, stream: list[bytes]) -> None:
    for length in range(len(stream) - 3):
        stage = to_responses(codec)
        written = b"".join([stage.feed(piece) for piece in stream[:length]]) + stage.stop()
        events = named_events(written)
        check_responses_order(events)
        response = events[-1][1]["response"]
        if response["status"] == "incomplete":
            assert response["incomplete_details"] == {"reason": "max_output_tokens"}
        assert response["usage"]["output_tokens"] == stage.usage.output_tokens


@given(st.lists(chat_pieces, max_size=12), st.lists(st.integers(0, 5000), max_size=5))
def test_any_chat_stream_becomes_an_ordered_responses_stream(pieces: list[bytes], places: list[int]) -> None:
    stream = b"".join([chunk("x"), *pieces, chunk(finish="stop"), DONE])
    tools = [PATCH | {"name": "f"}]
    stage = to_responses(tools=tools)
    written = run_stage(stage, [stream])
    if stage.error is None:
        check_responses_order(named_events(written))
    else:
        assert named_events(written)[-1][0] == "response.failed"
    marks = sorted({place % (len(stream) + 1) for place in places} | {0, len(stream)})
    again = to_responses(tools=tools)
    assert run_stage(again, [stream[start:end] for start, end in pairwise(marks)]) == written
    assert state(again) == state(stage)


def test_equal_pieces_all_arrive() -> None:
    written = run_stage(to_responses(), [*[chunk("ha")] * 200, chunk(finish="stop"), DONE])
    assert output_of(written)[0]["content"][0]["text"] == "ha" * 200


def test_text_around_a_call_keeps_its_place() -> None:
    pieces = [chunk("Before."), call(0, id="a", name="f", arguments="{}"), chunk("After.")]
    output = output_of(run_stage(to_responses(), [*pieces, chunk(finish="tool_calls"), DONE]))
    assert [item["type"] for item in output] == ["message", "function_call", "message"]
    assert output[2]["content"][0]["text"] == "After."


def test_neighbouring_texts_are_one_message() -> None:
    blocks: list[bytes] = [MESSAGES_STREAM[0]]
    for index, text in enumerate(["One ", "text", "."]):
        blocks += [
            named("content_block_start", index=index, content_block={"type": "text", "text": ""}),
            named("content_block_delta", index=index, delta={"type": "text_delta", "text": text}),
            named("content_block_stop", index=index),
        ]
    written = run_stage(to_responses(MESSAGES_CODEC), [*blocks, *MESSAGES_STREAM[-2:]])
    check_responses_order(named_events(written))
    assert [item["content"][0]["text"] for item in output_of(written)] == ["One text."]


@pytest.mark.parametrize(
    ("finish", "status", "reason"),
    [
        ("stop", "completed", None),
        ("length", "incomplete", "max_output_tokens"),
        ("content_filter", "incomplete", "content_filter"),
    ],
)
def test_reason_of_the_end_is_in_incomplete_details(finish: str, status: str, reason: str | None) -> None:
    written = run_stage(to_responses(), [chunk("Text"), chunk(finish=finish), DONE])
    response = named_events(written)[-1][1]["response"]
    assert response["status"] == status and output_of(written)[0]["status"] == status
    assert (response["incomplete_details"] or {}).get("reason") == reason


def test_refusal_is_a_completed_answer() -> None:
    refused = chunk(choices=[{"index": 0, "delta": {"refusal": "I cannot."}, "finish_reason": None}])
    written = run_stage(to_responses(), [refused, chunk(finish="stop"), DONE])
    check_responses_order(named_events(written))
    response = named_events(written)[-1][1]["response"]
    assert response["status"] == "completed"
    assert response["output"][0]["content"] == [{"type": "refusal", "refusal": "I cannot."}]


def test_cut_call_is_incomplete() -> None:
    pieces = [call(0, id="a", name="f", arguments='{"x":'), chunk(finish="length"), DONE]
    (item,) = output_of(run_stage(to_responses(), pieces))
    assert (item["status"], item["arguments"]) == ("incomplete", '{"x":')


def test_error_in_a_translated_stream_is_an_error_event_and_a_failed_response() -> None:
    stage = to_responses()
    written = run_stage(stage, [chunk("Half"), event({"error": {"message": "No capacity.", "code": 503}})])
    events = named_events(written)
    assert [name for name, _ in events[-2:]] == ["error", "response.failed"]
    assert events[-2][1]["message"] == events[-2][1]["error"]["message"] == "No capacity."
    assert events[-1][1]["response"]["error"] == {"code": "503", "message": "No capacity."}
    assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
    assert stage.error is not None and stage.error.status == 503


def test_custom_tools_namespaces_and_searches_are_called_as_the_client_knows_them() -> None:
    tools = [
        PATCH,
        {
            "type": "namespace",
            "name": "mcp__x",
            "description": "",
            "tools": [{"type": "function", "name": "f"}],
        },
        {"type": "tool_search", "execution": "client", "parameters": {}},
    ]
    pieces = [
        call(0, id="a", name="apply_patch", arguments='{"input":'),
        call(0, arguments='"*** Begin\\nü"}'),
        call(1, id="b", name="mcp__x__f", arguments='{"y":1}'),
        call(2, id="c", name="tool_search", arguments='{"query":"z"}'),
        call(3, id="d", name="plain", arguments=""),
        chunk(finish="tool_calls"),
        DONE,
    ]
    written = run_stage(to_responses(tools=tools), pieces)
    check_responses_order(named_events(written))
    custom, spaced, search, plain = output_of(written)
    assert (custom["type"], custom["name"], custom["input"]) == (
        "custom_tool_call",
        "apply_patch",
        "*** Begin\nü",
    )
    assert (spaced["namespace"], spaced["name"], spaced["arguments"]) == ("mcp__x", "f", '{"y":1}')
    assert (search["type"], search["execution"], search["arguments"]) == (
        "tool_search_call",
        "client",
        {"query": "z"},
    )
    assert (plain["name"], plain["arguments"]) == ("plain", "{}")


@given(st.text())
def test_input_of_a_custom_tool_survives_as_arguments(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    assert read_custom_input(write_custom_arguments(text)) == text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [("{}", ""), ("*** x", "*** x"), ('{"patch":"x"}', '{"patch":"x"}'), ("[1]", "[1]")],
)
def test_arguments_of_another_form_are_the_input(arguments: str, text: str) -> None:
    assert read_custom_input(arguments) == text


@given(st.text(max_size=90), st.text(max_size=30))
def test_name_of_a_function_is_legal_and_always_the_same(name: str, namespace: str) -> None:
    found = function_name(name, namespace)
    assert found == function_name(name, namespace)
    assert re.fullmatch("[a-zA-Z0-9_-]{1,64}", found)


def test_signature_returns_to_its_server() -> None:
    reply = reply_of_events(_events(MESSAGES_CODEC, MESSAGES_STREAM))
    body = json.loads(RESPONSES_CODEC.encode_reply(reply, responses_conversation()))
    again = responses_conversation(input=[*body["output"], {"role": "user", "content": "Go on."}])
    assert again.turns[0].parts[0] == ThinkingPart("Hm.", "c2ln")
    messages = json_of(MESSAGES_CODEC.encode_request(again, EncodingOptions(model="m")).fields)["messages"]
    assert messages[0]["content"][0] == {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}


def test_signature_of_a_call_returns_to_its_server() -> None:
    call_part = {"functionCall": {"name": "f", "args": {"x": 1}}, "thoughtSignature": "c2ln"}
    candidate = {"content": {"parts": [call_part], "role": "model"}, "finishReason": "STOP", "index": 0}
    chunk_ = {"candidates": [candidate], "responseId": "r1", "modelVersion": "m"}
    stage = to_responses(GEMINI_CODEC, stream=True)
    written = run_stage(stage, [event(chunk_)])
    check_responses_order(named_events(written))
    reply = GEMINI_CODEC.decode_reply(json.dumps(chunk_).encode(), responses_conversation())
    body = json.loads(RESPONSES_CODEC.encode_reply(reply, responses_conversation()))
    for output in (output_of(written), body["output"]):
        assert [item["type"] for item in output] == ["reasoning", "function_call"]
        result = {"type": "function_call_output", "call_id": output[1]["call_id"], "output": "2"}
        again = responses_conversation(input=[{"role": "user", "content": "Hi"}, *output, result])
        contents = json_of(GEMINI_CODEC.encode_request(again, EncodingOptions(model="m")).fields)["contents"]
        assert contents[1]["parts"][0]["thoughtSignature"] == "c2ln"


def _events(codec: Codec, stream: list[bytes]) -> list[StreamEvent]:
    decoder = codec.decoder(responses_conversation())
    return [found for one in stream for found in decoder.feed(*name_and_data(one))]


def test_encrypted_reasoning_of_another_server_is_left_out() -> None:
    items = [
        {"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}], "encrypted_content": "g"},
        {"role": "user", "content": "Hi"},
    ]
    request = responses_conversation(input=items)
    assert request.turns[0].parts == (ThinkingPart("Hm."),)
    assert "input.encrypted_content" in request.dropped


def test_reference_to_reasoning_is_left_out() -> None:
    items = [{"type": "item_reference", "id": "rs_1"}, {"role": "user", "content": "Hi"}]
    request = responses_conversation(input=items)
    assert len(request.turns) == 1 and request.dropped == ("input.item_reference",)


def test_message_of_an_agent_is_a_text_of_the_user() -> None:
    content = [
        {"type": "input_text", "text": "One."},
        {"type": "encrypted_content", "encrypted_content": "Two."},
        {"type": "encrypted_content", "encrypted_content": "gAAAAABo"},
    ]
    message = {"type": "agent_message", "author": "/root", "recipient": "/root/a", "content": content}
    request = responses_conversation(input=[message])
    assert request.turns == (Turn("user", (TextPart("Message from /root to /root/a:\nOne.\nTwo."),)),)
    assert request.dropped == ("input.content.encrypted_content",)


def test_system_messages_are_placed_as_in_chat() -> None:
    request = responses_conversation(
        instructions="One.",
        input=[
            {"role": "developer", "content": "Two."},
            {"role": "user", "content": "Hi"},
            {"role": "developer", "content": "Three."},
        ],
    )
    assert request.system == "One.\n\nTwo."
    assert [turn.role for turn in request.turns] == ["user", "system"]


@pytest.mark.parametrize("kind", ["web_search", "web_search_preview", "image_generation"])
def test_tool_that_an_agent_always_sends_is_left_out(kind: str) -> None:
    request = responses_conversation(tools=[PATCH, {"type": kind}], client_metadata={"a": "b"})
    assert [tool.name for tool in request.tools] == ["apply_patch"]
    assert f"tools.{kind}" in request.dropped


def test_allowed_tools_restrict_the_tools() -> None:
    tools = [{"type": "function", "name": name} for name in "fgh"]
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "g"}]}
    request = responses_conversation(tools=tools, tool_choice=choice)
    assert [tool.name for tool in request.tools] == ["g"]
    assert request.tool_choice is not None and request.tool_choice.mode == "auto"


def test_answer_repeats_its_request() -> None:
    tools = [{"type": "function", "name": "f"}]
    request = responses_conversation(
        instructions="Be brief.",
        tools=tools,
        metadata={"a": "b"},
        temperature=0.5,
        text={"verbosity": "low"},
        service_tier="auto",
        store=True,
    )
    reply = reply_of_events(_events(CHAT_CODEC, CHAT_STREAM))
    body = json.loads(RESPONSES_CODEC.encode_reply(reply, request))
    assert body["instructions"] == "Be brief." and body["metadata"] == {"a": "b"}
    assert body["tools"] == [
        {"type": "function", "name": "f", "description": None, "parameters": None, "strict": None}
    ]
    assert (body["temperature"], body["top_p"], body["service_tier"]) == (0.5, 1.0, "default")
    assert body["text"] == {"verbosity": "low", "format": {"type": "text"}}
    assert body["created_at"] == 7 and body["store"] is False


def run_decoder(*events: bytes) -> list[StreamEvent]:
    return _events(RESPONSES_CODEC, list(events))


def test_responses_stream_becomes_a_whole_messages_stream() -> None:
    conversation = messages_conversation(thinking={"type": "adaptive"})
    stage = Translation(RESPONSES_CODEC, MESSAGES_CODEC, conversation, facts())
    written = run_stage(stage, RESPONSES_STREAM)
    check_messages_order(named_events(written))
    assert stage.usage == Usage(50, 9, 30, 5, 3, "upstream")


def test_responses_stream_becomes_a_whole_chat_stream_however_it_is_cut() -> None:
    def stage() -> Translation:
        return Translation(RESPONSES_CODEC, CHAT_CODEC, chat_conversation(), facts())

    written = run_stage(stage(), RESPONSES_STREAM)
    joined = b"".join(RESPONSES_STREAM)
    assert run_stage(stage(), [joined[at : at + 1] for at in range(len(joined))]) == written
    chunks = [data for _, data in events_in(written) if isinstance(data, dict)]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert written.endswith(DONE)


@given(st.lists(st.integers(0, 6000), max_size=6))
def test_events_do_not_depend_on_the_cuts(places: list[int]) -> None:
    joined = b"".join(RESPONSES_STREAM)
    marks = sorted({place % (len(joined) + 1) for place in places} | {0, len(joined)})
    stage = Translation(RESPONSES_CODEC, CHAT_CODEC, chat_conversation(), facts())
    whole = Translation(RESPONSES_CODEC, CHAT_CODEC, chat_conversation(), facts())
    pieces = [joined[start:end] for start, end in pairwise(marks)]
    assert run_stage(stage, pieces) == run_stage(whole, [joined])


def test_items_without_events_before_are_taken_whole() -> None:
    events = run_decoder(
        named("response.output_item.done", output_index=0, item=MESSAGE),
        named("response.output_item.done", output_index=1, item=CALL),
        named("response.completed", response=RESPONSE | {"output": [MESSAGE, CALL]}),
    )
    reply = reply_of_events(events)
    assert reply.parts[0].text == "It is so."  # type: ignore[union-attr]
    assert reply.parts[1] == ToolCallPart("call_1", "weather", '{"city":"Oslo"}')
    assert reply.stop == "tool"


def test_last_event_completes_what_no_event_has_said() -> None:
    reply = reply_of_events(run_decoder(named("response.completed", response=RESPONSE)))
    assert [type(part).__name__ for part in reply.parts] == ["ThinkingPart", "TextPart", "ToolCallPart"]


def test_item_that_was_never_done_is_completed_by_the_last_event() -> None:
    reply = reply_of_events(
        run_decoder(
            named("response.output_item.added", output_index=0, item=CALL | {"arguments": ""}),
            named("response.completed", response=RESPONSE | {"output": [CALL]}),
        )
    )
    assert reply.parts == (ToolCallPart("call_1", "weather", '{"city":"Oslo"}'),)


def test_calls_that_come_at_once_follow_one_another() -> None:
    second = CALL | {"call_id": "call_2", "name": "time", "arguments": '{"zone":1}'}
    kind = "response.function_call_arguments.delta"
    events = run_decoder(
        *[named(name, **fields) for name, fields in (added(0, CALL, arguments=""), added(1, second))],
        named(kind, **at(3, delta='{"city":') | {"output_index": 0}),
        named(kind, **at(3, delta='{"zone":1}') | {"output_index": 1}),
        named(kind, **at(3, delta='"Oslo"}') | {"output_index": 0}),
        *[named(name, **fields) for name, fields in (done(0, CALL), done(1, second))],
        named("response.completed", response=RESPONSE | {"output": [CALL, second]}),
    )
    assert reply_of_events(events).parts == (
        ToolCallPart("call_1", "weather", '{"city":"Oslo"}'),
        ToolCallPart("call_2", "time", '{"zone":1}'),
    )


def test_raw_reasoning_is_read_like_a_summary() -> None:
    reply = reply_of_events(
        run_decoder(
            named("response.reasoning_text.delta", output_index=0, content_index=0, delta="Hm."),
            named("response.completed", response=RESPONSE | {"output": []}),
        )
    )
    assert reply.parts == (ThinkingPart("Hm."),)


def test_hosted_items_are_left_out_of_a_reply() -> None:
    reply = RESPONSES_CODEC.decode_reply(json.dumps(RESPONSE).encode(), chat_conversation())
    assert reply.dropped == ("web_search_call", "custom_tool_call")


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_failed_response_is_no_answer(status: str) -> None:
    with pytest.raises(ValueError, match="an answer"):
        RESPONSES_CODEC.decode_reply(json.dumps(RESPONSE | {"status": status}).encode(), chat_conversation())
