"""Transcripts of audio: POST /v1/audio/transcriptions and /v1/audio/translations.

Format: OpenAI API reference, audio. Usage is in tokens or in seconds; `verbose_json` and `diarized_json` name
the duration of the recording. Subtitles and plain text come without a report.
"""

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct, structs

from bluesminds.common.values import Usage
from bluesminds.wire.base import Format, FormatName, FormFields, ReplyFacts, RequestFacts
from bluesminds.wire.errors import find_error, write_error, write_stream_error
from bluesminds.wire.json_text import ABSENT, NOT_JSON, Fields, decode
from bluesminds.wire.media import MediaEvents, duration_usage, read_media_event, read_media_usage
from bluesminds.wire.requests import decode_fields, prepare
from bluesminds.wire.usage import ImplausibleUsage

# A second of compressed audio has about 16 kB and 16 tokens.
BYTES_PER_TOKEN: Final = 1000


class TranscriptionFields(Struct):
    """The fields that decide what a request may cost."""

    model: str
    stream: bool | None = None


class _TranscriptionReply(Struct, gc=False):
    text: Any = None
    duration: Any = None
    usage: Raw = ABSENT


_fields = msgspec.json.Decoder(TranscriptionFields)
_reply = msgspec.json.Decoder(_TranscriptionReply)


def read_request(fields: Fields) -> RequestFacts:
    request = decode_fields(fields, _fields)
    return RequestFacts(model=request.model, stream=bool(request.stream))


def read_reply(body: bytes) -> ReplyFacts:
    try:
        reply = decode(_reply, body)
    except NOT_JSON:
        return ReplyFacts(readable=False)
    text = reply.text if isinstance(reply.text, str) else ""
    usage, implausible = None, False
    try:
        usage = _usage_of(reply)
    except ImplausibleUsage:
        implausible = True
    return ReplyFacts(
        choices=0 if reply.text is None else 1,
        usage=usage,
        implausible=implausible,
        delivered=len(text.encode()),
        pieces=1 if text else 0,
        error=find_error(body) if reply.text is None else None,
    )


def _usage_of(reply: _TranscriptionReply) -> Usage | None:
    usage = read_media_usage(reply.usage)
    if reply.duration is None or (usage is not None and usage.audio_ms is not None):
        return usage
    read = duration_usage(reply.duration)
    return read if usage is None else structs.replace(usage, audio_ms=read.audio_ms)


def _transcripts(name: FormatName) -> Format:
    return Format(
        name=name,
        read_request=read_request,
        prepare=prepare,
        read_reply=read_reply,
        read_event=read_media_event,
        write_error=write_error,
        write_stream_error=write_stream_error,
        stage=MediaEvents,
        is_media=True,
        form=FormFields({"model": "text", "stream": "flag"}, read_request, BYTES_PER_TOKEN),
    )


TRANSCRIPTION: Final = _transcripts("transcription")
AUDIO_TRANSLATION: Final = _transcripts("audio_translation")
