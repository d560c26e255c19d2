"""Messages as a format of its own: native streams, whole replies, errors, counts."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.common.errors import InvalidRequest
from bluesminds.common.values import Usage
from bluesminds.wire.errors import ErrorDetail
from bluesminds.wire.messages import COUNT_TOKENS, MESSAGES, estimate_count
from bluesminds.wire.messages_passthrough import MessagesPassthrough
from tests.cases import each
from tests.wire.conversations import check_messages_order, events_in, facts, fields_of, named, run_stage
from tests.wire.test_translation import MESSAGES_STREAM, state

USAGE = Usage(50, 15, 30, None, None, "upstream")
STREAM = b"".join(MESSAGES_STREAM)
ODD = [b": comment\n\n", named("future_event", x=1), b"event: future\ndata: text\n\n"]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_native_stream_passes_byte_for_byte_however_it_is_cut(line_end: bytes) -> None:
    stream = b"".join([*MESSAGES_STREAM[:8], *ODD, *MESSAGES_STREAM[8:]]).replace(b"\n", line_end)
    whole = MessagesPassthrough(facts())
    assert run_stage(whole, [stream]) == stream
    assert whole.usage == USAGE and whole.output == 15
    bytewise = MessagesPassthrough(facts())
    assert run_stage(bytewise, [stream[at : at + 1] for at in range(len(stream))]) == stream
    assert state(bytewise) == state(whole)
    for at in range(1, len(stream), 7):
        assert run_stage(MessagesPassthrough(facts()), [stream[:at], stream[at:]]) == stream


def test_message_stop_is_held_back_and_nothing_follows_it() -> None:
    stage = MessagesPassthrough(facts())
    sent = b"".join([stage.feed(piece) for piece in MESSAGES_STREAM])
    assert sent == STREAM.removesuffix(MESSAGES_STREAM[-1])
    assert stage.final and stage.feed(MESSAGES_STREAM[7]) == b""
    assert stage.finish() == MESSAGES_STREAM[-1]


def test_cut_native_stream_is_not_finished() -> None:
    for length in range(len(STREAM) - len(MESSAGES_STREAM[-1]) - len(MESSAGES_STREAM[-2])):
        stage = MessagesPassthrough(facts())
        written = run_stage(stage, [STREAM[:length]])
        assert not stage.finished and b"message_stop" not in written
        assert STREAM.startswith(written.rstrip(b"\n"))


def test_native_stream_without_message_stop_gets_one() -> None:
    stage = MessagesPassthrough(facts())
    written = run_stage(stage, MESSAGES_STREAM[:-1])
    check_messages_order(events_in(written))
    assert stage.finished and stage.final and stage.usage == USAGE


@each("length", range(18))
def test_stop_ends_a_native_stream_cleanly(length: int) -> None:
    stage = MessagesPassthrough(facts())
    written = b"".join([stage.feed(piece) for piece in MESSAGES_STREAM[:length]]) + stage.stop()
    events = events_in(written)
    check_messages_order(events)
    reason = "tool_use" if length > 17 else "max_tokens"
    assert events[-2][1]["delta"] == {"stop_reason": reason, "stop_sequence": None}
    if reason == "max_tokens":
        assert events[-2][1]["usage"]["output_tokens"] == stage.usage.output_tokens
    assert stage.feed(MESSAGES_STREAM[7]) == b"" and stage.finish() == b""


def test_output_grows_with_the_text_before_it_is_reported() -> None:
    stage = MessagesPassthrough(facts())
    stage.feed(MESSAGES_STREAM[0])
    for _ in range(10):
        stage.feed(named("content_block_delta", index=0, delta={"type": "text_delta", "text": "x" * 400}))
    assert stage.output == 1000 and stage.usage == Usage(50, 1000, 30, None, None, "estimated")


@pytest.mark.parametrize(
    "data", ["{", '{"type":"content_block_delta","index":0,"delta":', "<html>", '{"a":}']
)
def test_known_event_that_is_not_json_does_not_pass(data: str) -> None:
    stage = MessagesPassthrough(facts())
    assert stage.feed(f"event: content_block_delta\ndata: {data}\n\n".encode()) == b""


def test_error_event_passes_and_is_read() -> None:
    stage = MessagesPassthrough(facts())
    failure = named("error", error={"type": "overloaded_error", "message": "Overloaded"}, request_id="req_1")
    assert stage.feed(failure) == failure
    assert stage.error is not None and (stage.error.status, stage.error.message) == (503, "Overloaded")


@given(st.binary(max_size=200) | st.text(max_size=60).map(str.encode), st.lists(st.integers(0, 300)))
def test_arbitrary_native_bytes_raise_nothing(data: bytes, places: list[int]) -> None:
    for prefix in (b"", b"event: message_delta\ndata: ", b'data: {"type":"message_start","message":'):
        stream = prefix + data
        whole, apart = MessagesPassthrough(facts()), MessagesPassthrough(facts())
        marks = sorted({place % (len(stream) + 1) for place in places} | {0, len(stream)})
        written = run_stage(whole, [stream])
        assert run_stage(apart, [stream[start:end] for start, end in pairwise(marks)]) == written


def test_implausible_usage_of_a_native_stream_is_reported() -> None:
    stage = MessagesPassthrough(facts())
    stage.feed(named("message_start", message={"id": "m", "usage": {"input_tokens": -1}}))
    assert stage.implausible


@pytest.mark.parametrize("fields", [{"max_tokens": 0}, {"max_tokens": "9"}, {"max_tokens": None}, {}])
def test_request_without_a_valid_bound_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        MESSAGES.read_request(fields_of({"model": "m", "messages": []} | fields))
    assert refused.value.param == "max_tokens"


def test_pictures_are_not_counted_as_text() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "A" * 100_000}
    content = [{"type": "image", "source": source}]
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": content}]}
    assert MESSAGES.read_request(fields_of(body)).text_bytes < 300


def test_prepared_request_keeps_unknown_fields_and_bytes() -> None:
    fields = fields_of({"model": "m", "context_management": {"x": 1.50}, "messages": [], "future": [1]})
    prepared = MESSAGES.prepare(fields, "upstream", True)
    assert json.loads(bytes(prepared["model"])) == "upstream"
    assert {name: prepared[name] for name in fields if name != "model"} == {
        name: fields[name] for name in fields if name != "model"
    }


def reply(**fields: Any) -> bytes:
    return json.dumps({"id": "msg_1", "type": "message", "role": "assistant", "model": "m"} | fields).encode()


def test_whole_reply_is_measured() -> None:
    content = [
        {"type": "text", "text": "abcd"},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"x": 1}},
        {"type": "server_tool_use", "id": "s", "name": "g", "input": {}},
    ]
    found = MESSAGES.read_reply(reply(content=content, usage={"input_tokens": 5, "output_tokens": 6}))
    assert (found.choices, found.delivered, found.pieces) == (1, 4 + 1 + 7 + 1, 3)
    assert found.usage == Usage(5, 6, usage_source="upstream")
    assert MESSAGES.read_reply(reply(content=[])).choices == 1
    assert MESSAGES.read_reply(reply(content=[], usage={"input_tokens": -5})).implausible
    assert not MESSAGES.read_reply(b"<html>").readable and not MESSAGES.read_reply(b"[]").readable
    assert MESSAGES.read_reply(reply(content="text")).choices == 0


def test_error_in_place_of_a_reply_is_found() -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    found = MESSAGES.read_reply(json.dumps(error).encode())
    assert found.error is not None and found.error.status == 503 and found.choices == 0


def test_one_event_is_read() -> None:
    start = MESSAGES.read_event(b"message_start", MESSAGES_STREAM[0].split(b"data: ")[1])
    assert start.usage == Usage(50, 1, 30, None, None, "upstream")
    delta = MESSAGES.read_event(b"content_block_delta", MESSAGES_STREAM[7].split(b"data: ")[1])
    assert (delta.delivered, delta.pieces) == (6, 1)
    failed = MESSAGES.read_event(b"error", b'{"type":"error","error":{"type":"api_error","message":"x"}}')
    assert failed.error is not None and failed.error.status == 500
    assert not MESSAGES.read_event(b"", b"text").readable


def test_whole_reply_and_stream_become_each_other() -> None:
    assert MESSAGES.events_from_reply is not None and MESSAGES.reply_from_events is not None
    whole = json.loads(MESSAGES.reply_from_events(STREAM))
    assert [block["type"] for block in whole["content"]] == ["thinking", "text", "tool_use", "tool_use"]
    assert whole["content"][0]["signature"] == "c2ln"
    assert (whole["stop_reason"], whole["usage"]["output_tokens"]) == ("tool_use", 15)
    events = MESSAGES.events_from_reply(json.dumps(whole).encode(), True)
    check_messages_order(events_in(events))
    assert json.loads(MESSAGES.reply_from_events(events)) == whole


@pytest.mark.parametrize("content", [None, [{"type": "server_tool_use", "id": "s", "name": "g"}]])
def test_reply_that_cannot_become_a_stream_raises_value_error(content: Any) -> None:
    assert MESSAGES.events_from_reply is not None
    with pytest.raises(ValueError, match="content"):
        MESSAGES.events_from_reply(reply(content=content), True)


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b"".join(MESSAGES_STREAM[:-2]),
        MESSAGES_STREAM[0] + named("error", error={"type": "api_error", "message": "x"}),
        MESSAGES_STREAM[0]
        + named("content_block_start", index=0, content_block={"type": "server_tool_use"})
        + b"".join(MESSAGES_STREAM[-2:]),
    ],
)
def test_stream_that_cannot_become_a_reply_raises_value_error(stream: bytes) -> None:
    assert MESSAGES.reply_from_events is not None
    with pytest.raises(ValueError, match=r"stream|content"):
        MESSAGES.reply_from_events(stream)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
        (None, "api_error"),
    ],
)
@pytest.mark.parametrize("type_", ["server_error", "invalid_request_error"])
def test_error_has_the_type_of_its_status(status: int | None, kind: str, type_: str) -> None:
    if status is None and type_ == "invalid_request_error":
        kind = type_
    detail = ErrorDetail(message="No.", type=type_, code="some_code", status=status)
    assert json.loads(MESSAGES.write_error(detail, "req-1")) == {
        "type": "error",
        "error": {"type": kind, "message": "No.", "details": {"error_code": "some_code"}},
        "request_id": "req-1",
    }


def test_error_in_mid_stream_is_an_error_event() -> None:
    ((name, data),) = events_in(MESSAGES.write_stream_error("upstream_cut", "The server ended."))
    assert (name, data["type"], data["error"]["type"]) == ("error", "error", "api_error")


def test_count_of_tokens_is_estimated_and_marked() -> None:
    body = {"model": "m", "system": "x" * 400, "messages": [{"role": "user", "content": "y" * 400}]}
    counted = json.loads(estimate_count(fields_of(body)))
    assert 200 <= counted["input_tokens"] <= 225
    assert list(counted) == ["input_tokens"]


def test_reply_with_a_count_is_read() -> None:
    assert COUNT_TOKENS.read_reply(b'{"input_tokens": 7}').choices == 1
    assert not COUNT_TOKENS.read_reply(b"x").readable
    failed = COUNT_TOKENS.read_reply(b'{"type":"error","error":{"type":"not_found_error","message":"x"}}')
    assert failed.error is not None and failed.error.status == 404
