"""The codec of legacy completions, for servers that only have conversations: the prompt is a user's message.

Format: OpenAI API reference, completions. Requests of other formats are never translated to it.
"""

from typing import Any, Final

import msgspec
from msgspec import Raw, structs

from bluesminds.common.errors import InvalidRequest
from bluesminds.common.values import Usage
from bluesminds.http.sse import write_event
from bluesminds.wire.base import ClientCodec
from bluesminds.wire.chat_requests import read_penalties
from bluesminds.wire.conversation import (
    ConversationReply,
    ConversationRequest,
    PartDelta,
    PartOpened,
    StopReason,
    StreamEvent,
    StreamFailed,
    StreamFinished,
    StreamStarted,
    StreamStopped,
    TextPart,
    Turn,
    UsageReported,
    text_of_parts,
    unique,
    unsupported,
)
from bluesminds.wire.errors import write_error
from bluesminds.wire.field_reading import FieldReader
from bluesminds.wire.json_text import NOT_JSON, Fields, is_set, read_value
from bluesminds.wire.requests import UNBOUNDED
from bluesminds.wire.stages import DONE, write_usage

OBJECT: Final = "text_completion"
_MEANINGFUL: Final = {
    "suffix": "the server cannot insert text before a suffix.",
    "echo": "the server does not repeat the prompt.",
    "logit_bias": "the server's format has no such field.",
}
_STOPS: Final[dict[StopReason, str]] = {"length": "length", "filter": "content_filter"}


def decode_completion(fields: Fields, created: int = 0) -> ConversationRequest:
    dropped: list[str] = []
    reader = FieldReader(fields, "", dropped)
    _refuse(reader)
    reader.ignore("usage")  # for the gateway
    options = reader.inner("stream_options")
    request = ConversationRequest(
        model=reader.needed("model"),
        turns=(Turn("user", (TextPart(_read_prompt(reader.raw("prompt"))),)),),
        max_output=_read_bound(reader),
        temperature=reader.number("temperature"),
        top_p=reader.number("top_p"),
        **read_penalties(reader),
        stop=reader.texts("stop"),
        user=reader.text("user"),
        stream=bool(reader.flag("stream")),
        wants_usage=options is not None and bool(options.flag("include_usage")),
        created=created,
    )
    reader.drop_rest()
    return structs.replace(request, dropped=unique(dropped))


def _refuse(reader: FieldReader) -> None:
    if (reader.whole("n") or 1) > 1:
        raise unsupported("n", "the server generates one choice per request.")
    if (reader.whole("best_of") or 1) > 1:
        raise unsupported("best_of", "the server generates one choice per request.")
    if reader.has("logprobs"):
        raise unsupported("logprobs", "the server does not report probabilities.")
    for field, reason in _MEANINGFUL.items():
        if is_set(reader.raw(field)):
            raise unsupported(field, reason)


def _read_bound(reader: FieldReader) -> int | None:
    bound = reader.whole("max_tokens")
    if bound == 0:
        raise unsupported("max_tokens", "the server generates at least one token.")
    return None if bound == UNBOUNDED else bound


def _read_prompt(raw: Raw) -> str:
    """The text of a prompt, or of a list with one prompt."""
    try:
        prompt: Any = read_value(bytes(raw)) if raw else ""
    except NOT_JSON as exc:
        message = "`prompt` has a value that JSON does not allow."
        raise InvalidRequest("invalid_value", message, param="prompt") from exc
    if isinstance(prompt, list) and any(isinstance(item, int | list) for item in prompt):
        raise unsupported("prompt", "the server only reads text; send it instead of token numbers.")
    if isinstance(prompt, list) and len(prompt) > 1:
        raise unsupported("prompt", "the server answers one prompt per request.")
    if isinstance(prompt, list) and prompt:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        raise InvalidRequest("invalid_value", "`prompt` must have a text.", param="prompt")
    return prompt


def encode_completion(reply: ConversationReply, request: ConversationRequest) -> bytes:
    choice = _choice(text_of_parts(reply.parts), _STOPS.get(reply.stop, "stop"))
    head = _head(reply.id, reply.model, request)
    return msgspec.json.encode(head | {"choices": [choice], "usage": write_usage(reply.usage)})


def _head(id_: str, model: str, request: ConversationRequest) -> dict[str, Any]:
    return {"id": id_, "object": OBJECT, "created": request.created, "model": model or request.model}


def _choice(text: str, finish: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}


class CompletionsEncoder:
    """Writes a stream. Reasoning has no place in it."""

    next_number = 0  # the events are not numbered

    def __init__(self, request: ConversationRequest) -> None:
        self._request = request
        self._head: dict[str, Any] = {}
        self._texts: set[int] = set()  # parts whose deltas are written
        self._usage: Usage | None = None

    def feed(self, event: StreamEvent) -> bytes:
        match event:
            case PartDelta() if event.text and event.index in self._texts:
                return self._chunk([_choice(event.text, None)])
            case PartOpened(kind="text" | "refusal"):
                self._texts.add(event.index)
            case StreamStarted():
                self._head = _head(event.id, event.model, self._request)
            case StreamStopped():
                return self._chunk([_choice("", _STOPS.get(event.stop, "stop"))])
            case UsageReported():
                self._usage = event.usage or self._usage
            case StreamFailed():
                return write_event(write_error(event.error))
            case StreamFinished() if self._request.wants_usage and self._usage is not None:
                return self._chunk([], write_usage(self._usage)) + DONE
            case StreamFinished():
                return DONE
        return b""

    def _chunk(self, choices: list[dict[str, Any]], usage: dict[str, object] | None = None) -> bytes:
        reported = {"usage": usage} if self._request.wants_usage else {}
        return write_event(msgspec.json.encode(self._head | {"choices": choices} | reported))


COMPLETIONS_CODEC: Final = ClientCodec(
    decode_request=decode_completion, encode_reply=encode_completion, encoder=CompletionsEncoder
)
