"""The Responses API as a format of its own: native streams, whole answers, errors, counts."""

import json
from itertools import count, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.common.errors import InvalidRequest
from bluesminds.common.values import Usage
from bluesminds.wire.conversation import ConversationRequest
from bluesminds.wire.errors import ErrorDetail
from bluesminds.wire.responses import INPUT_TOKENS, RESPONSES, estimate_input_tokens
from bluesminds.wire.responses_codec import RESPONSES_CODEC
from bluesminds.wire.responses_passthrough import ResponsesPassthrough
from bluesminds.wire.responses_stream import ResponsesDecoder
from bluesminds.wire.stages import StreamOpening
from tests.cases import each
from tests.wire.conversations import check_responses_order, events_in, facts, fields_of, named, run_stage
from tests.wire.test_translation import state

USAGE = Usage(50, 9, 30, 5, 3, "upstream")
REPORT = {
    "input_tokens": 50,
    "input_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 5},
    "output_tokens": 9,
    "output_tokens_details": {"reasoning_tokens": 3},
    "total_tokens": 59,
}
REASONING = {
    "id": "rs_1",
    "type": "reasoning",
    "summary": [{"type": "summary_text", "text": "Hm."}],
    "encrypted_content": "gAAAA",
}
SEARCH = {"id": "ws_1", "type": "web_search_call", "status": "completed", "action": {"type": "search"}}
TEXT = {"type": "output_text", "text": "It is so.", "annotations": [{"type": "url_citation"}], "logprobs": []}
MESSAGE = {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "content": [TEXT]}
CALL = {
    "id": "fc_1",
    "type": "function_call",
    "status": "completed",
    "call_id": "call_1",
    "name": "weather",
    "arguments": '{"city":"Oslo"}',
}
CUSTOM = {"id": "ctc_1", "type": "custom_tool_call", "call_id": "call_2", "name": "patch", "input": "*** x"}
RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "error": None,
    "incomplete_details": None,
    "model": "m",
    "output": [REASONING, SEARCH, MESSAGE, CALL, CUSTOM],
    "usage": REPORT,
    "future": {"x": 1},
}
BEGUN = RESPONSE | {"status": "in_progress", "output": [], "usage": None}


def numbered(*events: tuple[str, dict[str, Any]]) -> list[bytes]:
    numbers = count()
    return [named(kind, sequence_number=next(numbers), **fields) for kind, fields in events]


def at(index: int, **more: Any) -> dict[str, Any]:
    ids = ["rs_1", "ws_1", "msg_1", "fc_1", "ctc_1"]
    return {"item_id": ids[index], "output_index": index} | more


def added(index: int, item: dict[str, Any], **emptied: Any) -> tuple[str, dict[str, Any]]:
    return "response.output_item.added", {"output_index": index, "item": item | emptied}


