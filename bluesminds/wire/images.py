"""Images: POST /v1/images/generations, /v1/images/edits and /v1/images/variations.

Format: OpenAI API reference, images. Models that are billed by tokens report their usage; for others the
number of images is counted. Edits are forms, or JSON with references to images; variations are forms.
"""

from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Raw, Struct, structs

from bluesminds.common.values import Usage
from bluesminds.wire.base import Format, FormatName, FormFields, ReplyFacts, RequestFacts
from bluesminds.wire.counted import list_length
from bluesminds.wire.errors import find_error, write_error, write_stream_error
from bluesminds.wire.json_text import ABSENT, NOT_JSON, Fields, read_fields, text_bytes
from bluesminds.wire.media import MediaEvents, read_media_event, read_media_usage
from bluesminds.wire.requests import Choices, decode_fields, prepare
from bluesminds.wire.usage import ImplausibleUsage


class ImageFields(Struct):
    """The fields that limit what a request may cost."""

    model: str
    prompt: Raw
    n: Choices | None = None
    stream: bool | None = None


class ImageFormFields(Struct):
    """The fields of a form that decide what a request may cost. Its prompt is not read."""

    model: str
    n: Choices | None = None
    stream: bool | None = None


_fields = msgspec.json.Decoder(ImageFields)
_form_fields = msgspec.json.Decoder(ImageFormFields)


def read_request(fields: Fields) -> RequestFacts:
    return _facts(decode_fields(fields, _fields, unread=("prompt",)), fields)


def read_form_request(fields: Fields) -> RequestFacts:
    return _facts(decode_fields(fields, _form_fields), fields)


def _facts(request: ImageFields | ImageFormFields, fields: Fields) -> RequestFacts:
    return RequestFacts(
        model=request.model,
        stream=bool(request.stream),
        choices=request.n or 1,
        text_bytes=text_bytes(fields),
        text_answer=False,
    )


def read_reply(body: bytes) -> ReplyFacts:
    try:
        fields = read_fields(body)
    except NOT_JSON:
        return ReplyFacts(readable=False)
    count = list_length(fields.get("data"))
    usage, implausible = None, False
    try:
        usage = read_media_usage(fields.get("usage", ABSENT))
    except ImplausibleUsage:
        implausible = True
    return ReplyFacts(
        choices=count,
        usage=structs.replace(usage or Usage(), images=count),
        implausible=implausible,
        error=None if count else find_error(body),
    )


def _image_format(
    name: FormatName, read: Callable[[Fields], RequestFacts], form: FormFields | None = None
) -> Format:
    return Format(
        name=name,
        read_request=read,
        prepare=prepare,
        read_reply=read_reply,
        read_event=read_media_event,
        write_error=write_error,
        write_stream_error=write_stream_error,
        stage=MediaEvents,
        form=form,
        is_media=True,
    )


_FORM: Final = FormFields({"model": "text", "n": "whole", "stream": "flag"}, read_form_request)
IMAGES: Final = _image_format("images", read_request)
IMAGE_EDITS: Final = _image_format("image_edits", read_request, _FORM)
IMAGE_VARIATIONS: Final = _image_format("image_variations", read_form_request, _FORM)
