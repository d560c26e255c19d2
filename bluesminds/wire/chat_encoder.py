"""Writes streams of chat completions from the neutral events of a stream.

Format: OpenAI API reference, chat completions streaming.
"""

from typing import Any, Final

import msgspec

from bluesminds.common.values import Usage
from bluesminds.http.sse import write_event
from bluesminds.wire import chunks
from bluesminds.wire.conversation import (
    ConversationRequest,
    PartClosed,
    PartDelta,
    PartOpened,
    StopReason,
    StreamEvent,
    StreamFailed,
    StreamFinished,
    StreamStarted,
    StreamStopped,
    UsageReported,
)
from bluesminds.wire.errors import write_error
from bluesminds.wire.stages import DONE, write_usage

STOPS: Final[dict[StopReason, str]] = {
    "end": "stop",
    "sequence": "stop",
    "pause": "stop",
    "length": "length",
    "tool": "tool_calls",
    "filter": "content_filter",
}


def write_signature(signature: str) -> dict[str, Any]:
    """Of a call, as Google's servers write it for chat completions."""
    return {"extra_content": {"google": {"thought_signature": signature}}} if signature else {}


class ChatEncoder:
    """Writes the events of a chat stream."""

    next_number = 0  # the events are not numbered

    def __init__(self, request: ConversationRequest) -> None:
        self._request = request
        usage = b',"usage":null' if request.wants_usage else b""
        self._rest = b',"logprobs":null,"finish_reason":%b}]' + usage.replace(b"%", b"%%") + b"}\n\n"
        self._head: dict[str, Any] = {}
        self._start = b""  # of every chunk, up to its delta
        self._around: dict[int, tuple[bytes, bytes]] = {}  # part -> what surrounds the text of its deltas
        self._calls = 0
        self._refused = False
        self._empty: set[int] = set()  # calls without arguments so far
        self._usage: Usage | None = None

    def feed(self, event: StreamEvent) -> bytes:
        if type(event) is PartDelta:
            around = self._around.get(event.index)
            if around is None or not event.text:
                return b""
            if self._empty:
                self._empty.discard(event.index)
            return b"".join((around[0], msgspec.json.encode(event.text), around[1]))
        match event:
            case PartOpened():
                return self._open(event)
            case PartClosed():
                return self._close(event.index)
            case StreamStarted():
                return self._begin(event)
            case StreamStopped():
                closed = b"".join([self._close(index) for index in list(self._around)])
                finish = "stop" if self._refused and event.stop == "filter" else STOPS[event.stop]
                return closed + self._chunk(b"{}", b'"%b"' % finish.encode())
            case UsageReported():
                self._usage = event.usage or self._usage
            case StreamFailed():
                return write_event(write_error(event.error))
            case StreamFinished():
                return self._finish()
        return b""

    def _begin(self, started: StreamStarted) -> bytes:
        self._head = {
            "id": started.id,
            "object": chunks.CHUNK_OBJECTS[0],
            "created": self._request.created,
            "model": started.model,
        }
        head = msgspec.json.encode(self._head)[:-1]
        self._start = b'data: %b,"choices":[{"index":0,"delta":' % head
        return self._chunk(b'{"role":"assistant","content":""}')

    def _chunk(self, delta: bytes, finish: bytes = b"null") -> bytes:
        return self._start + delta + self._rest % finish

    def _open(self, part: PartOpened) -> bytes:
        end = self._rest % b"null"
        if part.kind == "text":
            self._around[part.index] = self._start + b'{"content":', b"}" + end
        elif part.kind == "refusal":
            self._refused = True
            self._around[part.index] = self._start + b'{"refusal":', b"}" + end
        elif part.kind == "thinking" and self._request.shows_reasoning:
            self._around[part.index] = self._start + b'{"reasoning_content":', b"}" + end
        elif part.kind == "tool":
            number, self._calls = self._calls, self._calls + 1
            start = self._start + b'{"tool_calls":[{"index":%d,"function":{"arguments":' % number
            self._around[part.index] = start, b"}}]}" + end
            self._empty.add(part.index)
            function = {"name": part.name, "arguments": ""}
            call = {"index": number, "id": part.id, "type": "function", "function": function}
            return self._chunk(msgspec.json.encode({"tool_calls": [call | write_signature(part.data)]}))
        return b""

    def _close(self, index: int) -> bytes:
        """A call without arguments gets an empty object, because clients parse the arguments as JSON."""
        start, end = self._around.pop(index, (b"", b""))
        if index not in self._empty:
            return b""
        self._empty.discard(index)
        return start + b'"{}"' + end

    def _finish(self) -> bytes:
        if not self._request.wants_usage or self._usage is None:
            return DONE
        report = self._head | {"choices": [], "usage": write_usage(self._usage)}
        return write_event(msgspec.json.encode(report)) + DONE