def done(index: int, item: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return "response.output_item.done", {"output_index": index, "item": item}


RESPONSES_STREAM = numbered(
    ("response.created", {"response": BEGUN}),
    ("response.in_progress", {"response": BEGUN}),
    added(0, REASONING, summary=[]),
    ("response.reasoning_summary_part.added", at(0, summary_index=0, part={"type": "summary_text"})),
    ("response.reasoning_summary_text.delta", at(0, summary_index=0, delta="Hm.")),
    ("response.reasoning_summary_text.done", at(0, summary_index=0, text="Hm.")),
    ("response.reasoning_summary_part.done", at(0, summary_index=0, part=REASONING["summary"])),
    done(0, REASONING),
    added(1, SEARCH, status="in_progress"),
    ("response.web_search_call.searching", at(1)),
    done(1, SEARCH),
    added(2, MESSAGE, status="in_progress", content=[]),
    ("response.content_part.added", at(2, content_index=0, part=TEXT | {"text": ""})),
    ("response.output_text.delta", at(2, content_index=0, delta="It is ", logprobs=[])),
    ("response.output_text.delta", at(2, content_index=0, delta="so.", logprobs=[])),
    ("response.output_text.done", at(2, content_index=0, text="It is so.", logprobs=[])),
    ("response.content_part.done", at(2, content_index=0, part=TEXT)),
    done(2, MESSAGE),
    added(3, CALL, status="in_progress", arguments=""),
    ("response.function_call_arguments.delta", at(3, delta='{"city":')),
    ("response.function_call_arguments.delta", at(3, delta='"Oslo"}')),
    ("response.function_call_arguments.done", at(3, arguments='{"city":"Oslo"}')),
    done(3, CALL),
    added(4, CUSTOM, input=""),
    ("response.custom_tool_call_input.delta", at(4, delta="*** x")),
    ("response.custom_tool_call_input.done", at(4, input="*** x")),
    done(4, CUSTOM),
    ("response.completed", {"response": RESPONSE}),
)
STREAM = b"".join(RESPONSES_STREAM)
ODD = [b": comment\n\n", named("response.future", x=1), b"event: future\ndata: text\n\n", named("keepalive")]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_native_stream_passes_byte_for_byte_however_it_is_cut(line_end: bytes) -> None:
    stream = b"".join([*RESPONSES_STREAM[:8], *ODD, *RESPONSES_STREAM[8:]]).replace(b"\n", line_end)
    whole = ResponsesPassthrough(facts())
    assert run_stage(whole, [stream]) == stream
    assert whole.usage == USAGE and whole.output == 9 and whole.finished and whole.error is None
    bytewise = ResponsesPassthrough(facts())
    assert run_stage(bytewise, [stream[at : at + 1] for at in range(len(stream))]) == stream
    assert state(bytewise) == state(whole)
    for place in range(1, len(stream), 37):
        assert run_stage(ResponsesPassthrough(facts()), [stream[:place], stream[place:]]) == stream


def test_last_event_is_held_back_and_nothing_follows_it() -> None:
    stage = ResponsesPassthrough(facts())
    sent = b"".join([stage.feed(piece) for piece in RESPONSES_STREAM])
    assert sent == STREAM.removesuffix(RESPONSES_STREAM[-1])
    assert stage.final and stage.feed(b"data: [DONE]\n\n") == b"" and stage.feed(RESPONSES_STREAM[13]) == b""
    assert stage.finish() == RESPONSES_STREAM[-1]


def test_done_sentinel_before_the_end_does_not_pass() -> None:
    stage = ResponsesPassthrough(facts())
    assert stage.feed(RESPONSES_STREAM[0] + b"data: [DONE]\n\n") == RESPONSES_STREAM[0]
    assert not stage.final


def test_cut_native_stream_is_not_finished() -> None:
    for length in range(0, len(STREAM) - len(RESPONSES_STREAM[-1]), 13):
        stage = ResponsesPassthrough(facts())
        written = run_stage(stage, [STREAM[:length]])
        assert not stage.finished
        assert STREAM.startswith(written.rstrip(b"\n"))


def test_last_event_without_its_blank_line_is_completed() -> None:
    stage = ResponsesPassthrough(facts())
    assert run_stage(stage, [STREAM.rstrip(b"\n")]) == STREAM
    assert stage.finished and stage.usage == USAGE


@pytest.mark.parametrize("status", ["incomplete", "failed"])
def test_other_ends_of_a_native_stream_are_read(status: str) -> None:
    error = {"code": "rate_limit_exceeded", "message": "Too fast."} if status == "failed" else None
    response = RESPONSE | {"status": status, "error": error}
    last = named(f"response.{status}", sequence_number=9, response=response)
    stage = ResponsesPassthrough(facts())
    assert run_stage(stage, [RESPONSES_STREAM[0], last]) == RESPONSES_STREAM[0] + last
    assert stage.finished and stage.usage.input_tokens == 50
    if error is None:
        assert stage.error is None
    else:
        assert stage.error is not None and (stage.error.status, stage.error.message) == (429, "Too fast.")


@each("length", range(len(RESPONSES_STREAM) + 1))
def test_stop_ends_a_native_stream_cleanly(length: int) -> None:
    stage = ResponsesPassthrough(facts())
    written = b"".join([stage.feed(piece) for piece in RESPONSES_STREAM[:length]]) + stage.stop()
    events = events_in(written)
    if length == 1:
        events.insert(1, ("response.in_progress", events[0][1] | {"type": "response.in_progress"}))
    name, data = events[-1]
    output = data["response"]["output"]
    assert [item["id"] for item in output] == [
        data["item"]["id"] for kind, data in events if kind == "response.output_item.done"
    ]
    numbers = [data["sequence_number"] for _, data in events]
    if length > len(RESPONSES_STREAM) - 1:
        assert (name, data["response"]) == ("response.completed", RESPONSE)
    else:
        assert (name, data["response"]["status"]) == ("response.incomplete", "incomplete")
        assert data["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
        assert data["response"]["usage"]["output_tokens"] == stage.usage.output_tokens
    assert numbers == sorted(numbers)
    assert stage.feed(RESPONSES_STREAM[13]) == b"" and stage.finish() == b""


def test_stop_gives_the_text_so_far() -> None:
    stage = ResponsesPassthrough(facts())
    stage.feed(b"".join(RESPONSES_STREAM[:14]))
    events = events_in(stage.stop())
    assert [name for name, _ in events] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    item = events[2][1]["item"]
    assert (item["status"], item["content"][0]["text"]) == ("incomplete", "It is ")


def test_output_grows_with_the_text_before_it_is_reported() -> None:
    stage = ResponsesPassthrough(facts())
    stage.feed(RESPONSES_STREAM[0])
    for _ in range(10):
        stage.feed(named("response.output_text.delta", **at(2, content_index=0, delta="x" * 400)))
    assert stage.output == 1000 and stage.usage == Usage(10, 1000, usage_source="estimated")


def test_item_without_deltas_is_counted_when_it_is_done() -> None:
    stage = ResponsesPassthrough(facts())
    message = MESSAGE | {"content": [TEXT | {"text": "x" * 400}]}
    stage.feed(named("response.output_item.done", output_index=0, item=message))
    assert stage.output == 100
    stage.feed(named("response.output_item.done", output_index=1, item=CALL))
    assert stage.output == 106


def test_sound_is_not_counted_as_text() -> None:
    stage = ResponsesPassthrough(facts())
    stage.feed(named("response.audio.delta", output_index=0, delta="A" * 4000))
    assert stage.output == 0


@pytest.mark.parametrize("data", ["{", '{"type":"response.output_text.delta","delta":', "<html>", '{"a":}'])
def test_known_event_that_is_not_json_does_not_pass(data: str) -> None:
    stage = ResponsesPassthrough(facts())
    assert stage.feed(f"event: response.output_text.delta\ndata: {data}\n\n".encode()) == b""


@pytest.mark.parametrize(
    "failure",
    [
        {"code": "server_error", "message": "Broken.", "param": None},
        {"error": {"type": "server_error", "code": "server_error", "message": "Broken.", "param": None}},
    ],
)
def test_error_event_passes_and_is_read(failure: dict[str, Any]) -> None:
    stage = ResponsesPassthrough(facts())
    event = named("error", sequence_number=3, **failure)
    assert stage.feed(event) == event
    assert stage.error is not None and (stage.error.status, stage.error.message) == (500, "Broken.")
    last = named("response.failed", response=RESPONSE | {"status": "failed", "error": None})
    assert stage.feed(last) == b"" and stage.finish() == last
    assert stage.error.message == "Broken."


@given(st.binary(max_size=200) | st.text(max_size=60).map(str.encode), st.lists(st.integers(0, 300)))
def test_arbitrary_native_bytes_raise_nothing(data: bytes, places: list[int]) -> None:
    prefixes = [b"", b"event: response.completed\ndata: ", b'data: {"type":"response.created","response":']
    for prefix in (*prefixes, b'data: {"type":"response.output_item.done","item":{"content":'):
        stream = prefix + data
        whole, apart = ResponsesPassthrough(facts()), ResponsesPassthrough(facts())
        marks = sorted({place % (len(stream) + 1) for place in places} | {0, len(stream)})
        written = run_stage(whole, [stream])
        assert run_stage(apart, [stream[start:end] for start, end in pairwise(marks)]) == written
        whole.stop()


def test_implausible_usage_of_a_native_stream_is_reported() -> None:
    stage = ResponsesPassthrough(facts())
    stage.feed(named("response.completed", response=RESPONSE | {"usage": {"input_tokens": -1}}))
    assert stage.implausible


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": "9"}, "max_output_tokens"),
        ({"stream": "yes"}, "stream"),
        ({"background": True}, "background"),
        ({"MODEL": "m"}, "model"),
        ({"model": None}, "model"),
    ],
)
def test_request_that_cannot_be_metered_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        RESPONSES.read_request(fields_of({"model": "m", "input": "Hi"} | fields))
    assert refused.value.param == param


