"""Moderations: POST /v1/moderations.

Format: OpenAI API reference, moderations. OpenAI's replies have no usage, and the model is optional.
"""

import msgspec
from msgspec import Raw, Struct

from bluesminds.wire.base import Format, ReplyFacts, RequestFacts
from bluesminds.wire.counted import facts_of, no_events, read_list_reply
from bluesminds.wire.errors import write_error, write_stream_error
from bluesminds.wire.json_text import Fields
from bluesminds.wire.requests import decode_fields, prepare

DEFAULT_MODEL = "omni-moderation-latest"


class ModerationFields(Struct):
    input: Raw
    model: str | None = None


_fields = msgspec.json.Decoder(ModerationFields)


def read_request(fields: Fields) -> RequestFacts:
    return facts_of(fields, decode_fields(fields, _fields, unread=("input",)).model or DEFAULT_MODEL)


def read_reply(body: bytes) -> ReplyFacts:
    return read_list_reply(body, "results")


MODERATIONS = Format(
    name="moderations",
    read_request=read_request,
    prepare=prepare,
    read_reply=read_reply,
    read_event=no_events,
    write_error=write_error,
    write_stream_error=write_stream_error,
)
