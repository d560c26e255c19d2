"""POST /v1/responses/compact: one item takes the place of a long conversation.

Format: OpenAI API reference, compact a response. A server without this endpoint gets an ordinary request for
a summary.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct, structs

from bluesminds.common.errors import InvalidRequest
from bluesminds.common.values import Usage
from bluesminds.wire.base import RequestFacts
from bluesminds.wire.compaction_items import CompactedConversation, write_compacted
from bluesminds.wire.conversation import (
    ConversationReply,
    ConversationRequest,
    MediaPart,
    Part,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    Turn,
    text_of_parts,
)
from bluesminds.wire.counted import no_events
from bluesminds.wire.json_text import Fields, text_bytes
from bluesminds.wire.requests import decode_fields
from bluesminds.wire.responses import RESPONSES
from bluesminds.wire.responses_codec import RESPONSES_CODEC
from bluesminds.wire.responses_objects import response_id, write_responses_usage
from bluesminds.wire.responses_requests import decode_request

_TASK: Final = (
    "Summarize the conversation below, so that it can be continued without it. Keep what the user wants, all"
    " decisions, facts, names, numbers and file paths that matter, what has been done, and what is left to"
    " do. Do not answer the conversation. Write only the summary."
)
_ZERO: Final = Usage(0, 0)


class CompactFields(Struct):
    model: str


_fields = msgspec.json.Decoder(CompactFields)


def read_request(fields: Fields) -> RequestFacts:
    return RequestFacts(decode_fields(fields, _fields).model, text_bytes=text_bytes(fields))


def decode_compact_request(fields: Fields, created: int) -> ConversationRequest:
    """The request for a summary. The instructions among the items are not for the model to summarize."""
    shown = {name: value for name, value in fields.items() if name not in ("instructions", "tools", "text")}
    conversation = decode_request(shown, created)
    if not (conversation.turns or conversation.system):
        raise InvalidRequest("invalid_value", "`input` is empty.", param="input")
    text = "\n\n".join([_TASK, *_transcript(conversation.turns)])
    return ConversationRequest(
        model=conversation.model,
        turns=(Turn("user", (TextPart(text),)),),
        user=conversation.user,
        created=created,
        dropped=conversation.dropped,
        echo=conversation.system.encode(errors="replace"),
    )


def _transcript(turns: Sequence[Turn]) -> list[str]:
    """As text: servers refuse calls of tools that the request does not define."""
    return [f"[{turn.role}]\n" + "\n".join(_written(part) for part in turn.parts) for turn in turns]


def _written(part: Part) -> str:
    match part:
        case TextPart() | ThinkingPart():
            return part.text
        case MediaPart():
            return f"({part.kind})"
        case ToolCallPart():
            return f"(calls {part.name}: {part.arguments})"
        case ToolResultPart():
            return "(result: " + "\n".join([_written(inner) for inner in part.parts]) + ")"


def encode_compact_reply(reply: ConversationReply, request: ConversationRequest) -> bytes:
    """Raises ValueError for a reply without a summary."""
    summary = text_of_parts(reply.parts).strip()
    if not summary:
        raise ValueError("an answer without a summary")
    id_ = response_id(reply.id)
    item = {
        "id": f"cmp_{id_.removeprefix('resp_')}",
        "type": "compaction",
        "encrypted_content": write_compacted(CompactedConversation(summary, request.echo.decode())),
    }
    return msgspec.json.encode(
        {
            "id": id_,
            "object": "response.compaction",
            "created_at": request.created,
            "output": [item],
            "usage": write_responses_usage(reply.usage) or write_responses_usage(_ZERO),
        }
    )


COMPACT: Final = structs.replace(
    RESPONSES,
    name="compact",
    read_request=read_request,
    read_event=no_events,
    events_from_reply=None,
    reply_from_events=None,
    stage=None,
    codec=structs.replace(
        RESPONSES_CODEC, decode_request=decode_compact_request, encode_reply=encode_compact_reply
    ),
)