def test_request_without_input_is_read() -> None:
    read = RESPONSES.read_request(fields_of({"model": "m", "prompt": {"id": "p"}, "background": False}))
    assert (read.model, read.max_output, read.stream) == ("m", None, False)


def test_prepared_request_keeps_unknown_fields_and_bytes() -> None:
    fields = fields_of({"model": "m", "context_management": [{"x": 1.50}], "input": [], "future": [1]})
    prepared = RESPONSES.prepare(fields, "upstream", True)
    assert json.loads(bytes(prepared["model"])) == "upstream"
    assert {name: prepared[name] for name in fields if name != "model"} == {
        name: fields[name] for name in fields if name != "model"
    }


def body_of(**fields: Any) -> bytes:
    return json.dumps(RESPONSE | fields).encode()


def test_whole_answer_is_measured() -> None:
    found = RESPONSES.read_reply(body_of())
    assert (found.choices, found.usage, found.error) == (1, USAGE, None)
    assert (found.delivered, found.pieces) == (3 + 9 + 22 + 10, 4)
    assert RESPONSES.read_reply(body_of(output=[])).choices == 1
    assert RESPONSES.read_reply(body_of(usage={"input_tokens": -5})).implausible
    assert not RESPONSES.read_reply(b"<html>").readable and not RESPONSES.read_reply(b"[]").readable
    assert RESPONSES.read_reply(body_of(output="text")).choices == 0


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"status": "failed", "error": {"code": "rate_limit_exceeded", "message": "No."}}, 429),
        ({"status": "failed", "error": {"code": "server_error", "message": "No."}, "output": []}, 500),
        ({"status": "cancelled"}, 502),
    ],
)
def test_failed_answer_is_an_error(fields: dict[str, Any], status: int) -> None:
    found = RESPONSES.read_reply(body_of(**fields))
    assert found.error is not None and found.error.status == status


