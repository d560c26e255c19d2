"""Every reply of real servers that public reports describe, and the right result of its pure part."""

import json
from typing import Any

import pytest

from bluesminds.common.values import Usage
from bluesminds.wire.chat import CHAT
from bluesminds.wire.errors import read_error
from bluesminds.wire.models import read_models
from bluesminds.wire.requests import read_body
from bluesminds.wire.stages import Passthrough, StreamOpening, looks_like_events
from bluesminds.wire.support import names_forced_usage
from bluesminds.wire.usage import settle_usage
from tests.wire.replies import CASES, case, case_pieces, case_request, data_of, run

TEXT = 10_800  # bytes of one of the large deltas


def stream_of(
    name: str, *, wants_usage: bool = False, pieces: int | None = None
) -> tuple[Passthrough, bytes]:
    facts = case_request(name)
    if wants_usage:
        facts = CHAT.read_request(
            read_body(
                json.dumps(case(name)["request"] | {"stream_options": {"include_usage": True}}).encode()
            )
        )
    passthrough = Passthrough(CHAT, facts)
    sent = case_pieces(name)[:pieces]
    return passthrough, b"".join([passthrough.feed(piece) for piece in sent])


# name -> (input, output, cache_read, reasoning, source, implausible); None as the input: it is estimated
STREAMS: dict[str, tuple[int | None, int, int | None, int | None, str, bool]] = {
    "acc-big-chunks-nousage": (None, 2 * TEXT // 4, None, None, "estimated", False),
    "acc-tool-args-nousage": (None, 2703, None, None, "estimated", False),
    "acc-continuous": (20, 30, None, None, "upstream", False),
    "acc-early-zero": (50, 11, None, None, "upstream", False),
    "acc-zero-late": (50, 11, None, None, "upstream", False),
    "acc-zero-usage-stream": (None, 15, None, None, "estimated", True),
    "acc-grok-reasoning-stream": (1000, 103, None, 94, "upstream", False),
    "acc-usage-choices-null": (50, 11, None, None, "upstream", False),
    "acc-usage-no-choices-key": (50, 11, None, None, "upstream", False),
    "mlx-usage-nonempty-choices": (65, 251, 64, None, "upstream", False),
    "gone-big-8k": (20, 32_000, None, None, "upstream", False),
    "sse-comments": (50, 11, None, None, "upstream", False),
    "sse-crlf": (50, 11, None, None, "upstream", False),
    "sse-ct-json": (50, 11, None, None, "upstream", False),
    "sse-ct-none": (50, 11, None, None, "upstream", False),
    "sse-ct-plain": (50, 11, None, None, "upstream", False),
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("wants_usage", [True, False])
def test_stream_case_is_counted_and_passed(name: str, wants_usage: bool) -> None:
    passthrough, passed = stream_of(name, wants_usage=wants_usage)
    passed += passthrough.finish()
    input_, output, cache_read, reasoning, source, implausible = STREAMS[name]
    usage = passthrough.usage
    assert (usage.output_tokens, usage.cache_read_tokens, usage.reasoning_tokens) == (
        output,
        cache_read,
        reasoning,
    )
    assert (
        usage.input_tokens == (-(-case_request(name).text_bytes // 4) if input_ is None else input_)
        or wants_usage
    )
    assert (usage.usage_source, passthrough.implausible) == (source, implausible)
    assert passthrough.started and passthrough.finished and passthrough.error is None
    sent = b"".join(case_pieces(name))
    if wants_usage:
        assert passed == sent
    else:
        events = data_of(passed)
        assert events[-1] == "[DONE]"
        assert all("usage" not in one and one["choices"] for one in events[:-1])
        before = [one for one in data_of(sent)[:-1] if one.get("choices")]
        assert [one["choices"] for one in events[:-1]] == [one["choices"] for one in before]


@pytest.mark.parametrize("name", ["sse-comments", "sse-crlf"])
def test_stream_case_with_other_lines_keeps_them(name: str) -> None:
    passthrough, passed = stream_of(name)
    passed += passthrough.finish()
    sent = b"".join(case_pieces(name))
    assert passed.count(b"\r\n\r\n") == max(sent.count(b"\r\n\r\n") - 1, 0)
    assert passed.count(b": OPENROUTER PROCESSING\n\n") == sent.count(b": OPENROUTER PROCESSING\n\n")


def test_client_gone_after_large_deltas_is_charged_by_text_within_its_bound() -> None:
    passthrough, passed = stream_of("gone-big-8k", pieces=10)
    assert len(passed) > 10 * TEXT
    assert passthrough.usage.output_tokens == 8000, "the request's own bound"
    assert passthrough.usage.usage_source == "estimated"
    unbounded = Passthrough(CHAT, CHAT.read_request(read_body(b'{"model":"m","messages":[]}')))
    for piece in case_pieces("gone-big-8k")[:10]:
        unbounded.feed(piece)
    assert unbounded.usage.output_tokens == 10 * TEXT // 4


@pytest.mark.parametrize(
    ("name", "passed_events", "started", "finished"),
    [
        ("end-eof-no-finish-close", 11, True, False),
        ("end-eof-no-finish-chunked", 11, True, False),
        ("end-half-event", 11, True, False),
        ("end-tool-mid", 2, True, False),
        ("end-finish-no-done", 12, True, True),
        ("end-only-done", 1, False, True),
        ("end-empty-body", 0, False, False),
        ("sse-comments-only", 0, False, False),
    ],
)
def test_end_case_tells_a_cut_from_an_end(
    name: str, passed_events: int, started: bool, finished: bool
) -> None:
    passthrough = Passthrough(CHAT, case_request(name))
    passed = run(passthrough, case_pieces(name))
    assert len(data_of(passed)) == passed_events
    assert (passthrough.started, passthrough.finished) == (started, finished)


@pytest.mark.parametrize("name", ["end-only-done", "end-empty-body", "sse-comments-only"])
def test_opening_of_a_stream_without_chunks_is_empty(name: str) -> None:
    opening = StreamOpening()
    verdicts = [opening.feed(piece) for piece in case_pieces(name)]
    assert (verdicts[-1] if verdicts and verdicts[-1] else opening.finish()) == "empty"


@pytest.mark.parametrize(
    ("name", "type_", "param", "code"),
    [
        ("err-first-400-int", "exceed_context_size_error", None, 400),
        ("err-first-named", "invalid_request_error", None, 400),
        ("err-first-strcode", "invalid_request_error", "messages", "context_length_exceeded"),
    ],
)
def test_error_as_first_event_has_its_own_status(name: str, type_: str, param: str | None, code: Any) -> None:
    opening = StreamOpening()
    assert opening.feed(case_pieces(name)[0]) == "error"
    error = opening.error
    assert error is not None and error.blames_request()
    assert (error.status, error.type, error.param, error.code) == (400, type_, param, code)
    passthrough = Passthrough(CHAT, case_request(name))
    assert run(passthrough, case_pieces(name)).startswith(case_pieces(name)[0])
    assert passthrough.error == error


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("err-plain-400", ("upstream",)),
        ("fo-400-in-200", ("upstreams", "fo1")),
        ("fo-400-in-200", ("upstreams", "fo2")),
        ("fo-400-in-200", ("upstreams", "fo3")),
    ],
)
def test_error_inside_a_whole_answer_has_its_own_status(name: str, path: tuple[str, ...]) -> None:
    error = CHAT.read_reply(b"".join(case_pieces(name, *path))).error
    assert error is not None
    assert (error.status, error.type, error.code) == (400, "invalid_request_error", 400)
    assert error.blames_request()


@pytest.mark.parametrize(
    ("name", "path", "message", "code"),
    [
        ("err-429-retry-after", ("upstream",), "slow down", "rate_limit_exceeded"),
        ("fo-429-then-ok", ("upstreams", "fo1"), "slow", None),
    ],
)
def test_rate_limit_of_server_keeps_message(
    name: str, path: tuple[str, ...], message: str, code: Any
) -> None:
    error = read_error(429, b"".join(case_pieces(name, *path)))
    assert (error.message, error.code, error.blames_request()) == (message, code, False)


# name -> (input, output, cache_read, reasoning, implausible); None as the input: it is estimated
WHOLE: dict[str, tuple[int | None, int, int | None, int | None, bool]] = {
    "acc-deepseek-cache": (10_000, 10, 9_000, None, False),
    "acc-grok-reasoning": (1_000, 103, 0, 94, False),
    "acc-zero-usage-plain": (None, 120, None, None, True),
    "odd-n2-usage": (50, 400, None, None, False),
    "json-for-stream": (50, 11, None, None, False),
    "fo-400-in-200": (5, 5, None, None, False),
    "fo-429-then-ok": (5, 5, None, None, False),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_case_is_counted(name: str) -> None:
    facts, request = CHAT.read_reply(b"".join(case_pieces(name))), case_request(name)
    assert facts.readable and facts.choices and facts.error is None
    usage, implausible = settle_usage(facts.usage, request, delivered=facts.delivered, pieces=facts.pieces)
    input_, output, cache_read, reasoning, expected = WHOLE[name]
    assert usage == Usage(
        -(-request.text_bytes // 4) if input_ is None else input_,
        output if name != "acc-zero-usage-plain" else -(-facts.delivered // 4),
        cache_read,
        None,
        reasoning,
        "estimated" if input_ is None else "upstream",
    )
    assert implausible == expected


@pytest.mark.parametrize("name", ["sse-ct-json", "sse-ct-plain", "sse-ct-none", "sse-comments", "sse-crlf"])
def test_stream_under_any_label_is_known_by_its_first_bytes(name: str) -> None:
    body = b"".join(case_pieces(name))
    assert looks_like_events(body) is True
    assert looks_like_events(b"\xef\xbb\xbf\r\n" + body) is True
    assert {looks_like_events(body[:length]) for length in range(1, 40)} <= {None, True}


def test_whole_answer_for_a_stream_becomes_events() -> None:
    body = b"".join(case_pieces("json-for-stream"))
    assert looks_like_events(body) is False
    for wants_usage in (True, False):
        assert CHAT.events_from_reply is not None
        events = data_of(CHAT.events_from_reply(body, wants_usage))
        answer = json.loads(body)
        assert events[0]["choices"][0]["delta"] == answer["choices"][0]["message"]
        assert events[1]["choices"][0]["finish_reason"] == "stop"
        assert events[-1] == "[DONE]"
        assert [one["usage"] for one in events[:-1] if "usage" in one] == [answer["usage"]] * wants_usage


def test_refusal_of_forced_field_is_recognized() -> None:
    body = b"".join(case_pieces("force-stream-options"))
    assert names_forced_usage(422, body)
    assert not names_forced_usage(500, body)
    assert not names_forced_usage(400, b'{"error":{"message":"context length exceeded"}}')
    fields = read_body(json.dumps(case("force-stream-options")["request"]).encode())
    assert "stream_options" in CHAT.prepare(fields, "m", True)
    assert "stream_options" not in CHAT.prepare(fields, "m", False)
    passthrough = Passthrough(CHAT, CHAT.read_request(fields))
    sent = case_pieces("force-stream-options", "upstream", "when", "else")
    assert run(passthrough, sent) == b"".join(sent)
    assert (passthrough.usage.usage_source, passthrough.usage.output_tokens) == ("estimated", 15)


@pytest.mark.parametrize(
    ("name", "ids", "created"),
    [
        ("ml-float", ["ml-float-a", "ml-float-b"], [1, 0]),
        ("ml-str", ["ml-str-a", "ml-str-b"], [1, 0]),
        ("ml-null", ["ml-null-a", "ml-null-b"], [1, 0]),
        ("ml-noid", ["ml-noid-a"], [1]),
        ("ml-extra", ["ml-extra-a"], [1]),
    ],
)
def test_odd_row_does_not_spoil_a_list_of_models(name: str, ids: list[str], created: list[int]) -> None:
    rows = read_models(b"".join(case_pieces(name, "models_answer")))
    assert [row.id for row in rows] == ids
    assert [row.created for row in rows] == created


def test_every_case_is_used() -> None:
    source = (CASES.parent / "test_reply_cases.py").read_text()
    assert [path.stem for path in CASES.glob("*.json") if f'"{path.stem}"' not in source] == []
