"""Streams that are translated: complete, in order, and the same however they are cut."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.common.values import Usage
from bluesminds.wire.base import Stage
from tests.cases import each
from tests.wire.conversations import (
    check_messages_order,
    events_in,
    named,
    run_stage,
    to_chat,
    to_messages,
)
from tests.wire.replies import DONE, chunk, delta_chunk, event

USAGE = {
    "prompt_tokens": 50,
    "completion_tokens": 9,
    "total_tokens": 59,
    "prompt_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 10},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
THINKS = {"thinking": {"type": "adaptive"}}


def call(index: int | None = None, **fields: Any) -> bytes:
    """A chunk of one tool call."""
    function = {name: fields.pop(name) for name in ("name", "arguments") if name in fields}
    place = {} if index is None else {"index": index}
    return delta_chunk(tool_calls=[place | fields | {"function": function}])


CHAT_STREAM = [
    delta_chunk(role="assistant", content=""),
    b": OPENROUTER PROCESSING\n\n",
    delta_chunk(reasoning_content="Let me "),
    delta_chunk(reasoning_content="see."),
    chunk("It is "),
    chunk("ünicode 🎷"),
    call(0, id="call_a", type="function", name="weather", arguments=""),
    call(0, arguments='{"city":'),
    call(0, arguments='"Oslo"}'),
    call(1, id="call_b", type="function", name="time", arguments="{}"),
    chunk(finish="tool_calls"),
    chunk(usage=USAGE),
    DONE,
]

MESSAGES_STREAM = [
    named(
        "message_start",
        message={
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 20, "cache_read_input_tokens": 30, "output_tokens": 1},
        },
    ),
    named(
        "content_block_start",
        index=0,
        content_block={"type": "thinking", "thinking": "", "signature": ""},
    ),
    named("ping"),
    named("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "Hm."}),
    named("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "c2ln"}),
    named("content_block_stop", index=0),
    named("content_block_start", index=1, content_block={"type": "text", "text": ""}),
    named("content_block_delta", index=1, delta={"type": "text_delta", "text": "It is "}),
    named("content_block_delta", index=1, delta={"type": "text_delta", "text": "so."}),
    named("content_block_stop", index=1),
    named(
        "content_block_start",
        index=2,
        content_block={"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}},
    ),
    named("content_block_delta", index=2, delta={"type": "input_json_delta", "partial_json": ""}),
    named("content_block_delta", index=2, delta={"type": "input_json_delta", "partial_json": '{"city":'}),
    named("content_block_delta", index=2, delta={"type": "input_json_delta", "partial_json": '"Oslo"}'}),
    named("content_block_stop", index=2),
    named(
        "content_block_start",
        index=3,
        content_block={"type": "tool_use", "id": "toolu_2", "name": "time", "input": {}},
    ),
    named("content_block_stop", index=3),
    named(
        "message_delta",
        delta={"stop_reason": "tool_use", "stop_sequence": None},
        usage={"input_tokens": None, "output_tokens": 15},
    ),
    named("message_stop"),
]


def state(stage: Stage) -> tuple[Any, ...]:
    return (
        stage.usage,
        stage.output,
        stage.implausible,
        stage.started,
        stage.finished,
        stage.final,
        stage.error,
    )


def blocks_of(events: list[tuple[str, Any]]) -> list[dict[str, Any]]:
    """The content that a client of Messages puts together."""
    blocks: list[dict[str, Any]] = []
    for name, data in events:
        if name == "content_block_start":
            blocks.append(dict(data["content_block"], input=""))
        elif name == "content_block_delta":
            for field in ("text", "thinking", "partial_json", "signature"):
                if field in data["delta"]:
                    target = "input" if field == "partial_json" else field
                    blocks[data["index"]][target] += data["delta"][field]
    return blocks


def test_chat_stream_becomes_a_whole_messages_stream() -> None:
    stage = to_messages(**THINKS)
    events = [one for one in events_in(run_stage(stage, CHAT_STREAM)) if one[0]]
    check_messages_order(events)
    assert events[0][1]["message"]["id"] == "chatcmpl-1"
    assert blocks_of(events) == [
        {"type": "thinking", "thinking": "Let me see.", "signature": "", "input": ""},
        {"type": "text", "text": "It is ünicode 🎷", "input": ""},
        {"type": "tool_use", "id": "call_a", "name": "weather", "input": '{"city":"Oslo"}'},
        {"type": "tool_use", "id": "call_b", "name": "time", "input": "{}"},
    ]
    assert events[-2][1] == {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use", "stop_sequence": None},
        "usage": {
            "input_tokens": 20,
            "cache_creation_input_tokens": 10,
            "cache_read_input_tokens": 20,
            "output_tokens": 9,
            "output_tokens_details": {"thinking_tokens": 3},
        },
    }
    assert stage.usage == Usage(50, 9, 20, 10, 3, "upstream")
    assert (stage.started, stage.finished, stage.final, stage.error) == (True, True, True, None)


def test_messages_stream_becomes_a_whole_chat_stream() -> None:
    stage = to_chat()
    events = [data for _, data in events_in(run_stage(stage, MESSAGES_STREAM))]
    assert events.pop() == "[DONE]"
    assert ": ping\n\n" in events, "a keep-alive passes as a comment"
    report = events.pop()
    assert report["choices"] == [] and report["usage"] == {
        "prompt_tokens": 50,
        "completion_tokens": 15,
        "total_tokens": 65,
        "prompt_tokens_details": {"cached_tokens": 30},
    }
    chunks = [one for one in events if isinstance(one, dict)]
    assert {(one["id"], one["created"], one["model"], one["object"]) for one in chunks} == {
        ("msg_1", 7, "m", "chat.completion.chunk")
    }
    assert all(one["usage"] is None for one in chunks)
    choices = [one["choices"][0] for one in chunks]
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["tool_calls"]
    deltas = [choice["delta"] for choice in choices]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Hm."
    assert "".join(delta.get("content", "") for delta in deltas) == "It is so."
    pieces = [piece for delta in deltas for piece in delta.get("tool_calls", ())]
    assert [(piece["index"], piece.get("id"), piece["function"]) for piece in pieces] == [
        (0, "toolu_1", {"name": "weather", "arguments": ""}),
        (0, None, {"arguments": '{"city":'}),
        (0, None, {"arguments": '"Oslo"}'}),
        (1, "toolu_2", {"name": "time", "arguments": ""}),
        (1, None, {"arguments": "{}"}),
    ]
    assert stage.usage == Usage(50, 15, 30, None, None, "upstream")


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_translated_stream_cut_at_every_byte_is_the_same(line_end: bytes) -> None:
    for make, pieces in ((to_messages, CHAT_STREAM), (to_chat, MESSAGES_STREAM)):
        stream = b"".join(pieces).replace(b"\n", line_end)
        whole = make()
        expected = run_stage(whole, [stream])
        assert expected == run_stage(make(), [piece.replace(b"\n", line_end) for piece in pieces])
        bytewise = make()
        assert run_stage(bytewise, [stream[at : at + 1] for at in range(len(stream))]) == expected
        assert state(bytewise) == state(whole)
        for at in range(1, len(stream), 7):
            assert run_stage(make(), [stream[:at], stream[at:]]) == expected


chat_pieces = (
    st.builds(chunk, st.text(max_size=4))
    | st.builds(lambda text: delta_chunk(reasoning_content=text), st.text(max_size=4))
    | st.builds(
        lambda index, id_, arguments: call(index, id=id_, name="f", arguments=arguments),
        st.integers(0, 2) | st.none(),
        st.sampled_from(["a", "b", None]),
        st.sampled_from(["", "{}", '{"a":', "1}", "}"]),
    )
    | st.sampled_from([chunk(usage=USAGE), b": x\n\n", event({"choices": []}), b"data: {\n\n"])
)


@given(st.lists(chat_pieces, max_size=12), st.booleans(), st.lists(st.integers(0, 5000), max_size=5))
def test_any_chat_stream_becomes_an_ordered_messages_stream(
    pieces: list[bytes], thinks: bool, places: list[int]
) -> None:
    stream = b"".join([chunk("x"), *pieces, chunk(finish="stop"), DONE])
    options = THINKS if thinks else {}
    stage = to_messages(**options)
    written = run_stage(stage, [stream])
    events = [one for one in events_in(written) if one[0]]
    if stage.error is None:
        check_messages_order(events)
        assert thinks or all(block["type"] != "thinking" for block in blocks_of(events))
    else:
        assert events[-1][0] == "error"
    marks = sorted({place % (len(stream) + 1) for place in places} | {0, len(stream)})
    again = to_messages(**options)
    assert run_stage(again, [stream[start:end] for start, end in pairwise(marks)]) == written
    assert state(again) == state(stage)


def test_interleaved_calls_follow_one_another() -> None:
    stage = to_messages()
    pieces = [
        call(0, id="a", name="f", arguments=""),
        call(1, id="b", name="g", arguments=""),
        call(1, arguments='{"y":'),
        call(0, arguments='{"x":1}'),
        call(1, arguments="2}"),
        chunk(finish="stop"),
        DONE,
    ]
    events = events_in(run_stage(stage, pieces))
    check_messages_order(events)
    assert [(block["id"], block["input"]) for block in blocks_of(events)] == [
        ("a", '{"x":1}'),
        ("b", '{"y":2}'),
    ]
    assert events[-2][1]["delta"]["stop_reason"] == "tool_use", 'some servers say "stop" after calls'


def test_calls_without_index_or_id_are_distinguished() -> None:
    pieces = [
        delta_chunk(
            tool_calls=[
                {"id": "a", "function": {"name": "f", "arguments": {"x": 1}}},
                {"id": "b", "function": {"name": "f", "arguments": "{}"}},
            ]
        ),
        call(2, name="h", arguments="{}"),
        chunk(finish="tool_calls"),
        DONE,
    ]
    blocks = blocks_of(events_in(run_stage(to_messages(), pieces)))
    assert [(block["id"], block["input"]) for block in blocks] == [
        ("a", '{"x":1}'),
        ("b", "{}"),
        ("call_chatcmpl-1_2", "{}"),
    ]


@pytest.mark.parametrize("count", [1, 150])
def test_equal_pieces_all_pass(count: int) -> None:
    pieces = [chunk("ha ")] * count
    blocks = blocks_of(events_in(run_stage(to_messages(), [*pieces, chunk(finish="stop"), DONE])))
    assert blocks[0]["text"] == "ha " * count


def test_input_of_a_call_that_comes_with_its_start_is_kept() -> None:
    block = {"type": "tool_use", "id": "t", "name": "f", "input": {"x": [1]}}
    pieces = [
        MESSAGES_STREAM[0],
        named("content_block_start", index=0, content_block=block),
        named("content_block_stop", index=0),
        *MESSAGES_STREAM[-2:],
    ]
    stream = run_stage(to_chat(), pieces)
    assert b'"arguments":"{\\"x\\": [1]}"' in stream


@pytest.mark.parametrize(
    ("reason", "stop_reason"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("tool_calls", "tool_use"),
        ("content_filter", "refusal"),
        ("eos", "end_turn"),
    ],
)
def test_finish_reason_becomes_a_stop_reason(reason: str, stop_reason: str) -> None:
    events = events_in(run_stage(to_messages(), [chunk("x"), chunk(finish=reason), DONE]))
    assert events[-2][1]["delta"] == {"stop_reason": stop_reason, "stop_sequence": None}


def test_stop_sequence_that_vllm_names_is_forwarded() -> None:
    end = chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": "END"}])
    events = events_in(run_stage(to_messages(stop_sequences=["END"]), [chunk("x"), end, DONE]))
    assert events[-2][1]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "END"}


def test_refusal_of_a_chat_server_is_a_refusal() -> None:
    stage = to_messages()
    events = events_in(run_stage(stage, [delta_chunk(refusal="I can't."), chunk(finish="stop"), DONE]))
    assert blocks_of(events)[0]["text"] == "I can't."
    assert events[-2][1]["delta"]["stop_reason"] == "refusal"


@pytest.mark.parametrize(
    ("stop_reason", "reason"),
    [
        ("end_turn", "stop"),
        ("max_tokens", "length"),
        ("stop_sequence", "stop"),
        ("tool_use", "tool_calls"),
        ("pause_turn", "stop"),
        ("refusal", "content_filter"),
        ("model_context_window_exceeded", "length"),
    ],
)
def test_stop_reason_becomes_a_finish_reason(stop_reason: str, reason: str) -> None:
    pieces = [
        MESSAGES_STREAM[0],
        named("message_delta", delta={"stop_reason": stop_reason}, usage={"output_tokens": 2}),
        named("message_stop"),
    ]
    events = events_in(run_stage(to_chat(), pieces))
    assert events[-3][1]["choices"][0]["finish_reason"] == reason


def test_empty_answer_has_no_content() -> None:
    events = events_in(run_stage(to_messages(), [delta_chunk(role="assistant"), chunk(finish="stop"), DONE]))
    check_messages_order(events)
    assert [name for name, _ in events] == ["message_start", "message_delta", "message_stop"]


def test_end_is_held_back_until_finish() -> None:
    for stage, pieces, end in (
        (to_messages(), CHAT_STREAM, b"message_stop"),
        (to_chat(), MESSAGES_STREAM, b"[DONE]"),
    ):
        sent = b"".join([stage.feed(piece) for piece in pieces])
        assert stage.final and end not in sent
        assert stage.feed(pieces[5]) == b"", "nothing after the end passes"
        assert end in stage.finish()


def test_chat_stream_without_done_ends_by_its_finish_reason() -> None:
    stage = to_messages()
    events = events_in(run_stage(stage, CHAT_STREAM[4:-1]))
    check_messages_order(events)
    assert stage.finished and stage.final


@pytest.mark.parametrize(("make", "stream"), [(to_messages, CHAT_STREAM), (to_chat, MESSAGES_STREAM)])
def test_cut_stream_has_no_end(make: Any, stream: list[bytes]) -> None:
    whole = b"".join(stream)
    for length in range(0, len(b"".join(stream[:8])), 11):
        stage = make()
        written = run_stage(stage, [whole[:length]])
        assert not stage.finished and not stage.final and stage.error is None
        assert b"message_stop" not in written and b"[DONE]" not in written
        assert stage.usage.output_tokens == stage.output


def test_error_in_a_messages_stream_becomes_a_chat_error() -> None:
    failure = named("error", error={"type": "overloaded_error", "message": "Overloaded"})
    stage = to_chat()
    stream = run_stage(stage, [*MESSAGES_STREAM[:8], failure, *MESSAGES_STREAM[8:]])
    last = events_in(stream)[-1][1]
    assert last["error"]["message"] == "Overloaded" and last["error"]["type"] == "overloaded_error"
    assert stage.error is not None and stage.error.status == 503


def test_error_in_a_chat_stream_becomes_an_error_event() -> None:
    failure = event({"error": {"message": "too long", "type": "invalid_request_error", "code": 400}})
    stage = to_messages()
    stream = run_stage(stage, [*CHAT_STREAM[:6], failure, *CHAT_STREAM[6:]])
    assert events_in(stream)[-1] == (
        "error",
        {
            "type": "error",
            "error": {
                "type": "invalid_request_error",
                "message": "too long",
                "details": {"error_code": "400"},
            },
        },
    )
    assert stage.error is not None and not stage.finished


@each("length", range(12))
def test_stop_ends_a_messages_stream_cleanly(length: int) -> None:
    stage = to_messages(**THINKS)
    stream = b"".join([stage.feed(piece) for piece in CHAT_STREAM[:length]]) + stage.stop()
    events = [one for one in events_in(stream) if one[0]]
    check_messages_order(events)
    stopped = "tool_use" if length > 10 else "max_tokens"
    assert events[-2][1]["delta"]["stop_reason"] == stopped
    assert events[-2][1]["usage"]["output_tokens"] == stage.usage.output_tokens
    assert stage.final and stage.feed(CHAT_STREAM[4]) == b"" and stage.finish() == b""


@each("length", range(17))
def test_stop_ends_a_chat_stream_cleanly(length: int) -> None:
    stage = to_chat()
    stream = b"".join([stage.feed(piece) for piece in MESSAGES_STREAM[:length]]) + stage.stop()
    events = [data for _, data in events_in(stream) if not str(data).startswith(":")]
    assert events[-1] == "[DONE]" and events[-2]["usage"]["completion_tokens"] == stage.usage.output_tokens
    assert events[-3]["choices"][0]["finish_reason"] == "length"


def test_usage_counts_that_message_delta_lacks_stay() -> None:
    start = {"id": "m", "usage": {"input_tokens": 10, "cache_read_input_tokens": 9000, "output_tokens": 1}}
    end = {"input_tokens": 10, "cache_read_input_tokens": 0, "output_tokens": 7}
    pieces = [
        named("message_start", message=start),
        named("message_delta", delta={"stop_reason": "end_turn"}, usage=end),
        named("message_stop"),
    ]
    stage = to_chat()
    run_stage(stage, pieces)
    assert stage.usage == Usage(9010, 7, 9000, None, None, "upstream")


def test_usage_that_is_not_reported_is_estimated() -> None:
    stage = to_messages()
    events = events_in(run_stage(stage, [chunk("12345678"), chunk(finish="stop"), DONE]))
    assert stage.usage == Usage(10, 2, usage_source="estimated")
    counts = events[-2][1]["usage"]
    assert (counts["input_tokens"], counts["output_tokens"]) == (10, 2)


def test_chat_client_gets_the_estimate_of_a_usage_that_is_not_reported() -> None:
    messages = [
        named("message_start", message={"id": "m", "model": "x"}),
        named("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        named("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hello world"}),
        named("content_block_stop", index=0),
        named("message_delta", delta={"stop_reason": "end_turn"}),
        named("message_stop"),
    ]
    stage = to_chat()
    *_, (_, report), _ = events_in(run_stage(stage, messages))
    assert report["usage"]["completion_tokens"] == stage.usage.output_tokens > 0