def test_error_in_place_of_an_answer_is_found() -> None:
    found = RESPONSES.read_reply(b'{"error":{"message":"No capacity.","code":"server_error"}}')
    assert found.error is not None and (found.error.status, found.choices) == (500, 0)


def test_one_event_is_read() -> None:
    delta = RESPONSES.read_event(b"", RESPONSES_STREAM[13].split(b"data: ")[1])
    assert (delta.delivered, delta.pieces, delta.usage) == (6, 1, None)
    last = RESPONSES.read_event(b"", RESPONSES_STREAM[-1].split(b"data: ")[1])
    assert last.usage == USAGE and last.error is None
    item = RESPONSES.read_event(b"", RESPONSES_STREAM[17].split(b"data: ")[1])
    assert (item.choices, item.delivered) == (1, 9)
    failed = RESPONSES.read_event(b"error", b'{"type":"error","message":"x","code":"server_error"}')
    assert failed.error is not None and failed.error.status == 500
    assert not RESPONSES.read_event(b"", b"text").readable


def test_whole_answer_and_stream_become_each_other() -> None:
    assert RESPONSES.events_from_reply is not None and RESPONSES.reply_from_events is not None
    assert json.loads(RESPONSES.reply_from_events(STREAM)) == RESPONSE
    events = RESPONSES.events_from_reply(body_of(), True)
    check_responses_order(events_in(events))
    assert json.loads(RESPONSES.reply_from_events(events)) == RESPONSE
    stage = ResponsesPassthrough(facts())
    assert run_stage(stage, [events]) == events and stage.usage == USAGE


