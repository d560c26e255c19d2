"""Streams: the same bytes and the same counts however they are cut, and what changes on the way."""

import json
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluesminds.common.values import Usage
from bluesminds.http.sse import MAX_EVENT, EventTooLarge
from bluesminds.wire.base import RequestFacts, Stage
from bluesminds.wire.chat import CHAT, events_from_reply, reply_from_events
from bluesminds.wire.completions import COMPLETIONS
from bluesminds.wire.errors import read_error
from bluesminds.wire.stages import Passthrough, StreamOpening, looks_like_events
from tests.cases import each
from tests.wire.replies import DONE, chunk, data_of, delta_chunk, event, request, run, stage

texts = st.text(max_size=12) | st.sampled_from(
    ['"usage":null', "data: [DONE]", "\n\n", '{"error":{}}', ', "usage": null', "\\u00"]
)
counts = st.integers(0, 10**6)
plain = st.builds(chunk, texts) | st.builds(lambda text: delta_chunk(reasoning=text, content=None), texts)
announced = st.builds(lambda text: chunk(text, usage=None), texts)
comments = st.sampled_from(
    [b": ping\n\n", b"event: ping\n\n", b"\n", b"retry: 3\n\n", b'event: x\ndata: {"a": 1}\n\n']
)
LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
broken = st.sampled_from([b"data: {\n\n", b"data: <html>\n\n", b"data:\n\n", b'data: {"a":}\n\n'])


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, bytes, bytes]:
    """What a server sends; what a client that asked for usage and one that did not should get."""
    sent, asked, unasked = [], [], []
    kinds = st.sampled_from(["plain", "announced", "comment", "usage", "text and usage", "broken", "finish"])
    for kind in draw(st.lists(kinds, max_size=12)):
        kept: bytes | None = None
        if kind == "plain":
            one = kept = draw(plain)
        elif kind == "finish":
            one = kept = chunk(finish="stop")
        elif kind == "comment":
            one = kept = draw(comments)
        elif kind == "announced":
            one = draw(announced)
            kept = one[: one.rindex(b',"usage":null')] + b"}\n\n"
        elif kind == "broken":
            kept = chunk("between")  # two of them in a row would end the stream
            one = kept + draw(broken)
        else:
            report = {"prompt_tokens": draw(counts), "completion_tokens": draw(counts)}
            text = draw(texts) if kind == "text and usage" else None
            one = chunk(text, usage=report)
            kept = b"" if text is None else chunk(text)
        sent.append(one)
        asked.append(kept if kind == "broken" else one)
        unasked.append(kept)
    end = DONE if draw(st.booleans()) else b""
    return b"".join([*sent, end]), b"".join([*asked, end]), b"".join([*unasked, end])


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(marks)]


def state(passthrough: Passthrough) -> tuple[Any, ...]:
    return (
        passthrough.usage,
        passthrough.output,
        passthrough.implausible,
        passthrough.started,
        passthrough.finished,
        passthrough.final,
        passthrough.error,
    )


@given(streams(), st.lists(st.integers(0, 10_000), max_size=20), LINE_ENDS)
def test_stream_cut_anywhere_gives_the_same_bytes_and_counts(
    stream: tuple[bytes, bytes, bytes], places: list[int], line_end: bytes
) -> None:
    sent, asked, unasked = stream
    sent, asked = sent.replace(b"\n", line_end), asked.replace(b"\n", line_end)
    for wants_usage, expected in ((True, asked), (False, unasked)):
        together, apart = stage(wants_usage=wants_usage), stage(wants_usage=wants_usage)
        result = run(together, [sent])
        assert run(apart, cut(sent, places)) == result
        assert state(together) == state(apart)
        assert result.replace(line_end, b"\n") == expected.replace(line_end, b"\n")
        if wants_usage:
            assert result == expected


@given(st.binary(max_size=300) | st.text(max_size=80).map(str.encode), st.booleans())
def test_arbitrary_bytes_raise_nothing(data: bytes, wants_usage: bool) -> None:
    for prefix in (b"", b"data: ", b'data: {"choices":[', b'data: {"usage":'):
        passthrough = stage(wants_usage=wants_usage)
        run(passthrough, [prefix + data])
        assert state(passthrough)
        opening = StreamOpening()
        assert opening.feed(prefix + data) or opening.finish()


