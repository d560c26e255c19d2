"""Pictures, sound and transcripts: what passes, and what is counted."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from bluesminds.common.errors import InvalidRequest
from bluesminds.common.values import Usage
from bluesminds.wire.base import RequestFacts
from bluesminds.wire.images import IMAGES
from bluesminds.wire.media import MAX_SECONDS, MediaEvents, Opaque, read_media_event, read_media_usage
from bluesminds.wire.requests import read_body
from bluesminds.wire.speech import SPEECH
from bluesminds.wire.usage import ImplausibleUsage, merge_reports, read_usage, settle_usage

PICTURE = {"type": "image_generation.completed", "b64_json": "iVBORw0KGgo="}
PARTIAL = {"type": "image_generation.partial_image", "b64_json": "iVBO", "partial_image_index": 0}
TOKENS = {
    "input_tokens": 10,
    "output_tokens": 300,
    "total_tokens": 310,
    "input_tokens_details": {"image_tokens": 4, "text_tokens": 6},
    "output_tokens_details": {"image_tokens": 290, "text_tokens": 10},
}
READ = Usage(10, 300, None, None, None, "upstream", image_input_tokens=4, image_output_tokens=290)
ASKED = RequestFacts(model="m", text_bytes=40, text_answer=False)
DONE = b"data: [DONE]\n\n"


def event(fields: dict[str, Any], *, named: bool = True) -> bytes:
    name = f"event: {fields['type']}\n" if named else ""
    return f"{name}data: {json.dumps(fields)}\n\n".encode()


def run(stage: MediaEvents, *pieces: bytes) -> bytes:
    return b"".join([stage.feed(piece) for piece in pieces]) + stage.finish()


def raw(report: Any) -> Any:
    return json.dumps(report).encode()


@pytest.mark.parametrize(
    ("report", "usage"),
    [
        (TOKENS, READ),
        ({"type": "duration", "seconds": 12.3456}, Usage(audio_ms=12346, usage_source="upstream")),
        ({"type": "duration", "seconds": 7}, Usage(audio_ms=7000, usage_source="upstream")),
        (
            {
                "type": "tokens",
                "input_tokens": 14,
                "output_tokens": 45,
                "total_tokens": 59,
                "input_token_details": {"text_tokens": 0, "audio_tokens": 14},
            },
            Usage(14, 45, usage_source="upstream", audio_input_tokens=14),
        ),
        (None, None),
        ({}, None),
    ],
)
def test_media_usage_is_read(report: Any, usage: Usage | None) -> None:
    assert read_media_usage(raw(report)) == usage


@pytest.mark.parametrize(
    ("counts", "usage"),
    [
        (
            (4, 635, 3264),
            Usage(2629, 635, usage_source="upstream", audio_input_tokens=2625, audio_ms=203_000),
        ),
        ((150, 42, 192), Usage(150, 42, usage_source="upstream", audio_ms=203_000)),
        ((None, None, None), Usage(usage_source="upstream", audio_ms=203_000)),
    ],
)
def test_usage_of_mistral_has_the_tokens_of_audio_in_the_total(counts: Any, usage: Usage) -> None:
    report = dict(zip(("prompt_tokens", "completion_tokens", "total_tokens"), counts, strict=True))
    assert read_media_usage(raw(report | {"prompt_audio_seconds": 203})) == usage


@pytest.mark.parametrize("seconds", [-1, "7", True, 2 * MAX_SECONDS])
def test_duration_that_cannot_be_true_is_implausible(seconds: Any) -> None:
    with pytest.raises(ImplausibleUsage):
        read_media_usage(raw({"type": "duration", "seconds": seconds}))


def test_media_tokens_of_chat_are_read() -> None:
    report = {
        "prompt_tokens": 9,
        "completion_tokens": 5,
        "total_tokens": 14,
        "prompt_tokens_details": {"cached_tokens": 1, "audio_tokens": 4, "image_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 2, "audio_tokens": 30},
    }
    read = Usage(
        9, 5, 1, None, 2, "upstream", audio_input_tokens=4, audio_output_tokens=5, image_input_tokens=3
    )
    assert read_usage(raw(report)) == read, "a detail is no more than its main count"
    report["prompt_tokens_details"] = {"audio_tokens": 0}
    report["completion_tokens_details"] = {"audio_tokens": 0, "image_tokens": None}
    assert read_usage(raw(report)) == Usage(9, 5, usage_source="upstream")


def test_merged_reports_keep_media_tokens() -> None:
    earlier = Usage(9, None, usage_source="upstream", audio_input_tokens=4)
    later = Usage(9, 5, usage_source="upstream", audio_output_tokens=3)
    assert merge_reports(later, earlier) == Usage(
        9, 5, usage_source="upstream", audio_input_tokens=4, audio_output_tokens=3
    )


@pytest.mark.parametrize(
    ("usage", "settled"),
    [
        (None, Usage(10, None, usage_source="estimated")),
        (Usage(images=2), Usage(10, None, usage_source="estimated", images=2)),
        (READ, READ),
    ],
)
def test_tokens_of_pictures_are_never_invented(usage: Usage | None, settled: Usage) -> None:
    assert settle_usage(usage, ASKED, delivered=0, pieces=0) == (settled, False)


def test_duration_alone_is_settled_without_tokens() -> None:
    usage = Usage(audio_ms=7000, usage_source="upstream")
    asked = RequestFacts(model="m", text_bytes=40)
    assert settle_usage(usage, asked, delivered=100, pieces=1) == (usage, False)


@pytest.mark.parametrize(
    ("body", "pictures", "usage"),
    [
        ({"created": 1, "data": [{"url": "https://x/y.png"}]}, 1, Usage()),
        ({"data": [{"b64_json": "a"}, {"b64_json": "b"}], "usage": TOKENS}, 2, READ),
        ({"data": [{"b64_json": "a"}], "usage": {"input_tokens": -1}}, 1, Usage()),
    ],
)
def test_reply_of_images_is_counted(body: dict[str, Any], pictures: int, usage: Usage) -> None:
    facts = IMAGES.read_reply(raw(body))
    assert (facts.readable, facts.choices, facts.error) == (True, pictures, None)
    assert facts.usage == structs.replace(usage, images=pictures)


@pytest.mark.parametrize("format_", [IMAGES, SPEECH])
def test_error_in_a_media_reply_is_found(format_: Any) -> None:
    facts = format_.read_reply(raw({"error": {"message": "unsafe", "code": 400}}))
    assert facts.error is not None and facts.error.status == 400
    assert not format_.read_reply(b"<html>").readable


def test_stream_holds_back_the_event_that_completes_it() -> None:
    stage = MediaEvents(ASKED)
    completed = event(PICTURE | {"usage": TOKENS})
    ping = b": ping\n\n"
    assert stage.feed(ping + event(PARTIAL) + completed) == ping + event(PARTIAL)
    assert stage.finished and not stage.final
    assert stage.finish() == completed
    assert stage.final
    assert stage.usage == Usage(
        10, 300, None, None, None, "upstream", image_input_tokens=4, image_output_tokens=290, images=1
    )


def test_stream_of_several_pictures_is_counted() -> None:
    stage = MediaEvents(RequestFacts(model="m", text_bytes=40, text_answer=False, choices=2))
    completed = event(PICTURE | {"usage": TOKENS})
    assert stage.feed(completed) == b"" and not stage.finished
    assert stage.feed(completed) == completed and stage.finished
    assert stage.finish() == completed and stage.usage.images == 2


def test_stream_with_fewer_pictures_than_asked_for_is_finished_by_its_end() -> None:
    stage = MediaEvents(RequestFacts(model="m", text_answer=False, choices=2))
    assert stage.feed(event(PICTURE)) == b"" and not stage.finished
    assert stage.finish() == event(PICTURE) and stage.finished and stage.final


def test_stream_that_ends_before_its_last_event_is_not_finished() -> None:
    stage = MediaEvents(ASKED)
    assert run(stage, event(PARTIAL), event(PICTURE)[:-9]) == event(PARTIAL)
    assert not stage.finished and not stage.final
    assert stage.usage == Usage(10, None, usage_source="estimated")


def test_last_event_without_blank_line_is_completed() -> None:
    stage = MediaEvents(ASKED)
    assert run(stage, event(PICTURE).rstrip(b"\n")) == event(PICTURE)
    assert stage.finished


def test_done_is_passed_at_the_end() -> None:
    stage = MediaEvents(ASKED)
    assert stage.feed(event(PICTURE) + DONE + event(PARTIAL)) == b""
    assert stage.final and stage.finish() == event(PICTURE) + DONE


@pytest.mark.parametrize("named", [True, False])
def test_transcript_without_a_report_is_estimated_by_its_text(named: bool) -> None:
    stage = MediaEvents(RequestFacts(model="m", text_bytes=40))
    deltas = [
        event({"type": "transcript.text.delta", "delta": "Häll"}, named=named),
        event({"type": "transcript.text.delta", "delta": "o!"}, named=named),
    ]
    done = event({"type": "transcript.text.done", "text": "Hällo!"}, named=named)
    assert run(stage, *deltas, done) == b"".join([*deltas, done])
    assert (stage.output, stage.usage) == (2, Usage(10, 2, usage_source="estimated"))


def test_transcript_with_a_duration_has_no_tokens() -> None:
    stage = MediaEvents(RequestFacts(model="m"))
    usage = {"type": "duration", "seconds": 1.5}
    run(stage, event({"type": "transcript.text.done", "text": "a", "usage": usage}))
    assert stage.usage == Usage(audio_ms=1500, usage_source="upstream")


def test_transcript_of_mistral_is_counted() -> None:
    stage = MediaEvents(RequestFacts(model="m"))
    usage = {"prompt_tokens": 8, "completion_tokens": 4, "total_tokens": 52, "prompt_audio_seconds": 3}
    events = [
        event({"type": "transcription.language", "audio_language": "en"}),
        event({"type": "transcription.text.delta", "text": "Hello."}),
        event({"type": "transcription.done", "text": "Hello.", "usage": usage}),
    ]
    assert run(stage, *events) == b"".join(events)
    assert stage.finished
    assert stage.usage == Usage(48, 4, usage_source="upstream", audio_input_tokens=40, audio_ms=3000)


@pytest.mark.parametrize("end", [b"", DONE])
def test_transcript_in_chunks_is_counted(end: bytes) -> None:
    stage = MediaEvents(RequestFacts(model="m", text_bytes=40))
    head = {"id": "trsc-1", "object": "transcription.chunk", "created": 1, "model": "m"}
    deltas = [
        b"data: %b\n\n" % json.dumps(head | {"choices": [{"delta": {"content": text}}]}).encode()
        for text in ("Hello", " there.")
    ]
    assert run(stage, *deltas, end) == b"".join([*deltas, end])
    assert stage.finished and stage.final
    assert stage.usage == Usage(10, 3, usage_source="estimated")
    usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
    stage = MediaEvents(RequestFacts(model="m", text_bytes=40))
    last = b"data: %b\n\n" % json.dumps(head | {"choices": [], "usage": usage}).encode()
    assert run(stage, *deltas, last, end) == b"".join([*deltas, last, end])
    assert stage.usage == Usage(9, 5, usage_source="upstream")


def test_stream_of_unknown_events_is_finished_by_its_end() -> None:
    stage = MediaEvents(RequestFacts(model="m"))
    sent = event({"type": "progress", "percent": 5})
    assert run(stage, sent) == sent and stage.finished
    assert not MediaEvents(RequestFacts(model="m")).finished


def test_speech_events_report_their_usage() -> None:
    stage = MediaEvents(RequestFacts(model="m", text_answer=False, characters=5))
    delta = event({"type": "speech.audio.delta", "audio": "UklGRg=="})
    usage = {"input_tokens": 14, "output_tokens": 101, "total_tokens": 115}
    done = event({"type": "speech.audio.done", "usage": usage})
    assert run(stage, delta, done) == delta + done
    assert stage.usage == Usage(14, 101, usage_source="upstream", characters=5)


@pytest.mark.parametrize(
    ("sent", "passes"),
    [
        (b'data: {"error":{"message":"unsafe","code":400}}\n\n', True),
        (b'event: error\ndata: {"type":"error","error":{"message":"unsafe"}}\n\n', True),
        (b'event: error\ndata: {"message":"unsafe"}\n\n', False),
        (b'data: {"type":"error","message":"unsafe"}\n\n', False),
    ],
)
def test_error_in_a_stream_has_the_form_that_sdks_raise(sent: bytes, passes: bool) -> None:
    stage = MediaEvents(ASKED)
    passed = run(stage, event(PARTIAL), sent)
    assert passed.startswith(event(PARTIAL))
    last = passed.removeprefix(event(PARTIAL))
    assert (last == sent) is passes
    (data,) = [line[6:] for line in last.splitlines() if line.startswith(b"data: ")]
    assert json.loads(data)["error"]["message"] == "unsafe"
    assert stage.error is not None and stage.error.message == "unsafe" and not stage.finished


@pytest.mark.parametrize("sent", [b"data:\n\n", b"data: {\n\n", b"data: x\n\n"])
def test_event_that_sdks_cannot_read_is_dropped(sent: bytes) -> None:
    stage = MediaEvents(ASKED)
    assert run(stage, sent, event(PARTIAL)) == event(PARTIAL)


def test_event_of_another_type_passes() -> None:
    sent = event({"type": "transcript.text.segment", "text": "a"}) + event({"type": "new", "delta": [1]})
    assert run(MediaEvents(ASKED), sent) == sent


fields = st.dictionaries(
    st.sampled_from(["type", "delta", "usage", "error", "b64_json"]),
    st.sampled_from(
        ["transcript.text.delta", *[PICTURE["type"]], "error", None, 7, TOKENS, {"message": "m"}]
    ),
)
lines = st.sampled_from([b": ping\n\n", b"data:\n\n", b"id: 1\n\n", DONE, event(PICTURE), event(PARTIAL)])
streams = st.lists(lines | fields.map(lambda one: f"data: {json.dumps(one)}\n\n".encode()), max_size=8)


@given(streams.map(b"".join), st.data())
def test_any_split_of_a_stream_gives_the_same(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=9)))
    whole, cut = MediaEvents(ASKED), MediaEvents(ASKED)
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert run(whole, stream) == run(cut, *pieces)
    assert (whole.usage, whole.error, whole.finished) == (cut.usage, cut.error, cut.finished)


@given(st.binary(max_size=60), st.binary(max_size=9))
def test_any_event_is_read(data: bytes, name: bytes) -> None:
    assert read_media_event(name, data).choices >= 0


def test_stopped_stream_gives_what_it_holds() -> None:
    stage = MediaEvents(ASKED)
    stage.feed(event(PICTURE) + b"data: {")
    assert stage.stop() == event(PICTURE) and stage.final


@pytest.mark.parametrize(("is_text", "output"), [(False, None), (True, 3)])
def test_opaque_reply_passes_and_is_counted(is_text: bool, output: int | None) -> None:
    asked = RequestFacts(model="m", text_bytes=40, text_answer=is_text, characters=7 if not is_text else None)
    stage = Opaque(asked, is_text=is_text)
    assert not stage.started and not stage.finished
    assert stage.feed(b"\x00\xff[DONE]\n\n") == b"\x00\xff[DONE]\n\n"
    assert stage.started and not stage.finished
    assert stage.finish() == b"" and stage.finished and stage.final and stage.error is None
    assert stage.usage == Usage(10, output, usage_source="estimated", characters=asked.characters)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("model", {"prompt": "a"}),
        ("prompt", {"model": "m"}),
        ("n", {"model": "m", "prompt": "a", "n": 0}),
        ("stream", {"model": "m", "prompt": "a", "stream": 1}),
    ],
)
def test_request_for_images_names_the_wrong_field(name: str, body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        IMAGES.read_request(read_body(raw(body)))
    assert caught.value.param == name
