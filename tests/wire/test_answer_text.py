"""The text of prompts and answers, for people."""

from typing import Any

import msgspec
import pytest

from bluesminds.wire.answer_text import AnswerJoiner, answer_text, last_prompt_text
from tests.cases import each

CALL = {"name": "sum", "arguments": '{"a":1}'}
ANSWERS: list[tuple[dict[str, Any], str]] = [
    ({"choices": [{"message": {"content": "Hello"}}]}, "Hello"),
    ({"choices": [{"message": {"content": [{"type": "text", "text": "Hi"}]}}]}, "Hi"),
    (
        {"choices": [{"message": {"content": None, "tool_calls": [{"function": CALL}]}}]},
        '[tool call sum] {"a":1}',
    ),
    ({"choices": [{"text": "once"}]}, "once"),
    ({"type": "message", "content": [{"type": "text", "text": "Salut"}]}, "Salut"),
    (
        {"type": "message", "content": [{"type": "tool_use", "name": "sum", "input": {"a": 1}}]},
        '[tool call sum] {"a":1}',
    ),
    ({"output": [{"type": "message", "content": [{"type": "output_text", "text": "Hola"}]}]}, "Hola"),
    ({"output": [{"type": "function_call", **CALL}]}, '[tool call sum] {"a":1}'),
    ({"candidates": [{"content": {"parts": [{"text": "Ciao"}]}}]}, "Ciao"),
    (
        {"candidates": [{"content": {"parts": [{"functionCall": {"name": "sum", "args": {"a": 1}}}]}}]},
        '[tool call sum] {"a":1}',
    ),
    ({"text": "a transcript"}, "a transcript"),
    ({"data": [{"embedding": [1.0]}]}, ""),
]
STREAMS: list[tuple[list[dict[str, Any]], str]] = [
    ([{"choices": [{"delta": {"content": "Hel"}}]}, {"choices": [{"delta": {"content": "lo"}}]}], "Hello"),
    (
        [
            {"choices": [{"delta": {"tool_calls": [{"function": {"name": "sum", "arguments": ""}}]}}]},
            {"choices": [{"delta": {"tool_calls": [{"function": {"arguments": '{"a":1}'}}]}}]},
        ],
        '[tool call sum] {"a":1}',
    ),
    (
        [
            {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Sa"}},
            {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "lut"}},
        ],
        "Salut",
    ),
    ([{"type": "response.output_text.delta", "delta": "Hola"}, {"type": "response.completed"}], "Hola"),
    ([{"candidates": [{"content": {"parts": [{"text": "Ciao"}]}}]}], "Ciao"),
]


@each(("reply", "expected"), ANSWERS)
def test_text_of_each_format_is_found(reply: dict[str, Any], expected: str) -> None:
    assert answer_text(msgspec.json.encode(reply)).strip() == expected


@pytest.mark.parametrize(("events", "expected"), STREAMS)
def test_text_of_a_stream_is_joined_from_pieces_of_any_size(
    events: list[dict[str, Any]], expected: str
) -> None:
    stream = b"".join(b"data: " + msgspec.json.encode(event) + b"\n\n" for event in events)
    stream += b": comment\n\ndata: [DONE]\n\ndata: not json\n\n"
    for size in (1, 7, len(stream)):
        joiner = AnswerJoiner(1000)
        for at in range(0, len(stream), size):
            joiner.feed(stream[at : at + size])
        assert (joiner.finish(), joiner.is_cut) == (expected, False)


def test_joiner_keeps_at_most_its_size() -> None:
    joiner = AnswerJoiner(10)
    event = b'data: {"choices": [{"delta": {"content": "12345678"}}]}\n\n'
    for _ in range(100):
        joiner.feed(event)
    assert (joiner.finish(), joiner.is_cut) == ("1234567812", True)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'"text"',
        b'{"choices": 1}',
        b'{"choices": [1]}',
        b'{"choices": [{"message": 5}]}',
        b'{"output": {"a": 1}}',
        b'{"type": "message", "content": [1]}',
        b'{"candidates": [null]}',
        b"[" * 5000,
    ],
)
def test_strange_json_has_no_text(body: bytes) -> None:
    assert answer_text(body) == ""
    assert last_prompt_text(body) in ("", "text")
    joiner = AnswerJoiner(10)
    joiner.feed(b"data: " + body + b"\n\n")
    assert joiner.finish() == ""


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}]}, "Hi"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "x"}]}]}, "Hi"),
        ({"input": "Hi"}, "Hi"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]}, "Hi"),
        ({"contents": [{"parts": [{"text": "Hi"}]}]}, "Hi"),
        ({"prompt": "Hi"}, "Hi"),
        ({"model": "m"}, ""),
    ],
)
def test_last_message_of_each_format_is_found(request_: dict[str, Any], expected: str) -> None:
    assert last_prompt_text(msgspec.json.encode(request_)) == expected