END: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": "stop"}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["index", "delta", "content", "tool_calls", "function", "arguments", "usage", "x"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=10,
)


@given(
    st.fixed_dictionaries(
        {},
        optional={"choices": json_values, "usage": json_values, "error": json_values, "object": json_values},
    )
)
def test_fields_of_any_type_raise_nothing(body: dict[str, Any]) -> None:
    passthrough = stage()
    run(passthrough, [event(body)])
    assert state(passthrough)
    assert CHAT.read_reply(json.dumps(body).encode()).readable


def test_passthrough_is_a_stage() -> None:
    running: Stage = stage()
    assert (running.output, running.final, running.error) == (0, False, None)


def test_done_is_held_back_and_ends_the_stream() -> None:
    passthrough = stage()
    assert passthrough.feed(chunk("a") + DONE + chunk("b")) == chunk("a")
    assert passthrough.final and passthrough.finished
    assert passthrough.feed(chunk("c", usage={"prompt_tokens": 1}) + b"data: {") == b""
    assert passthrough.output == 1
    assert passthrough.finish() == DONE
    assert passthrough.finish() == b""


@pytest.mark.parametrize(
    "mark", [b"data: [DONE]", b"data: [DONE]\n", b"data:[DONE]\n\n", b"data:  [DONE]\n\n"]
)
def test_done_in_another_spelling_is_one(mark: bytes) -> None:
    passthrough = stage()
    assert passthrough.feed(chunk("a") + mark) == chunk("a")
    assert b"[DONE]" in passthrough.finish()
    assert passthrough.final


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n", b"\r"])
def test_last_event_without_blank_line_is_completed(ending: bytes) -> None:
    last = chunk(finish="stop").rstrip(b"\n")
    passthrough = stage()
    passed = run(passthrough, [chunk("a"), last + ending])
    assert data_of(passed)[-1]["choices"][0]["finish_reason"] == "stop"
    assert passed.replace(b"\r", b"\n").endswith(b"\n\n")
    assert passthrough.finished


@pytest.mark.parametrize("rest", [b"data: {", chunk("b")[:-9], b"dat", b"data: [DO", b": comment"])
def test_unfinished_event_is_not_passed(rest: bytes) -> None:
    passthrough = stage()
    assert run(passthrough, [chunk("a") + rest]) == chunk("a")
    assert not passthrough.finished


@pytest.mark.parametrize(
    "bad",
    [b"data: {\n\n", b"data: {\r\n\r\n", b'data: {"choices":\ndata: oops\n\n', b"data:\n\n", b"data: \n\n"],
)
@pytest.mark.parametrize("wants_usage", [True, False])
def test_event_that_is_not_json_is_skipped(bad: bytes, wants_usage: bool) -> None:
    passthrough = stage(wants_usage=wants_usage)
    assert run(passthrough, [chunk("a") + bad + chunk("b"), bad, DONE]) == chunk("a") + chunk("b") + DONE
    assert passthrough.output == 2


def test_events_in_a_row_that_are_not_json_end_the_stream() -> None:
    passthrough = stage()
    bad = b"data: {\n\n"
    result = run(passthrough, [chunk("a"), bad, bad, chunk("b"), DONE])
    assert result.startswith(chunk("a") + b'data: {"error":')
    assert passthrough.final
    assert passthrough.error is not None and passthrough.error.code == "upstream_invalid"


