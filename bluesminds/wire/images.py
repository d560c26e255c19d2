"""Images: POST /v1/images/generations.

Format: OpenAI API reference, images. Models that are billed by tokens report their usage; for others the
number of images is counted.
"""

from typing import Final

import msgspec
from msgspec import Raw, Struct, structs

from bluesminds.common.values import Usage
from bluesminds.wire.base import Format, ReplyFacts, RequestFacts
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


_fields = msgspec.json.Decoder(ImageFields)


def read_request(fields: Fields) -> RequestFacts:
    request = decode_fields(fields, _fields, unread=("prompt",))
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
    pictures = list_length(fields.get("data"))
    usage, implausible = None, False
    try:
        usage = read_media_usage(fields.get("usage", ABSENT))
    except ImplausibleUsage:
        implausible = True
    return ReplyFacts(
        choices=pictures,
        usage=structs.replace(usage or Usage(), images=pictures),
        implausible=implausible,
        error=None if pictures else find_error(body),
    )


IMAGES: Final = Format(
    name="images",
    read_request=read_request,
    prepare=prepare,
    read_reply=read_reply,
    read_event=read_media_event,
    write_error=write_error,
    write_stream_error=write_stream_error,
    stage=MediaEvents,
    is_media=True,
)
