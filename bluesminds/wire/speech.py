"""Speech: POST /v1/audio/speech.

Format: OpenAI API reference, audio. The reply is audio in the format of `response_format` or, with
`stream_format: "sse"`, events, of which the last one has the usage. Audio has no usage report, so the
characters of the input are counted.
"""

from typing import Final

import msgspec
from msgspec import Struct

from bluesminds.wire.base import Format, ReplyFacts, RequestFacts
from bluesminds.wire.errors import find_error, write_error, write_stream_error
from bluesminds.wire.json_text import NOT_JSON, Fields, read_fields, text_bytes
from bluesminds.wire.media import MediaEvents, read_media_event
from bluesminds.wire.requests import decode_fields, prepare


class SpeechFields(Struct):
    """The fields that limit what a request may cost."""

    model: str
    input: str
    stream_format: str | None = None


_fields = msgspec.json.Decoder(SpeechFields)


def read_request(fields: Fields) -> RequestFacts:
    request = decode_fields(fields, _fields)
    return RequestFacts(
        model=request.model,
        stream=request.stream_format == "sse",
        text_bytes=text_bytes(fields),
        text_answer=False,
        characters=len(request.input),
    )


def read_reply(body: bytes) -> ReplyFacts:
    """Some servers respond with JSON instead of audio."""
    try:
        read_fields(body)
    except NOT_JSON:
        return ReplyFacts(readable=False)
    return ReplyFacts(choices=1, error=find_error(body))


SPEECH: Final = Format(
    name="speech",
    read_request=read_request,
    prepare=prepare,
    read_reply=read_reply,
    read_event=read_media_event,
    write_error=write_error,
    write_stream_error=write_stream_error,
    stage=MediaEvents,
    is_media=True,
)