@pytest.mark.parametrize(
    "odd",
    [
        b'{"choices":[{"index":0,"delta":{"content":"x"},"logprobs":{"content":[{"logprob":-Infinity}]}}]}',
        b'{"choices":[{"index":0,"delta":{"content":"x"}}],"speed":NaN}',
        b'{"choices":[{"index":0,"delta":{"content":"x"}}],"speed":1e400}',
        b'{"choices":[{"index":0,"delta":{"content":"\\ud83d"}}]}',
        b'{"choices":[{"index":0,"delta":{"content":"\xe2\x82"}}]}',
        b'{"choices":[{"index":"0","delta":{"content":"x"}}]}',
        b'{"choices":[{"index":null,"delta":{"content":"x","tool_calls":{}}}]}',
        b'{"choices":[{"delta":{"content":[{"type":"text","text":"x"}]}}]}',
        b'{"choices":[{"delta":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"x"}]}]}}]}',
    ],
)
def test_chunk_that_is_odd_json_passes_byte_for_byte_and_counts(odd: bytes) -> None:
    passthrough = stage()
    assert run(passthrough, [b"data: " + odd + b"\n\n"]) == b"data: " + odd + b"\n\n"
    assert passthrough.output == 1
    assert passthrough.started and not passthrough.finished


@pytest.mark.parametrize(
    "named",
    [b"event: ping\ndata: hello\n\n", b'event: x\ndata: {"usage":{"prompt_tokens":1}}\n\n', b": c\n\n"],
)
def test_named_events_and_comments_pass(named: bytes) -> None:
    assert run(stage(), [named]) == named


@each(
    ("delta", "tokens"),
    [
        ({"content": "x" * 40}, 10),
        ({"content": "é" * 20}, 10),
        ({"reasoning": "x" * 40}, 10),
        ({"reasoning_content": "x" * 40}, 10),
        ({"reasoning_content": "x" * 40, "reasoning": "x" * 40}, 10),
        ({"reasoning_details": [{"type": "reasoning.text", "text": "x" * 40}]}, 10),
        ({"reasoning": "x" * 40, "reasoning_details": [{"text": "x" * 40}]}, 10),
        ({"refusal": "x" * 40}, 10),
        ({"function_call": {"name": "f", "arguments": "x" * 39}}, 10),
        ({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "x" * 39}}]}, 10),
        ({"tool_calls": [{"index": 0, "custom": {"name": "f", "input": "x" * 39}}]}, 10),
        ({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": {"a": "x" * 31}}}]}, 10),
        ({"audio": {"id": "a", "transcript": "x" * 40, "data": "AAAA" * 1000}}, 10),
        ({"audio": {"data": "AAAA" * 1000}}, 1),
        ({"images": [{"image_url": {"url": "data:image/png;base64,AAAA"}}]}, 1),
        ({"content": ""}, 0),
        ({"role": "assistant"}, 0),
        ({"role": "assistant", "content": None}, 0),
    ],
)
def test_everything_generated_counts_by_its_text(delta: dict[str, Any], tokens: int) -> None:
    passthrough = stage()
    passthrough.feed(delta_chunk(**delta))
    assert passthrough.output == tokens
    assert passthrough.usage == Usage(0, tokens, usage_source="estimated")
    message = json.dumps({"choices": [{"index": 0, "message": delta, "finish_reason": "stop"}]})
    facts = CHAT.read_reply(message.encode())
    assert max(-(-facts.delivered // 4), facts.pieces) == tokens


def test_small_events_are_a_token_each() -> None:
    passthrough = stage()
    for _ in range(5):
        passthrough.feed(chunk("a"))
    assert passthrough.usage.output_tokens == 5
    assert stage().usage.output_tokens == 0


def test_estimate_is_the_same_however_text_is_batched() -> None:
    results = set()
    for size in (8, 80, 800, 8000):
        passthrough = stage()
        for _ in range(8000 // size):
            passthrough.feed(chunk("x" * size))
        results.add(passthrough.output)
    assert results == {2000}


def test_estimate_is_bounded_by_what_the_client_allowed() -> None:
    passthrough = stage(max_output=10, choices=2)
    passthrough.feed(chunk("x" * 10_000))
    assert (passthrough.output, passthrough.usage.output_tokens) == (20, 20)


@pytest.mark.parametrize("wants_usage", [True, False])
def test_report_before_the_end_is_no_less_than_what_came(wants_usage: bool) -> None:
    passthrough = stage(wants_usage=wants_usage)
    passthrough.feed(chunk("a", usage={"prompt_tokens": 50, "completion_tokens": 1}))
    assert passthrough.usage == Usage(50, 1, usage_source="upstream")
    for _ in range(9):
        passthrough.feed(chunk("word"))
    assert passthrough.usage == Usage(50, 10, usage_source="estimated")
    assert passthrough.output == 10
    passthrough.finish()
    assert passthrough.usage == Usage(50, 10, usage_source="estimated"), "this may have been a cut"


def test_report_of_server_that_sent_done_is_trusted() -> None:
    passthrough = stage()
    for one in (chunk("a", usage={"prompt_tokens": 9, "completion_tokens": 1}), chunk("word"), DONE):
        passthrough.feed(one)
    assert passthrough.usage == Usage(9, 1, usage_source="upstream")


def test_client_gone_within_running_totals_pays_the_last_total() -> None:
    passthrough = stage()
    for number in range(1, 11):
        passthrough.feed(chunk("word", usage={"prompt_tokens": 20, "completion_tokens": number}))
    assert passthrough.usage == Usage(20, 10, usage_source="upstream")


@pytest.mark.parametrize(
    "body",
    [
        {"choices": []},
        {"choices": None},
        {},
        {"choices": [], "object": None},
        {"choices": [], "x_extra": {"usage": 1}},
    ],
)
def test_chunk_with_usage_alone_is_taken_out(body: dict[str, Any]) -> None:
    report = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
    head = {"id": "c", "object": "chat.completion.chunk"} if body.get("object", "") == "" else {"id": "c"}
    alone = event({**head, **body, "usage": report})
    for wants_usage in (True, False):
        passthrough = stage(wants_usage=wants_usage)
        passed = run(passthrough, [chunk("a"), alone, DONE])
        assert passed == chunk("a") + (alone if wants_usage else b"") + DONE
        assert passthrough.usage == Usage(9, 1, usage_source="upstream")


def test_first_chunk_without_choices_passes() -> None:
    filters = event({"id": "", "object": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]})
    assert run(stage(), [filters]) == filters
    null = event({"id": "", "choices": [], "prompt_filter_results": [], "usage": None})
    assert data_of(run(stage(), [null])) == [{"id": "", "choices": [], "prompt_filter_results": []}]


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [END | {"usage": {"prompt_tokens": 9, "completion_tokens": 2}}]},
        {"choices": [END], "x_groq": {"usage": {"prompt_tokens": 9, "completion_tokens": 2}}},
        {"choices": [END], "usage": None, "x_groq": {"usage": {"prompt_tokens": 9, "completion_tokens": 2}}},
        {"choices": [], "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 2}},
    ],
)
def test_usage_in_another_place_is_read(body: dict[str, Any]) -> None:
    passthrough = stage(wants_usage=True)
    assert passthrough.feed(event(body)) == event(body)
    assert passthrough.usage == Usage(9, 2, usage_source="upstream")


