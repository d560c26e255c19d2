"""The fields of forms, and replies to forms."""

import json
from typing import Any

import pytest

from bluesminds.common.errors import InvalidRequest
from bluesminds.common.values import Usage
from bluesminds.wire.base import FormFields, RequestFacts
from bluesminds.wire.forms import check_name, read_form
from bluesminds.wire.images import IMAGE_EDITS, IMAGE_VARIATIONS
from bluesminds.wire.transcription import AUDIO_TRANSLATION, TRANSCRIPTION
from bluesminds.wire.usage import settle_usage

FORMS = [one.form for one in (IMAGE_EDITS, IMAGE_VARIATIONS, TRANSCRIPTION, AUDIO_TRANSLATION) if one.form]


def edits() -> FormFields:
    assert IMAGE_EDITS.form is not None
    return IMAGE_EDITS.form


@pytest.mark.parametrize(
    ("values", "facts"),
    [
        ({"model": b"m"}, ("m", False, 1)),
        ({"model": "mödel/1".encode(), "n": b" 02 ", "stream": b"True"}, ("mödel/1", True, 2)),
        ({"model": b"m", "stream": b"0", "n": b"10"}, ("m", False, 10)),
        ({"model": b"m", "stream": b""}, ("m", False, 1)),
    ],
)
def test_fields_of_a_form_are_read(values: dict[str, bytes], facts: tuple[Any, ...]) -> None:
    read = read_form(edits(), values)
    assert (read.model, read.stream, read.choices) == facts


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({}, "model"),
        ({"n": b"1"}, "model"),
        ({"model": b"\xff"}, "model"),
        ({"model": b"m", "n": b"0"}, "n"),
        ({"model": b"m", "n": b"1.5"}, "n"),
        ({"model": b"m", "n": "²".encode()}, "n"),
        ({"model": b"m", "n": b"9" * 20}, "n"),
        ({"model": b"m", "stream": b"maybe"}, "stream"),
    ],
)
def test_wrong_field_of_a_form_is_named(values: dict[str, bytes], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_form(edits(), values)
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["Model", " model", "model[]", "MODEL[0]", "model ", "Stream", "stream[]"])
def test_name_that_servers_may_take_for_another_is_refused(form: FormFields, name: str) -> None:
    if name.strip().casefold().partition("[")[0] not in form.kinds:
        return
    with pytest.raises(InvalidRequest) as caught:
        check_name(form, name)
    assert caught.value.param in ("model", "stream")


@pytest.mark.parametrize("name", ["model", "svg[model]", "prompt", "", "image[]", "models", "[model]"])
def test_other_names_are_accepted(name: str) -> None:
    for form in FORMS:
        check_name(form, name)


@pytest.mark.parametrize(
    ("reply", "usage"),
    [
        ({"text": "Hello there."}, Usage(205, 3, usage_source="estimated")),
        ({"text": ""}, Usage(205, 0, usage_source="estimated")),
        (
            {"text": "Hello.", "usage": {"type": "duration", "seconds": 7.5}, "duration": 9},
            Usage(audio_ms=7500, usage_source="upstream"),
        ),
        ({"text": "Hello.", "duration": 8.47}, Usage(audio_ms=8470, usage_source="upstream")),
        (
            {"text": "Hello.", "duration": 2, "usage": {"input_tokens": 20, "output_tokens": 3}},
            Usage(20, 3, usage_source="upstream", audio_ms=2000),
        ),
        ({"text": "Hello there.", "duration": "x"}, Usage(205, 3, usage_source="estimated")),
    ],
)
def test_usage_of_a_transcript_is_read_or_estimated(reply: dict[str, Any], usage: Usage) -> None:
    asked = RequestFacts(model="m", text_bytes=20, media_tokens=200)
    facts = TRANSCRIPTION.read_reply(json.dumps(reply).encode())
    assert (facts.readable, facts.error, facts.choices) == (True, None, 1)
    assert settle_usage(facts.usage, asked, delivered=facts.delivered, pieces=facts.pieces) == (usage, False)


@pytest.mark.parametrize(
    "body", [b'{"error":{"message":"too long","code":400}}', b'{"detail":"too long","usage":{}}']
)
def test_error_in_the_place_of_a_transcript_is_found(body: bytes) -> None:
    facts = AUDIO_TRANSLATION.read_reply(body)
    assert facts.error is not None and facts.error.message == "too long"


def test_transcript_that_is_no_object_is_unreadable() -> None:
    assert not TRANSCRIPTION.read_reply(b'"text"').readable
