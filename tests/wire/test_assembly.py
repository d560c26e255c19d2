"""Whole answers as streams and streams as whole answers."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.wire import chat, completions
from bluesminds.wire.chat import CHAT
from bluesminds.wire.stages import Passthrough
from tests.wire.replies import DONE, chunk, data_of, event, request, run, stage

CALLS = [
    {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
    {"id": "t2", "type": "custom", "custom": {"name": "g", "input": "text"}},
]
MESSAGES: list[dict[str, Any]] = [
    {"role": "assistant", "content": "Hello"},
    {"role": "assistant", "content": None, "tool_calls": CALLS},
    {
        "role": "assistant",
        "content": "a",
        "reasoning_content": "b",
        "refusal": "c",
        "annotations": [{"type": "x"}],
    },
    {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
    {
        "role": "assistant",
        "content": None,
        "audio": {"id": "a", "data": "AAAA", "transcript": "t", "expires_at": 5},
    },
    {"role": "assistant", "content": [{"type": "text", "text": "x"}]},
]
USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}


def answer(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    choices = [
        {"index": index, "message": message, "logprobs": None, "finish_reason": "stop"}
        for index, message in enumerate(messages)
    ]
    head = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "system_fingerprint": "f"}
    return {**head, "choices": choices, "usage": USAGE, **more}


@pytest.mark.parametrize("messages", [*[[message] for message in MESSAGES], MESSAGES])
def test_answer_as_a_stream_and_back_is_the_same(messages: list[dict[str, Any]]) -> None:
    whole = answer(*messages)
    stream = chat.events_from_reply(json.dumps(whole).encode(), True)
    assert json.loads(chat.reply_from_events(stream)) == whole
    passthrough = Passthrough(CHAT, request(wants_usage=True))
    assert run(passthrough, [stream]) == stream
    assert passthrough.finished and passthrough.usage.output_tokens == 7
    reply = CHAT.read_reply(json.dumps(whole).encode())
    assert (reply.delivered, reply.pieces) == (passthrough._delivered, passthrough._pieces)


def test_stream_of_an_answer_has_openais_chunks() -> None:
    events = data_of(chat.events_from_reply(json.dumps(answer(MESSAGES[1])).encode(), False))
    assert events[-1] == "[DONE]"
    assert [one["object"] for one in events[:-1]] == ["chat.completion.chunk"] * 2
    assert all("usage" not in one and one["id"] == "c" for one in events[:-1])
    delta = events[0]["choices"][0]["delta"]
    assert [(call["index"], call["id"]) for call in delta["tool_calls"]] == [(0, "t1"), (1, "t2")]
    assert events[1]["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "stop"}


def test_answer_without_a_finish_reason_ends_all_the_same() -> None:
    body = json.dumps({"choices": [{"message": {"content": "x"}}]}).encode()
    assert data_of(chat.events_from_reply(body, True))[1]["choices"][0]["finish_reason"] == "stop"


def test_odd_values_of_an_answer_pass() -> None:
    body = (
        b'{"id":"c","speed":NaN,"choices":[{"index":0,"message":{"content":"\\ud83d"},"p":1.50}],"usage":{}}'
    )
    stream = chat.events_from_reply(body, True)
    assert b'"speed":NaN' in stream and b"[DONE]" in stream


@pytest.mark.parametrize(
    "body", [b"{}", b"", b"[]", b'{"choices":[]}', b'{"choices":null}', b'{"choices":{}}', b"<"]
)
def test_answer_without_choices_makes_no_stream(body: bytes) -> None:
    for make in (chat.events_from_reply, completions.events_from_reply):
        with pytest.raises(ValueError):
            make(body, True)


@pytest.mark.parametrize("stream", [b"", DONE, b": x\n\n", b"data: {}\n\n", chunk()])
def test_stream_without_choices_makes_no_answer(stream: bytes) -> None:
    with pytest.raises(ValueError, match="choices"):
        chat.reply_from_events(stream)


def test_stream_in_pieces_becomes_one_answer() -> None:
    def part(index: int, finish: str | None = None, logprobs: Any = None, **delta: Any) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return event(
            {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
        )

    def call(index: int, **function: Any) -> dict[str, Any]:
        return {"index": index, "function": function}

    stream = b"".join(
        [
            b": waiting\n\n",
            part(1, role="assistant", content=""),
            part(0, role="assistant", content=None),
            part(0, tool_calls=[{**call(1, name="g", arguments=""), "id": "t2", "type": "function"}]),
            part(0, tool_calls=[{**call(0, name="f", arguments='{"a'), "id": "t1", "type": "function"}]),
            part(0, tool_calls=[call(0, arguments='":1}'), call(1, arguments="{}")]),
            part(1, content="Hel", logprobs={"content": [{"token": "Hel"}], "refusal": None}),
            b"data: {broken\n\n",
            part(1, content="lo", logprobs={"content": [{"token": "lo"}], "refusal": None}),
            part(1, reasoning_content="th"),
            part(1, reasoning_content="ink", finish="length"),
            part(0, finish="tool_calls"),
            chunk(usage=USAGE),
            chunk(usage={"prompt_tokens": 0, "completion_tokens": 0}),
            DONE,
            part(0, content="late"),
        ]
    )
    made = json.loads(chat.reply_from_events(stream))
    assert (made["object"], made["usage"]) == ("chat.completion", USAGE)
    first, second = made["choices"]
    assert first["finish_reason"] == "tool_calls"
    calls = {call["id"]: call["function"] for call in first["message"]["tool_calls"]}
    assert calls == {"t1": {"name": "f", "arguments": '{"a":1}'}, "t2": {"name": "g", "arguments": "{}"}}
    assert first["message"]["content"] is None
    assert second["message"] == {"role": "assistant", "content": "Hello", "reasoning_content": "think"}
    assert second["logprobs"]["content"] == [{"token": "Hel"}, {"token": "lo"}]
    assert second["finish_reason"] == "length"


@given(st.lists(st.text(max_size=5), min_size=1, max_size=20))
def test_text_in_any_pieces_is_joined(texts: list[str]) -> None:
    stream = b"".join([chunk(text) for text in texts]) + DONE
    made = json.loads(chat.reply_from_events(stream))
    assert made["choices"][0]["message"]["content"] == "".join(texts)
    passthrough = stage(wants_usage=True)
    assert run(passthrough, [stream]) == stream


def test_legacy_completion_as_a_stream_and_back_is_the_same() -> None:
    logprobs = {"tokens": ["a"], "token_logprobs": [-0.5], "top_logprobs": [{}], "text_offset": [0]}
    choice = {"index": 0, "text": "hello", "logprobs": logprobs, "finish_reason": "length"}
    head = {"id": "c", "object": "text_completion", "created": 1, "model": "m"}
    whole = {**head, "choices": [choice, choice | {"index": 1}], "usage": USAGE}
    stream = completions.events_from_reply(json.dumps(whole).encode(), True)
    assert [one["object"] for one in data_of(stream)[:-1]] == ["text_completion"] * 5
    assert json.loads(completions.reply_from_events(stream)) == whole