@pytest.mark.parametrize("finish", [None, "", "null"])
def test_empty_finish_reason_is_no_end(finish: str | None) -> None:
    passthrough = stage()
    passthrough.feed(chunk("a", finish=finish))
    assert not passthrough.finished
    passthrough.feed(chunk(finish="tool_calls"))
    assert passthrough.finished


def test_stream_of_two_choices_is_finished_when_both_are() -> None:
    def choice(index: int, finish: str | None) -> bytes:
        return chunk(choices=[{"index": index, "delta": {"content": "x"}, "finish_reason": finish}])

    passthrough = stage(choices=2)
    for piece, finished in (
        (choice(0, None), False),
        (choice(1, None), False),
        (choice(0, "stop"), False),
        (choice(1, "length"), True),
        (choice(0, None), True),
    ):
        passthrough.feed(piece)
        assert passthrough.finished == finished


@pytest.mark.parametrize(
    ("error", "status", "rewritten"),
    [
        (b'data: {"error":{"message":"x","code":429}}\n\n', 429, False),
        (b'data: {"error":"x"}\n\n', None, False),
        (b'data: {"error":{"message":"x"},"choices":[{"index":0,"delta":{"content":""}}]}\n\n', None, False),
        (b'event: error\ndata: {"error":{"message":"x","type":"overloaded_error"}}\n\n', 503, False),
        (b'event: error\ndata: {"message":"x"}\n\n', None, True),
        (b'data: {"object":"error","message":"x","code":400}\n\n', 400, True),
        (b'data: {"message":"x","code":"rate_limit_exceeded"}\n\n', 429, True),
        (b'data: {"detail":[{"msg":"x","loc":["body","n"]}]}\n\n', 422, True),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_error_in_a_stream_is_found_and_readable_by_clients(
    error: bytes, status: int | None, rewritten: bool, first: bool
) -> None:
    passthrough = stage()
    before = b"" if first else chunk("a")
    passed = run(passthrough, [before, error])
    assert passthrough.error is not None
    assert (passthrough.error.status, "x" in str(passthrough.error.message)) == (status, True)
    assert not passthrough.final
    assert data_of(passed)[-1]["error"]
    assert (passed == before + error) != rewritten
    if first:
        opening = StreamOpening()
        assert opening.feed(error) == "error"
        assert opening.error == passthrough.error


@pytest.mark.parametrize(
    "fine",
    [
        b'data: {"choices":[],"error":null}\n\n',
        b'data: {"choices":[{"delta":{"content":"\\"error\\":1"}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"content":"x"}}],"message":"x","code":400}\n\n',
        b'data: {"object":"chat.completion.chunk","message":"x","code":400}\n\n',
        b'data: {"message":"waiting"}\n\n',
    ],
)
def test_event_that_is_no_error_is_none(fine: bytes) -> None:
    passthrough = stage()
    assert passthrough.feed(fine) == fine
    assert passthrough.error is None


def test_event_without_end_is_refused() -> None:
    passthrough = stage()
    with pytest.raises(EventTooLarge):
        for _ in range(3):
            passthrough.feed(b"x" * (MAX_EVENT // 2))


@pytest.mark.parametrize("format_", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("wants_usage", [True, False])
def test_stop_ends_the_stream_for_clients(format_: Any, wants_usage: bool) -> None:
    passthrough = Passthrough(format_, request(wants_usage=wants_usage, text_bytes=40))
    first = event(
        {
            "id": "c7",
            "object": format_.chunk_object,
            "created": 5,
            "model": "served",
            "choices": [
                {"index": 1, "delta": {"content": "x" * 40}, "text": "x" * 40, "finish_reason": None}
            ],
        }
    )
    passthrough.feed(first + b'data: {"half')
    events = data_of(passthrough.stop())
    part: dict[str, Any] = {"delta": {}} if format_ is CHAT else {"text": ""}
    head = {"id": "c7", "object": format_.chunk_object, "created": 5, "model": "served"}
    choice = {"index": 1, **part, "logprobs": None, "finish_reason": "length"}
    usage = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}
    expected: list[Any] = [head | {"choices": [choice]}]
    if wants_usage:
        expected.append(head | {"choices": [], "usage": usage})
    assert events == [*expected, "[DONE]"]
    assert passthrough.final and passthrough.finished
    assert passthrough.feed(chunk("more")) + passthrough.finish() == b""


def test_stop_after_every_choice_has_finished_adds_no_second_finish() -> None:
    passthrough = stage()
    passthrough.feed(chunk("a") + chunk(finish="stop"))
    assert passthrough.stop() == DONE


def test_stop_does_not_make_an_early_report_complete() -> None:
    passthrough = stage()
    early = {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11}
    passthrough.feed(chunk("x" * 400, usage=early) + chunk("x" * 400))
    before = passthrough.usage
    passthrough.stop()
    assert passthrough.usage == before
    assert before.output_tokens == 200


def test_stop_before_any_chunk_is_a_whole_stream() -> None:
    passthrough = stage()
    events = data_of(passthrough.stop())
    assert events[0]["choices"][0]["finish_reason"] == "length"
    assert (events[0]["model"], events[1]) == ("m", "[DONE]")


@each(
    ("first", "expected"),
    [
        (b"data: x", True),
        (b"event: x", True),
        (b": x", True),
        (b"\n\n: x", True),
        (b"\xef\xbb\xbfdata:", True),
        (b"", None),
        (b"da", None),
        (b"\xef", None),
        (b"\r\n", None),
        (b"{", False),
        (b"<html>", False),
        (b"datum", False),
        (b"[", False),
    ],
)
def test_event_stream_is_known_by_its_beginning(first: bytes, expected: bool | None) -> None:
    assert looks_like_events(first) is expected


def test_opening_waits_for_an_event_that_says_something() -> None:
    opening = StreamOpening()
    ping = b'event: ping\ndata: {"type": "ping"}\n\n'
    lead = b": waiting\n\ndata: {oops\n\nevent: ping\n\n" + ping
    assert opening.feed(lead) is None
    assert opening.feed(chunk("a")[:20]) is None
    assert opening.feed(chunk("a")[20:]) == "answer"
    assert opening.error is None


@pytest.mark.parametrize(
    "empty",
    [
        chunk(""),
        chunk(usage={"prompt_tokens": 3}),
        b'data: {"choices":[],"prompt_filter_results":[{"prompt_index":0}]}\n\n',
        b'event: message_start\ndata: {"type":"message_start","message":{"content":[]}}\n\n',
        b'data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}\n\n',
        b'event: response.output_item.added\ndata: {"type":"response.output_item.added","item":{}}\n\n',
    ],
)
def test_opening_waits_for_content(empty: bytes) -> None:
    opening = StreamOpening()
    assert opening.feed(empty) is None
    assert opening.finish() == "empty"


@pytest.mark.parametrize(
    "content",
    [
        chunk("a"),
        chunk(finish="stop"),
        b'data: {"choices":[{"index":0,"delta":{"reasoning_content":"x"}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"function":{"name":"f"}}]}}]}\n\n',
        b'data: {"choices":[{"index":0,"text":"x"}]}\n\n',
        b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"x"}}\n\n',
        b'data: {"type":"response.output_text.delta","delta":"x"}\n\n',
        b'data: {"candidates":[{"content":{"parts":[{"text":"x"}]}}]}\n\n',
        b'data: {"type":"image_generation.partial_image","b64_json":"x"}\n\n',
    ],
)
def test_opening_ends_at_the_first_content(content: bytes) -> None:
    assert StreamOpening().feed(content) == "answer"


def test_opening_of_a_large_lead_is_taken_for_an_answer() -> None:
    opening = StreamOpening()
    assert opening.feed(b'data: {"choices":[{"delta":{"content":"' + b"x" * 70_000) == "answer"


def test_legacy_completions_are_counted_alike() -> None:
    passthrough = Passthrough(COMPLETIONS, RequestFacts(model="m", stream=True))
    part = event(
        {
            "id": "c",
            "object": "text_completion",
            "choices": [{"index": 0, "text": "x" * 40, "finish_reason": None}],
        }
    )
    usage = event(
        {
            "id": "c",
            "object": "text_completion",
            "choices": [],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2},
        }
    )
    end = event(
        {
            "id": "c",
            "object": "text_completion",
            "choices": [{"index": 0, "text": "", "finish_reason": "stop"}],
        }
    )
    assert passthrough.feed(part) == part
    assert passthrough.output == 10
    assert run(passthrough, [end, usage, DONE]) == end + DONE
    assert passthrough.usage == Usage(1, 2, usage_source="upstream")


@pytest.mark.parametrize("depth", [20, 300, 900, 100_000])
def test_deep_nesting_raises_nothing(depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    delta = b'{"content":%b,"tool_calls":[{"function":%b}]}'
    whole = b'{"choices":[{"index":0,"message":{"content":%b},"delta":' + delta + b"}]}"
    for body in (
        nested,
        b'{"error":%b}' % nested,
        b'{"choices":%b}' % nested,
        whole % (nested, nested, nested),
        whole % (nested, b'"x"', b'{"arguments":%b}' % nested),
        b'{"choices":[],"usage":%b}' % nested,
        b'{"choices":[],"usageMetadata":{"a":%b}}' % nested,
    ):
        passthrough = stage()
        run(passthrough, [b"data: " + body + b"\n\n"])
        assert state(passthrough)
        assert CHAT.read_reply(body).choices >= 0
        assert read_error(500, body).message
        with suppress(ValueError):
            assert events_from_reply(body, True)
        with suppress(ValueError):
            assert reply_from_events(b"data: " + body)
