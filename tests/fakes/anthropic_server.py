"""A model server of Anthropic's: Messages over a real socket, one plan per request.

It is a ModelServer, so its plans are those of model_server: `whole`, `refusal`, `streamed` and the others.
"""

from typing import Any

import msgspec
import trio

from tests.fakes import raw_upstream
from tests.fakes.model_server import JSON, Asked, ModelServer, streamed
from tests.fakes.raw_upstream import Peer

USAGE = {
    "input_tokens": 7,
    "cache_creation_input_tokens": 20,
    "cache_read_input_tokens": 100,
    "output_tokens": 5,
    "service_tier": "standard",
}
HELLO = [{"type": "text", "text": "Hello world"}]
COUNT = 42
PING = b'event: ping\ndata: {"type": "ping"}\n\n'


def event(type_: str, **fields: Any) -> bytes:
    """One event of a stream."""
    data = msgspec.json.encode({"type": type_} | fields)
    return b"event: " + type_.encode() + b"\ndata: " + data + b"\n\n"


def message(content: list[dict[str, Any]] | None = None, **more: Any) -> bytes:
    """A whole answer."""
    body: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": HELLO if content is None else content,
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": USAGE,
    }
    return msgspec.json.encode(body | more)


def error(type_: str = "api_error", text: str = "broken") -> bytes:
    body = {"type": "error", "error": {"type": type_, "message": text}, "request_id": "req_1"}
    return msgspec.json.encode(body)


def error_event(type_: str, text: str) -> bytes:
    return b"event: error\ndata: " + error(type_, text) + b"\n\n"


def start() -> bytes:
    usage = USAGE | {"output_tokens": 1}
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": []}
    return event("message_start", message=head | {"stop_reason": None, "stop_sequence": None, "usage": usage})


def block(index: int, opened: dict[str, Any], *deltas: dict[str, Any]) -> list[bytes]:
    """The events of one block of content."""
    return [
        event("content_block_start", index=index, content_block=opened),
        *(event("content_block_delta", index=index, delta=delta) for delta in deltas),
        event("content_block_stop", index=index),
    ]


def text_block(index: int, *texts: str) -> list[bytes]:
    return block(index, {"type": "text", "text": ""}, *({"type": "text_delta", "text": one} for one in texts))


def tool_block(index: int, id_: str, name: str, *pieces: str) -> list[bytes]:
    opened = {"type": "tool_use", "id": id_, "name": name, "input": {}}
    return block(index, opened, *({"type": "input_json_delta", "partial_json": one} for one in pieces))


def thinking_block(index: int, thought: str, signature: str) -> list[bytes]:
    return block(
        index,
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking_delta", "thinking": thought},
        {"type": "signature_delta", "signature": signature},
    )


def end(reason: str = "end_turn") -> list[bytes]:
    delta = {"stop_reason": reason, "stop_sequence": None}
    return [event("message_delta", delta=delta, usage={"output_tokens": 5}), event("message_stop")]


async def correct(server: ModelServer, peer: Peer, asked: Asked) -> None:
    """What a good server answers to this request."""
    if asked.received.line.startswith(b"POST /v1/messages/count_tokens"):
        await peer.answer(msgspec.json.encode({"input_tokens": COUNT}), JSON)
    elif asked.body.get("stream"):
        await streamed(start(), PING, *text_block(0, "Hello", " world"), *end())(server, peer, asked)
    else:
        await peer.answer(message(), JSON)


class AnthropicServer(ModelServer):
    __slots__ = ()

    def list_models(self) -> bytes:
        created = "2026-01-02T03:04:05Z"
        rows = [
            {"type": "model", "id": name, "display_name": name, "created_at": created} for name in self.models
        ]
        return msgspec.json.encode({"data": rows, "has_more": False, "first_id": None, "last_id": None})


async def serve(*models: str, task_status: trio.TaskStatus[ModelServer]) -> None:
    """Serve on a free loopback port until cancelled; "m" is the model unless others are named."""
    server = AnthropicServer(models or ("m",), default=correct)
    async with trio.open_nursery() as nursery:
        server.upstream = await nursery.start(raw_upstream.serve, server.play)
        task_status.started(server)
