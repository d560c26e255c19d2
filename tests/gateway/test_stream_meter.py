"""The meter: the same bytes and the same count however a stream is cut."""

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bluesminds.common.values import Usage
from bluesminds.gateway.stream_meter import StreamMeter, estimate, estimate_whole, filled, text_size
from bluesminds.http.sse import MAX_EVENT, EventTooLarge
from tests.fakes.model_server import DONE, chunk

texts = st.text(max_size=12) | st.sampled_from(
    ['"usage":null', "data: [DONE]", "\n\n", '{"error":{}}', ', "usage": null']
)


def named(text: str, name: str) -> bytes:
    more: Any = {name: 1}
    return chunk(text, **more)


counts = st.integers(0, 10**6)
plain = st.builds(named, texts, st.sampled_from(["x", "obfuscation", "service_tier"]))
announced = st.builds(lambda text: chunk(text, usage=None), texts)
reports = st.builds(lambda p, c: (p, c), counts, counts)
comments = st.sampled_from(
    [b": ping\n\n", b"event: ping\n\n", b"\n", b"retry: 3\n\n", b'event: x\ndata: {"a": 1}\n\n']
)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, bytes, bytes, tuple[int, int] | None]:
    """What a server sends; what a client that asked for usage and one that did not should get; the count."""
    sent, asked, unasked = [], [], []
    usage = None
    for kind in draw(
        st.lists(st.sampled_from(["plain", "announced", "comment", "usage", "text and usage"]), max_size=12)
    ):
        if kind == "plain":
            event = kept = draw(plain)
        elif kind == "comment":
            event = kept = draw(comments)
        elif kind == "announced":
            event = draw(announced)
            kept = event.replace(b',"usage":null', b"")
        else:
            usage = draw(reports)
            report = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
            text = draw(texts) if kind == "text and usage" else None
            event = chunk(text, usage=report)
            kept = b"" if text is None else chunk(text)
        sent.append(event)
        asked.append(event)
        unasked.append(kept)
    end = DONE if draw(st.booleans()) else b""
    return b"".join([*sent, end]), b"".join([*asked, end]), b"".join([*unasked, end]), usage


def run(meter: StreamMeter, pieces: list[bytes]) -> bytes:
    return b"".join([meter.feed(piece) for piece in pieces]) + meter.finish()


def is_more(usage: Usage | None, reported: Usage | None) -> bool:
    """Whether it is what was reported, with a larger guess of the completion."""
    assert usage is not None and reported is not None
    guess = replace(usage, output=reported.output, source="upstream")
    return guess == reported and usage.source == "estimated" and usage.output > reported.output


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(marks)]


@given(streams(), st.lists(st.integers(0, 10_000), max_size=20), st.booleans())
def test_the_same_bytes_and_the_same_count_however_it_is_cut(
    stream: tuple[bytes, bytes, bytes, tuple[int, int] | None], places: list[int], crlf: bool
) -> None:
    sent, asked, unasked, usage = stream
    if crlf:
        sent, asked = sent.replace(b"\n", b"\r\n"), asked.replace(b"\n", b"\r\n")
    for wants_usage, expected in ((True, asked), (False, unasked)):
        together, apart = StreamMeter(wants_usage=wants_usage), StreamMeter(wants_usage=wants_usage)
        assert run(together, [sent]) == run(apart, cut(sent, places))
        assert together.usage == apart.usage
        reported = usage and Usage(input=usage[0], output=usage[1], source="upstream")
        assert together.usage == reported or (not together.ended and is_more(together.usage, reported))
        assert together.events == apart.events
        result = run(StreamMeter(wants_usage=wants_usage), [sent])
        assert result.replace(b"\r\n", b"\n") == expected.replace(b"\r\n", b"\n")
        if wants_usage:
            assert result == expected


def test_the_end_mark_is_held_back() -> None:
    meter = StreamMeter(wants_usage=False)
    assert meter.feed(chunk("a") + DONE + chunk("b")) == chunk("a")
    assert meter.ended
    assert meter.feed(chunk("c", usage={"prompt_tokens": 1}) + b"data: {") == b""
    assert meter.usage is None
    assert meter.finish() == DONE
    assert meter.finish() == b""


def test_an_end_mark_without_its_blank_line_is_still_one() -> None:
    meter = StreamMeter(wants_usage=False)
    assert meter.feed(chunk("a") + b"data: [DONE]") == chunk("a")
    assert not meter.ended
    assert meter.finish() == b"data: [DONE]"


def test_events_of_text_are_counted_and_others_are_not() -> None:
    meter = StreamMeter(wants_usage=True)
    meter.feed(b": ping\n\n" + chunk("a") + chunk("b") + b": ping\n\n")
    for byte in chunk("c") + b": ping\n\n":
        meter.feed(bytes([byte]))
    assert meter.events == 3


@pytest.mark.parametrize(
    "report", [b'"x"', b"[]", b'{"prompt_tokens":1e30}', b'{"prompt_tokens":-1}', b"{}", b"true"]
)
def test_a_report_that_cannot_be_true_is_none(report: bytes) -> None:
    meter = StreamMeter(wants_usage=False)
    meter.feed(b'data: {"choices":[],"usage":%b}\n\n' % report)
    assert meter.usage is None