def test_refusal_and_odd_arguments_become_a_stream() -> None:
    refusal = {"type": "refusal", "refusal": "I cannot."}
    search = {"id": "tsc_1", "type": "tool_search_call", "arguments": {"query": "x"}, "status": "completed"}
    output = [MESSAGE | {"content": [TEXT, refusal]}, search]
    assert RESPONSES.events_from_reply is not None and RESPONSES.reply_from_events is not None
    events = RESPONSES.events_from_reply(body_of(output=output, status="incomplete"), True)
    check_responses_order(events_in(events))
    kinds = [name for name, _ in events_in(events)]
    assert "response.refusal.delta" in kinds and kinds[-1] == "response.incomplete"


@pytest.mark.parametrize(
    "body", [b"{}", b"x", body_of(status="queued"), body_of(output=[MESSAGE | {"content": [5]}])]
)
def test_answer_that_cannot_become_a_stream_raises_value_error(body: bytes) -> None:
    assert RESPONSES.events_from_reply is not None
    with pytest.raises(ValueError, match="an answer"):
        RESPONSES.events_from_reply(body, True)


def test_error_during_a_stream_is_an_error_event() -> None:
    ((name, data),) = events_in(RESPONSES.write_stream_error("upstream_cut", "The server ended."))
    assert (name, data["type"], data["code"]) == ("error", "error", "upstream_cut")
    assert data["error"] == {
        "type": "server_error",
        "code": "upstream_cut",
        "message": "The server ended.",
        "param": None,
    }


def test_error_has_openais_shape() -> None:
    detail = ErrorDetail(message="No.", type="server_error", code="some_code", status=500)
    body = json.loads(RESPONSES.write_error(detail, "req-1"))
    assert body["error"]["code"] == "some_code" and body["error"]["request_id"] == "req-1"


def test_first_events_of_a_response_are_not_the_answer() -> None:
    opening = StreamOpening()
    assert opening.feed(RESPONSES_STREAM[0] + named("response.queued") + RESPONSES_STREAM[1]) is None
    assert opening.feed(RESPONSES_STREAM[2] + RESPONSES_STREAM[3]) is None, "an item without text"
    assert opening.feed(RESPONSES_STREAM[4]) == "answer"


@pytest.mark.parametrize("code", ["rate_limit_exceeded", "some_new_code"])
def test_response_that_fails_at_once_is_an_error(code: str) -> None:
    failed = RESPONSE | {"status": "failed", "error": {"code": code, "message": "No."}, "output": []}
    opening = StreamOpening()
    opening.feed(RESPONSES_STREAM[0])
    assert opening.feed(named("response.failed", response=failed)) == "error"
    assert opening.error is not None and opening.error.message == "No."


def test_count_of_input_is_estimated() -> None:
    body = {"model": "m", "instructions": "x" * 400, "input": "y" * 400}
    counted = json.loads(estimate_input_tokens(fields_of(body)))
    assert 200 <= counted["input_tokens"] <= 225
    assert list(counted) == ["object", "input_tokens"]
    assert INPUT_TOKENS.estimate is estimate_input_tokens


def test_reply_with_a_count_is_read() -> None:
    assert INPUT_TOKENS.read_reply(b'{"object":"response.input_tokens","input_tokens":7}').choices == 1
    assert not INPUT_TOKENS.read_reply(b"x").readable
    failed = INPUT_TOKENS.read_reply(b'{"error":{"code":"model_not_found","message":"x"}}')
    assert failed.error is not None and failed.error.status == 404


@pytest.mark.parametrize(
    "item", [{"type": "message", "content": 5}, {"type": "reasoning", "summary": 7, "content": {"a": "b"}}]
)
def test_item_with_malformed_parts_has_no_text(item: dict[str, Any]) -> None:
    body = json.dumps(RESPONSE | {"output": [item]}).encode()
    assert RESPONSES.read_reply(body).delivered == 0
    request = ConversationRequest("m", ())
    assert RESPONSES_CODEC.decode_reply(body, request).parts == ()
    done = json.dumps({"type": "response.output_item.done", "output_index": 0, "item": item}).encode()
    assert ResponsesDecoder(request).feed(b"", done) == []
    assert ResponsesPassthrough(facts()).feed(b"data: %b\n\n" % done)
