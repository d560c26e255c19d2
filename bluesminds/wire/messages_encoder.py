"""Writes streams of Anthropic's Messages from the neutral events of a stream.

Format: Anthropic API reference, streaming messages. An event's name is the `type` in its data.
"""

from typing import Any, Final

import msgspec
from msgspec.structs import replace

from bluesminds.common.values import Usage
from bluesminds.http.sse import write_event
from bluesminds.wire.conversation import (
    ConversationRequest,
    PartClosed,
    PartDelta,
    PartKind,
    PartOpened,
    StopReason,
    StreamEvent,
    StreamFailed,
    StreamFinished,
    StreamStarted,
    StreamStopped,
    UsageReported,
)
from bluesminds.wire.errors import ErrorDetail
from bluesminds.wire.messages_errors import write_message_error

STOPS: Final[dict[StopReason, str]] = {
    "end": "end_turn",
    "length": "max_tokens",
    "sequence": "stop_sequence",
    "tool": "tool_use",
    "filter": "refusal",
    "pause": "pause_turn",
}


def write_message_usage(usage: Usage) -> dict[str, Any]:
    """In Anthropic's format: tokens read from and written to a cache are not included in the input."""
    read, written = usage.cache_read_tokens or 0, usage.cache_write_tokens or 0
    report: dict[str, Any] = {
        "input_tokens": max((usage.input_tokens or 0) - read - written, 0),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": usage.output_tokens or 0,
    }
    if usage.reasoning_tokens is not None:
        report["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return report


def named_event(name: str, **fields: object) -> bytes:
    return write_event(msgspec.json.encode({"type": name, **fields}), name.encode())


_DELTAS: Final = {
    "text": ("text_delta", "text"),
    "refusal": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
}
_BLOCKS: Final[dict[PartKind, dict[str, Any]]] = {
    "text": {"type": "text", "text": ""},
    "refusal": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}


_SIGNED: Final = -1  # the part of a thinking block that has the signature of a call


class MessagesEncoder:
    """Writes the events of a Messages stream. The first event has the expected input, because the server's
    report is not known yet. The report is in the second to last event, which is therefore held back until the
    end. The format has no signatures of calls. They are in a thinking block before the call, which clients
    send back.
    """

    next_number = 0  # the events are not numbered

    def __init__(self, request: ConversationRequest) -> None:
        self._request = request
        self._around: dict[int, tuple[bytes, bytes]] = {}  # part -> what surrounds the text of its deltas
        self._blocks: dict[int, int] = {}  # part -> block; hidden parts are not in it
        self._count = 0
        self._stopped = StreamStopped("end")
        self._usage = Usage(input_tokens=request.expected_input)

    def feed(self, event: StreamEvent) -> bytes:
        if type(event) is PartDelta:
            around = self._around.get(event.index)
            if around is None or not event.text:
                return b""
            return b"".join((around[0], msgspec.json.encode(event.text), around[1]))
        match event:
            case PartOpened():
                return self._open(event)
            case PartClosed():
                return self._close(event.index, event.signature)
            case StreamStarted():
                return self._begin(event)
            case StreamStopped():
                self._stopped = event
                return b"".join([self._close(part) for part in list(self._blocks)])
            case UsageReported(usage) if usage is not None:
                self._usage = (
                    replace(usage, input_tokens=self._usage.input_tokens)
                    if usage.input_tokens is None
                    else usage
                )
            case StreamFailed():
                return write_failure(event.error)
            case StreamFinished():
                return write_end(self._stopped, self._usage)
        return b""

    def _begin(self, started: StreamStarted) -> bytes:
        return write_start(started.id, started.model, self._usage)

    def _open(self, part: PartOpened) -> bytes:
        if part.kind in ("thinking", "redacted") and not self._request.shows_reasoning:
            return b""
        signed = b""
        if part.kind == "tool" and part.data and self._request.shows_reasoning:
            signed = self._open(PartOpened(_SIGNED, "thinking")) + self._close(_SIGNED, part.data)
        block = self._blocks[part.index] = self._count
        self._count += 1
        if part.kind == "tool":
            content = {"type": "tool_use", "id": part.id, "name": part.name, "input": {}}
            delta, field = "input_json_delta", "partial_json"
        elif part.kind == "redacted":
            content = {"type": "redacted_thinking", "data": part.data}
            return named_event("content_block_start", index=block, content_block=content)
        else:
            content = _BLOCKS[part.kind]
            delta, field = _DELTAS[part.kind]
        head = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":' % block
        self._around[part.index] = (
            head + b'{"type":"%b","%b":' % (delta.encode(), field.encode()),
            b"}}\n\n",
        )
        return signed + named_event("content_block_start", index=block, content_block=content)

    def _close(self, part: int, signature: str = "") -> bytes:
        block = self._blocks.pop(part, None)
        self._around.pop(part, None)
        if block is None:
            return b""
        signed = b""
        if signature:
            delta = {"type": "signature_delta", "signature": signature}
            signed = named_event("content_block_delta", index=block, delta=delta)
        return signed + named_event("content_block_stop", index=block)


def write_start(id_: str, model: str, usage: Usage) -> bytes:
    """message_start."""
    message: dict[str, Any] = {
        "id": id_,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": write_message_usage(usage),
    }
    return named_event("message_start", message=message)


def write_end(stopped: StreamStopped, usage: Usage) -> bytes:
    """message_delta and message_stop."""
    delta = {"stop_reason": STOPS[stopped.stop], "stop_sequence": stopped.sequence or None}
    ended = named_event("message_delta", delta=delta, usage=write_message_usage(usage))
    return ended + named_event("message_stop")


def write_failure(error: ErrorDetail) -> bytes:
    """The error event within a stream."""
    return write_event(write_message_error(error), b"error")
