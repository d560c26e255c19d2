"""Gemini's API as a format of its own: native streams, whole replies, errors, counts, and its codec."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from bluesminds.common.errors import InvalidRequest
from bluesminds.common.values import Usage
from bluesminds.wire.base import Codec
from bluesminds.wire.chat_codec import CHAT_CODEC
from bluesminds.wire.conversation import REDACTED, EncodingOptions, ToolCallPart, ToolDefinition
from bluesminds.wire.errors import ErrorDetail
from bluesminds.wire.gemini import GEMINI, GEMINI_COUNT, estimate_count
from bluesminds.wire.gemini_codec import GEMINI_CODEC
from bluesminds.wire.gemini_passthrough import GeminiPassthrough
from bluesminds.wire.gemini_schema import write_json_schema
from bluesminds.wire.gemini_signatures import seal, unseal
from bluesminds.wire.messages_codec import MESSAGES_CODEC
from bluesminds.wire.responses_codec import RESPONSES_CODEC
from bluesminds.wire.translation import Translation
from tests.cases import each
from tests.wire.conversations import (
    chat_conversation,
    check_messages_order,
    events_in,
    facts,
    fields_of,
    json_of,
    messages_conversation,
    run_stage,
)
from tests.wire.replies import DONE, chunk, delta_chunk
from tests.wire.test_translation import CHAT_STREAM, MESSAGES_STREAM, state

HEAD = {"modelVersion": "gemini-3-flash", "responseId": "r_1"}
ERROR = {"error": {"code": 429, "message": "Quota exceeded.", "status": "RESOURCE_EXHAUSTED"}}
BARE_ERROR = json.dumps(ERROR, indent=2).encode() + b"\n"


def response(*parts: Any, finish: str = "", index: int = 0, **more: Any) -> bytes:
    """One event of a stream."""
    candidate: dict[str, Any] = {"content": {"parts": list(parts), "role": "model"}, "index": index}
    if finish:
        candidate["finishReason"] = finish
    return b"data: " + json.dumps({"candidates": [candidate], **more, **HEAD}).encode() + b"\n\n"


def report(output: int, thoughts: int = 3) -> dict[str, Any]:
    counts = {
        "promptTokenCount": 50,
        "cachedContentTokenCount": 20,
        "candidatesTokenCount": output,
        "thoughtsTokenCount": thoughts,
        "totalTokenCount": 50 + output + thoughts,
    }
    return {"usageMetadata": counts}


STREAM_PIECES = [
    response({"text": "Let me ", "thought": True}, **report(0, 2)),
    response({"text": "see.", "thought": True}, **report(0)),
    response({"text": "It is "}, **report(2)),
    response({"text": "ünicode 🎷"}, **report(4)),
    response({"functionCall": {"name": "weather", "args": {"city": "Oslo"}}, "thoughtSignature": "c2ln"}),
    response({"functionCall": {"id": "x2", "name": "time"}}, **report(8)),
    response({"text": ""}, finish="STOP", **report(9)),
]
STREAM = b"".join(STREAM_PIECES)
USAGE = Usage(50, 12, 20, None, 3, "upstream")


def to_gemini(**config: Any) -> Any:
    request = {"model": "alias", "contents": [], "generationConfig": config}
    return GEMINI_CODEC.decode_request(fields_of(request), 7)


SHOWS = {"thinkingConfig": {"includeThoughts": True}}


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_native_stream_passes_byte_for_byte_however_it_is_cut(line_end: bytes) -> None:
    odd = [b": comment\n\n", b"event: future\ndata: text\n\n", b'data: {"futureField":1}\n\n']
    stream = b"".join([*STREAM_PIECES[:4], odd[2], *STREAM_PIECES[4:]]).replace(b"\n", line_end)
    whole = GeminiPassthrough(facts())
    assert run_stage(whole, [stream]) == stream
    assert whole.usage == USAGE and whole.output == 12 and whole.finished and whole.final
    bytewise = GeminiPassthrough(facts())
    assert run_stage(bytewise, [stream[at : at + 1] for at in range(len(stream))]) == stream
    assert state(bytewise) == state(whole)
    for at in range(1, len(stream), 7):
        assert run_stage(GeminiPassthrough(facts()), [stream[:at], stream[at:]]) == stream
    assert run_stage(GeminiPassthrough(facts()), [odd[0], *STREAM_PIECES]) == odd[0] + STREAM


def test_end_of_a_native_answer_is_held_back_until_the_stream_ends() -> None:
    stage = GeminiPassthrough(facts())
    sent = b"".join([stage.feed(piece) for piece in STREAM_PIECES])
    assert sent == STREAM.removesuffix(STREAM_PIECES[-1])
    assert stage.finished and not stage.final
    assert stage.finish() == STREAM_PIECES[-1] and stage.final


def test_event_after_the_end_of_a_native_answer_passes_in_order() -> None:
    last = response({"text": ""}, **report(10))
    stage = GeminiPassthrough(facts())
    assert run_stage(stage, [*STREAM_PIECES, last]) == STREAM + last
    assert stage.usage.output_tokens == 13


def test_native_answer_with_two_candidates_ends_with_the_second() -> None:
    stage = GeminiPassthrough(facts(choices=2))
    pieces = [response({"text": "a"}), response({"text": "b"}, index=1), response(finish="STOP")]
    assert stage.feed(b"".join(pieces)) == b"".join(pieces) and not stage.finished
    last = response(finish="STOP", index=1)
    assert stage.feed(last) == b"" and stage.finished
    assert stage.finish() == last


def test_blocked_request_is_a_finished_answer() -> None:
    blocked = b'data: {"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":5}}\n\n'
    stage = GeminiPassthrough(facts())
    assert run_stage(stage, [blocked]) == blocked
    assert stage.finished and stage.usage.input_tokens == 5
    assert GEMINI.read_reply(blocked[6:]).choices == 1


def test_cut_native_stream_is_not_finished() -> None:
    for length in range(len(STREAM) - len(STREAM_PIECES[-1])):
        stage = GeminiPassthrough(facts())
        written = run_stage(stage, [STREAM[:length]])
        assert not stage.finished and not stage.final
        assert STREAM.startswith(written.rstrip(b"\n"))


@pytest.mark.parametrize("length", range(8))
def test_stop_ends_a_native_stream_cleanly(length: int) -> None:
    stage = GeminiPassthrough(facts())
    written = b"".join([stage.feed(piece) for piece in STREAM_PIECES[:length]]) + stage.stop()
    last = events_in(written)[-1][1]
    assert last["candidates"][0]["finishReason"] == ("STOP" if length > 6 else "MAX_TOKENS")
    if length < 7:
        counts = last["usageMetadata"]
        assert counts["totalTokenCount"] - counts["promptTokenCount"] == stage.usage.output_tokens
    assert stage.feed(STREAM_PIECES[2]) == b"" and stage.finish() == b""


@pytest.mark.parametrize("failure", [BARE_ERROR, b"data: " + json.dumps(ERROR).encode() + b"\n\n"])
def test_error_in_a_native_stream_passes_and_is_read(failure: bytes) -> None:
    stage = GeminiPassthrough(facts())
    stream = b"".join(STREAM_PIECES[:3]) + failure
    assert run_stage(stage, [stream]) == stream
    assert stage.error is not None and (stage.error.status, stage.error.message) == (429, "Quota exceeded.")
    assert not stage.finished and not stage.final
    bytewise = GeminiPassthrough(facts())
    assert run_stage(bytewise, [stream[at : at + 1] for at in range(len(stream))]) == stream
    assert bytewise.error == stage.error


@pytest.mark.parametrize("data", ["{", '{"candidates":[', "<html>", '{"a":}'])
def test_native_event_that_is_not_json_does_not_pass(data: str) -> None:
    assert run_stage(GeminiPassthrough(facts()), [f"data: {data}\n\n".encode()]) == b""


@given(st.binary(max_size=200) | st.text(max_size=60).map(str.encode), st.lists(st.integers(0, 300)))
def test_arbitrary_native_bytes_raise_nothing(data: bytes, places: list[int]) -> None:
    for prefix in (b"", b"data: ", b'data: {"candidates":[{"content":', b'{"error":'):
        stream = prefix + data
        whole, apart = GeminiPassthrough(facts()), GeminiPassthrough(facts())
        marks = sorted({place % (len(stream) + 1) for place in places} | {0, len(stream)})
        written = run_stage(whole, [stream])
        assert run_stage(apart, [stream[start:end] for start, end in pairwise(marks)]) == written


def test_implausible_usage_of_a_native_stream_is_reported() -> None:
    stage = GeminiPassthrough(facts())
    stage.feed(response({"text": "x"}, usageMetadata={"promptTokenCount": -1}))
    assert stage.implausible


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"contents": None, "model": None}, "model"),
        ({"generationConfig": {"maxOutputTokens": 0}}, "generationConfig.maxOutputTokens"),
        ({"generationConfig": {"max_output_tokens": "9"}}, "generationConfig.maxOutputTokens"),
        ({"generation_config": {"candidateCount": 0}}, "generationConfig.candidateCount"),
        ({"generationConfig": 5}, "generationConfig"),
        ({"generationConfig": {}, "generation_config": {}}, "generationConfig"),
        (
            {"generationConfig": {"maxOutputTokens": 1, "max_output_tokens": 9}},
            "generationConfig.maxOutputTokens",
        ),
    ],
)
def test_request_with_a_field_of_a_wrong_type_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        GEMINI.read_request(fields_of({"model": "m", "contents": []} | fields))
    assert refused.value.param == param


def test_request_without_contents_is_refused() -> None:
    with pytest.raises(InvalidRequest) as refused:
        GEMINI.read_request(fields_of({"model": "m"}))
    assert refused.value.param == "contents"


def test_fields_that_bound_the_cost_are_read_in_both_spellings() -> None:
    config = {"max_output_tokens": 9, "candidate_count": 2}
    found = GEMINI.read_request(fields_of({"model": "m", "contents": [], "generation_config": config}))
    assert (found.max_output, found.choices) == (9, 2)


def test_pictures_are_not_counted_as_text() -> None:
    part = {"inlineData": {"mimeType": "image/png", "data": "A" * 100_000}}
    body = {"model": "m", "contents": [{"parts": [part]}]}
    assert GEMINI.read_request(fields_of(body)).text_bytes < 300


def test_prepared_request_keeps_unknown_fields_and_bytes() -> None:
    fields = fields_of({"model": "m", "stream": True, "futureField": {"x": 1.50}, "contents": []})
    prepared = GEMINI.prepare(fields, "upstream", True)
    assert prepared == {name: fields[name] for name in ("futureField", "contents")}


def test_whole_reply_is_measured() -> None:
    parts = [
        {"text": "abcd"},
        {"functionCall": {"name": "f", "args": {"x": 1}}},
        {"inlineData": {"data": "AAAA"}},
    ]
    body = {"candidates": [{"content": {"parts": parts}}], **report(6)}
    found = GEMINI.read_reply(json.dumps(body).encode())
    assert (found.choices, found.delivered, found.pieces) == (1, 4 + 1 + 8, 3)
    assert found.usage == Usage(50, 9, 20, None, 3, "upstream")
    assert not GEMINI.read_reply(b"<html>").readable and not GEMINI.read_reply(b"[]").readable
    assert GEMINI.read_reply(b'{"candidates":[],"usageMetadata":{"promptTokenCount":-5}}').implausible
    assert GEMINI.read_reply(b'{"candidates":"text"}').choices == 0


def test_usage_with_tokens_of_tools_counts_them_as_input() -> None:
    counts = {
        "promptTokenCount": 5,
        "toolUsePromptTokenCount": 7,
        "thoughtsTokenCount": 4,
        "totalTokenCount": 16,
    }
    found = GEMINI.read_reply(json.dumps({"candidates": [{}], "usageMetadata": counts}).encode())
    assert found.usage is not None
    assert (found.usage.input_tokens, found.usage.output_tokens, found.usage.reasoning_tokens) == (12, 4, 4)


def test_error_in_place_of_a_reply_is_found() -> None:
    found = GEMINI.read_reply(json.dumps(ERROR).encode())
    assert found.error is not None and found.error.status == 429 and found.choices == 0
    event = GEMINI.read_event(b"", json.dumps(ERROR).encode())
    assert event.error is not None and event.error.status == 429


def test_whole_reply_and_stream_become_each_other() -> None:
    assert GEMINI.events_from_reply is not None and GEMINI.reply_from_events is not None
    whole = json.loads(GEMINI.reply_from_events(STREAM))
    assert [list(part) for part in whole["candidates"][0]["content"]["parts"]] == [
        ["text", "thought"],
        ["text"],
        ["functionCall", "thoughtSignature"],
        ["functionCall"],
    ]
    assert whole["usageMetadata"]["totalTokenCount"] == 62
    events = GEMINI.events_from_reply(json.dumps(whole, indent=1).encode(), True)
    assert events_in(events) == [("", whole)]
    assert json.loads(GEMINI.reply_from_events(events)) == whole


@pytest.mark.parametrize(
    "stream", [b"", b"".join(STREAM_PIECES[:3]), response({"inlineData": {"data": "AAAA"}}, finish="STOP")]
)
def test_stream_that_cannot_become_a_reply_raises_value_error(stream: bytes) -> None:
    assert GEMINI.reply_from_events is not None
    with pytest.raises(ValueError, match=r"stream|content"):
        GEMINI.reply_from_events(stream)


def test_reply_without_candidates_cannot_become_a_stream() -> None:
    assert GEMINI.events_from_reply is not None
    with pytest.raises(ValueError, match="candidates"):
        GEMINI.events_from_reply(b'{"candidates":[]}', True)


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "INVALID_ARGUMENT"),
        (401, "UNAUTHENTICATED"),
        (403, "PERMISSION_DENIED"),
        (404, "NOT_FOUND"),
        (413, "INVALID_ARGUMENT"),
        (429, "RESOURCE_EXHAUSTED"),
        (500, "INTERNAL"),
        (502, "INTERNAL"),
        (503, "UNAVAILABLE"),
        (504, "DEADLINE_EXCEEDED"),
    ],
)
def test_error_has_the_name_of_its_status(status: int, name: str) -> None:
    error = json.loads(
        GEMINI.write_error(ErrorDetail(message="No.", code="some_code", status=status), "req-1")
    )
    assert (error["error"]["code"], error["error"]["status"]) == (status, name)
    info, request = error["error"]["details"]
    assert (info["reason"], info["metadata"]["code"], request["requestId"]) == (
        "SOME_CODE",
        "some_code",
        "req-1",
    )
    assert GEMINI.is_error(json.dumps(error).encode())
    assert not GEMINI.is_error(b'{"error":{"message":"m"}}')


def test_error_in_mid_stream_is_not_the_data_of_an_event() -> None:
    written = GEMINI.write_stream_error("upstream_cut", "The server ended.")
    assert json.loads(written)["error"]["code"] == 502 and b"data:" not in written
    assert written.count(b"\n") == 1, "a blank line would make SDKs take it for an event without data"


def test_count_of_tokens_is_estimated() -> None:
    body = {"model": "m", "contents": [{"parts": [{"text": "y" * 800}]}]}
    counted = json.loads(estimate_count(fields_of(body)))
    assert 200 <= counted["totalTokens"] <= 225


def test_reply_with_a_count_is_read() -> None:
    assert GEMINI_COUNT.read_reply(b'{"totalTokens": 7}').choices == 1
    assert not GEMINI_COUNT.read_reply(b"x").readable
    failed = GEMINI_COUNT.read_reply(json.dumps(ERROR).encode())
    assert failed.error is not None and failed.error.status == 429


def test_translated_stream_cut_at_every_byte_is_the_same() -> None:
    def to_chat() -> Translation:
        options = {"stream_options": {"include_usage": True}}
        return Translation(GEMINI_CODEC, CHAT_CODEC, chat_conversation(**options), facts())

    def to_messages() -> Translation:
        thinks = {"thinking": {"type": "adaptive"}}
        return Translation(GEMINI_CODEC, MESSAGES_CODEC, messages_conversation(**thinks), facts())

    def from_chat() -> Translation:
        return Translation(CHAT_CODEC, GEMINI_CODEC, to_gemini(**SHOWS), facts())

    def from_messages() -> Translation:
        return Translation(MESSAGES_CODEC, GEMINI_CODEC, to_gemini(**SHOWS), facts())

    for make, pieces in (
        (to_chat, STREAM_PIECES),
        (to_messages, STREAM_PIECES),
        (from_chat, CHAT_STREAM),
        (from_messages, MESSAGES_STREAM),
    ):
        stream = b"".join(pieces)
        whole = make()
        expected = run_stage(whole, [stream])
        assert whole.finished and whole.final and whole.error is None
        bytewise = make()
        assert run_stage(bytewise, [stream[at : at + 1] for at in range(len(stream))]) == expected
        assert state(bytewise) == state(whole)
        for at in range(1, len(stream), 7):
            assert run_stage(make(), [stream[:at], stream[at:]]) == expected


def test_usage_of_a_translated_gemini_stream_is_its_last_report() -> None:
    stage = Translation(GEMINI_CODEC, MESSAGES_CODEC, messages_conversation(), facts())
    check_messages_order(events_in(run_stage(stage, STREAM_PIECES)))
    assert stage.usage == USAGE


def test_stream_for_gemini_has_no_comments_and_one_end() -> None:
    stage = Translation(CHAT_CODEC, GEMINI_CODEC, to_gemini(), facts())
    written = run_stage(stage, [b": PROCESSING\n\n", *CHAT_STREAM])
    events = [data for _, data in events_in(written)]
    assert not any(line.startswith(b":") for line in written.splitlines())
    assert [event["candidates"][0].get("finishReason") for event in events] == [None] * 4 + ["STOP"]
    assert [list(event["candidates"][0]["content"]["parts"][0]) for event in events] == [
        ["text"],
        ["text"],
        ["functionCall"],
        ["functionCall"],
        ["text"],
    ], "thoughts are for clients that ask for them"


def test_refusal_of_a_chat_server_is_shown_to_gemini_clients() -> None:
    stage = Translation(CHAT_CODEC, GEMINI_CODEC, to_gemini(), facts())
    delta = {"choices": [{"index": 0, "delta": {"refusal": "I can't."}, "finish_reason": "stop"}]}
    events = events_in(run_stage(stage, [b"data: %b\n\n" % json.dumps(delta).encode(), DONE]))
    assert events[0][1]["candidates"][0]["content"]["parts"] == [{"text": "I can't."}]
    assert events[-1][1]["candidates"][0]["finishReason"] == "SAFETY"


@each("length", range(12))
def test_stop_ends_a_stream_for_gemini_cleanly(length: int) -> None:
    stage = Translation(CHAT_CODEC, GEMINI_CODEC, to_gemini(), facts())
    stream = b"".join([stage.feed(piece) for piece in CHAT_STREAM[:length]]) + stage.stop()
    last = events_in(stream)[-1][1]
    assert last["candidates"][0]["finishReason"] == ("STOP" if length > 10 else "MAX_TOKENS")
    assert stage.final and stage.finish() == b""


def test_call_that_is_not_json_is_a_malformed_call_for_gemini() -> None:
    call = {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x":'}}
    delta = {"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}
    for reason, finish in (("tool_calls", "MALFORMED_FUNCTION_CALL"), ("length", "MAX_TOKENS")):
        end = {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
        stage = Translation(CHAT_CODEC, GEMINI_CODEC, to_gemini(), facts())
        pieces = [b"data: %b\n\n" % json.dumps(one).encode() for one in (delta, end)]
        (only,) = events_in(run_stage(stage, [*pieces, DONE]))
        assert only[1]["candidates"][0]["finishReason"] == finish


def test_error_of_a_server_reaches_a_gemini_client_as_google_writes_it() -> None:
    failure = b'data: {"error":{"message":"too long","code":400}}\n\n'
    stage = Translation(CHAT_CODEC, GEMINI_CODEC, to_gemini(), facts())
    written = run_stage(stage, [*CHAT_STREAM[:5], failure])
    last = json.loads(written.splitlines()[-1])
    assert (last["error"]["code"], last["error"]["status"]) == (400, "INVALID_ARGUMENT")
    assert stage.error is not None and not stage.finished


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("OTHER", "stop"),
        ("FUTURE_REASON", "stop"),
    ],
)
def test_finish_reason_of_gemini_becomes_one_of_chat(finish: str, reason: str) -> None:
    stage = Translation(GEMINI_CODEC, CHAT_CODEC, chat_conversation(), facts())
    events = events_in(run_stage(stage, [response({"text": "x"}), response(finish=finish)]))
    assert events[-2][1]["choices"][0]["finish_reason"] == reason


def test_unspecified_finish_reason_is_not_an_end() -> None:
    stage = Translation(GEMINI_CODEC, CHAT_CODEC, chat_conversation(), facts())
    run_stage(stage, [response({"text": "x"}, finish="FINISH_REASON_UNSPECIFIED")])
    assert stage.started and not stage.finished


def test_parts_without_a_counterpart_are_named() -> None:
    body = {"candidates": [{"content": {"parts": [{"inlineData": {"data": "AAAA"}}, {"text": "x"}]}}]}
    reply = GEMINI_CODEC.decode_reply(json.dumps(body).encode(), chat_conversation())
    assert reply.dropped == ("inline_data",) and len(reply.parts) == 1


def test_broken_answer_of_gemini_is_no_answer() -> None:
    body = {"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]}
    with pytest.raises(ValueError, match="failed"):
        GEMINI_CODEC.decode_reply(json.dumps(body).encode(), chat_conversation())


@pytest.mark.parametrize("alphabet", ["+/", "-_"])
@pytest.mark.parametrize("signature", ["c2ln+/8=", "gAAAA-_x==", "\u00e9"])
def test_signature_of_another_server_comes_back_in_any_alphabet(signature: str, alphabet: str) -> None:
    sealed = seal(signature).translate(str.maketrans("+/", alphabet)).rstrip("=")
    assert unseal(sealed) == (signature, "")
    assert unseal(seal(signature, REDACTED)) == ("", signature)
    assert seal("") == "" and unseal("") == ("", "")


@pytest.mark.parametrize("own", ["c2ln", "CiQB4/abc", "%", "skip_thought_signature_validator"])
def test_signature_of_google_is_left_out_for_other_servers(own: str) -> None:
    part = {"functionCall": {"name": "f", "args": {}}, "thoughtSignature": own}
    contents = [{"parts": [{"text": "x"}]}, {"role": "model", "parts": [part]}]
    request = GEMINI_CODEC.decode_request(fields_of({"model": "m", "contents": contents}), 0)
    assert request.turns[1].parts == (ToolCallPart("call_0", "f", "{}"),)
    assert request.dropped == ("contents.parts.thoughtSignature",)


def test_signed_call_of_gemini_reaches_every_client_and_comes_back() -> None:
    """In the tool call, in a thinking block or in a reasoning item before it."""
    call = {"functionCall": {"name": "weather", "args": {"city": "Oslo"}}, "thoughtSignature": "c2ln"}
    body = json.dumps({"candidates": [{"content": {"parts": [call]}, "finishReason": "STOP"}]}).encode()
    asked: list[tuple[Codec, dict[str, Any]]] = [
        (CHAT_CODEC, {"messages": [{"role": "user", "content": "x"}]}),
        (
            MESSAGES_CODEC,
            {
                "messages": [{"role": "user", "content": "x"}],
                "max_tokens": 9,
                "thinking": {"type": "adaptive"},
            },
        ),
        (RESPONSES_CODEC, {"input": [{"role": "user", "content": "x"}]}),
    ]
    for codec, fields in asked:
        request = codec.decode_request(fields_of({"model": "m"} | fields), 0)
        reply = json.loads(codec.encode_reply(GEMINI_CODEC.decode_reply(body, request), request))
        stage = Translation(GEMINI_CODEC, codec, request, facts())
        events = events_in(run_stage(stage, [b"data: " + body + b"\n\n"]))
        if codec is RESPONSES_CODEC:
            assert events[-1][1]["response"]["output"] == reply["output"]
            again = fields | {"input": [*fields["input"], *reply["output"]]}
        elif codec is MESSAGES_CODEC:
            again = fields | {
                "messages": [*fields["messages"], {"role": "assistant", "content": reply["content"]}]
            }
        else:
            again = fields | {"messages": [*fields["messages"], reply["choices"][0]["message"]]}
        sent = GEMINI_CODEC.encode_request(
            codec.decode_request(fields_of({"model": "m"} | again), 0),
            EncodingOptions(model="gemini-3-flash"),
        )
        (part,) = json_of(sent.fields)["contents"][1]["parts"]
        assert part["thoughtSignature"] == "c2ln"
        assert part["functionCall"]["args"] == {"city": "Oslo"}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "STRING", "nullable": True}, {"type": ["string", "null"]}),
        ({"type": "TYPE_UNSPECIFIED", "title": "x"}, {"title": "x"}),
        (
            {"type": "STRING", "format": "enum", "enum": ["a"], "nullable": True},
            {"type": ["string", "null"], "enum": ["a", None]},
        ),
        (
            {"anyOf": [{"type": "STRING"}], "nullable": True},
            {"anyOf": [{"type": "string"}, {"type": "null"}]},
        ),
        (
            {"type": "ARRAY", "min_items": "1", "maxItems": 3, "items": {"type": "NUMBER"}},
            {"type": "array", "minItems": 1, "maxItems": 3, "items": {"type": "number"}},
        ),
        (
            {"type": "OBJECT", "propertyOrdering": ["b", "gone"], "properties": {"a": {}, "b": {}}},
            {"type": "object", "properties": {"b": {}, "a": {}}},
        ),
        (
            {
                "defs": {"X": {"type": "STRING"}},
                "ref": "#/$defs/X",
                "additionalProperties": {"type": "STRING"},
            },
            {
                "$defs": {"X": {"type": "string"}},
                "$ref": "#/$defs/X",
                "additionalProperties": {"type": "string"},
            },
        ),
        ({"type": "STRING", "example": "x", "description": None}, {"type": "string", "examples": ["x"]}),
    ],
)
def test_schema_of_gemini_becomes_a_json_schema(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    written = write_json_schema(Raw(json.dumps(schema).encode()), "parameters")
    assert json.loads(written) == expected
    assert list(json.loads(written).get("properties", {})) == list(expected.get("properties", {}))


def test_single_object_stands_for_a_list_of_one() -> None:
    body = {
        "model": "m",
        "contents": {"parts": {"text": "Hi"}},
        "systemInstruction": "Be brief.",
        "tools": {"functionDeclarations": {"name": "f"}},
    }
    request = GEMINI_CODEC.decode_request(fields_of(body), 0)
    assert (request.system, request.tools) == ("Be brief.", (ToolDefinition("f"),))
    assert len(request.turns) == 1


def test_allowed_functions_are_all_the_tools_there_are() -> None:
    declarations = [{"name": name} for name in ("a", "b", "c")]
    for mode, allowed, expected in (("ANY", ["a", "c"], "ac"), ("NONE", ["a"], "abc"), ("auto", [], "abc")):
        config = {"mode": mode, "allowedFunctionNames": allowed}
        body = {
            "model": "m",
            "contents": [],
            "tools": [{"functionDeclarations": declarations}],
            "toolConfig": {"functionCallingConfig": config},
        }
        request = GEMINI_CODEC.decode_request(fields_of(body), 0)
        assert "".join([tool.name for tool in request.tools]) == expected


@pytest.mark.parametrize(
    ("model", "reasoning", "thinking"),
    [
        ("gemini-3-flash", {"reasoning_effort": "none"}, {"thinkingLevel": "MINIMAL"}),
        (
            "gemini-3.1-pro",
            {"reasoning_effort": "minimal"},
            {"thinkingLevel": "LOW", "includeThoughts": True},
        ),
        ("gemini-4-flash", {"reasoning_effort": "max"}, {"thinkingLevel": "HIGH", "includeThoughts": True}),
        ("gemini-2.5-pro", {"reasoning_effort": "none"}, {"thinkingBudget": 128}),
        (
            "gemini-2.5-flash",
            {"reasoning_effort": "high"},
            {"thinkingBudget": 24576, "includeThoughts": True},
        ),
        ("gemini-2.5-flash", {}, None),
    ],
)
def test_effort_is_written_as_the_model_takes_it(
    model: str, reasoning: dict[str, Any], thinking: dict[str, Any] | None
) -> None:
    encoded = GEMINI_CODEC.encode_request(chat_conversation(**reasoning), EncodingOptions(model=model))
    assert json_of(encoded.fields).get("generationConfig", {}).get("thinkingConfig") == thinking


def test_options_leave_out_what_a_gemini_server_does_not_take() -> None:
    fields = {"temperature": 0.5, "reasoning_effort": "low"}
    less = EncodingOptions(model="m", sampling=False, reasoning=False)
    encoded = GEMINI_CODEC.encode_request(chat_conversation(**fields), less)
    assert set(encoded.fields) == {"contents"} and encoded.dropped == ("temperature", "effort")


def test_refusal_is_shown_to_clients_that_do_not_ask_for_thoughts() -> None:
    refused = delta_chunk(refusal="I cannot.")
    stage = Translation(CHAT_CODEC, GEMINI_CODEC, to_gemini(), facts())
    events = events_in(run_stage(stage, [refused, chunk(finish="stop"), DONE]))
    texts = [part["text"] for _, data in events for part in data["candidates"][0]["content"]["parts"]]
    assert "".join(texts) == "I cannot."