@pytest.mark.parametrize(
    ("event", "failed"),
    [
        (b'data: {"error":{"message":"x"}}\n\n', True),
        (b'data: {"error":"x"}\n\n', True),
        (b'data: {"choices":[],"error":null}\n\n', False),
        (b'data: {"choices":[{"delta":{"content":"\\"error\\":1"}}]}\n\n', False),
        (b'data: {"error":\n\n', False),
    ],
)
def test_error_events_pass_and_are_noticed(event: bytes, failed: bool) -> None:
    meter = StreamMeter(wants_usage=False)
    assert meter.feed(event) == event
    assert meter.failed == failed


def test_an_event_without_end_is_refused() -> None:
    meter = StreamMeter(wants_usage=False)
    with pytest.raises(EventTooLarge):
        for _ in range(3):
            meter.feed(b"x" * (MAX_EVENT // 2))


@pytest.mark.parametrize(
    "media",
    [
        b"data:image/png;base64," + b"iVBORw0KGgo" * 20_000 + b"==",
        b"data:image/png;base64," + b"iV\\/BORw0KGgo" * 20_000,
        b"UklGRiQA" * 20_000,
    ],
)
def test_media_are_not_estimated_as_text(media: bytes) -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":[{"x":"%b"},{"text":"%b"}]}]}'
    words = b"a few words and more " * 1000
    assert text_size(body % (media, words)) == len(body % (b"", words))
    assert text_size(b"x" * 4000) == 4000


def test_counts_may_come_one_after_the_other() -> None:
    stream = StreamMeter(wants_usage=True)
    first = {"prompt_tokens": 5000, "prompt_tokens_details": {"cached_tokens": 4000}}
    for usage in (first, {"completion_tokens": 7}, {"completion_tokens": 9}):
        stream.feed(chunk(usage=usage))
    assert stream.usage == Usage(input=5000, output=9, cache_read=4000, source="upstream")
    stream.feed(chunk(usage={"prompt_tokens": 100}))
    assert stream.usage == Usage(input=100, output=9, source="upstream")


@pytest.mark.parametrize("wants_usage", [True, False])
def test_an_early_report_is_not_the_last_word_on_a_stream_that_is_left(wants_usage: bool) -> None:
    stream = StreamMeter(wants_usage=wants_usage)
    stream.feed(chunk("a", usage={"prompt_tokens": 50, "completion_tokens": 1}))
    assert stream.usage == Usage(input=50, output=1, source="upstream")
    for _ in range(9):
        stream.feed(chunk("word"))
    assert stream.usage == Usage(input=50, output=10, source="estimated")
    stream.finish()
    assert stream.usage == Usage(input=50, output=10, source="estimated"), "this may have been a cut"


@pytest.mark.parametrize("wants_usage", [True, False])
def test_a_report_is_no_token(wants_usage: bool) -> None:
    stream = StreamMeter(wants_usage=wants_usage)
    for event in (chunk("a"), chunk("b"), chunk(usage={"completion_tokens": 1}), chunk("c")):
        stream.feed(event)
    assert (stream.events, stream.usage) == (3, Usage(output=3, source="estimated"))


@pytest.mark.parametrize("wants_usage", [True, False])
def test_a_server_that_has_said_all_must_know(wants_usage: bool) -> None:
    stream = StreamMeter(wants_usage=wants_usage)
    for event in (chunk("a", usage={"completion_tokens": 1}), chunk("word"), DONE):
        stream.feed(event)
    assert stream.usage == Usage(output=1, source="upstream")
    stream.finish()
    assert stream.usage == Usage(output=1, source="upstream")


@pytest.mark.parametrize("wants_usage", [True, False])
def test_the_last_report_is_believed_though_the_end_was_not_seen(wants_usage: bool) -> None:
    stream = StreamMeter(wants_usage=wants_usage)
    for event in (chunk("role"), chunk("word"), chunk("finish"), chunk(usage={"completion_tokens": 1})):
        stream.feed(event)
    assert stream.usage == Usage(output=1, source="upstream")


def test_what_was_reported_is_taken_and_what_was_not_is_guessed() -> None:
    def guess() -> Usage:
        return Usage(input=7, output=8, source="estimated")

    for told, taken in (
        (Usage(0, 0, 0, None, 0, "upstream"), Usage(0, 0, 0, None, 0, "upstream")),
        (Usage(None, 2, 1, None, 1, "upstream"), Usage(7, 2, 1, None, 1, "estimated")),
        (Usage(3, None, source="upstream"), Usage(3, 8, source="estimated")),
        (Usage(None, None, 9, None, 10, "upstream"), Usage(9, 10, 9, None, 10, "estimated")),
        (None, guess()),
    ):
        assert filled(told, guess) == taken


def test_estimates_are_marked() -> None:
    assert estimate(41, 7) == Usage(input=11, output=7, source="estimated")
    assert estimate_whole(40, b"y" * 9) == Usage(input=10, output=3, source="estimated")


@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_upset_it(data: bytes, wants_usage: bool) -> None:
    meter = StreamMeter(wants_usage=wants_usage)
    passed = meter.feed(data) + meter.finish()
    assert msgspec.json.encode(meter.usage)
    if wants_usage and b"[DONE]" not in data:
        assert passed == data
