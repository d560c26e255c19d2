"""A model server of Anthropic's: Messages over a real socket, one plan per request.

It is a ModelServer, so its plans are those of model_server: `whole`, `refusal`, `streamed` and the others.
"""

from typing import Any

import msgspec
import trio

from tests.fakes import raw_upstream
from tests.fakes.model_server import JSON, Asked, Cut, ModelServer, refusal, streamed
from tests.fakes.orders import HELLO, Offer, Orders, orders_of
from tests.fakes.raw_upstream import Peer

USAGE = {
    "input_tokens": 7,
    "cache_creation_input_tokens": 20,
    "cache_read_input_tokens": 100,
    "output_tokens": 5,
    "service_tier": "standard",
}
ERROR_TYPES = {400: "invalid_request_error", 429: "rate_limit_error", 529: "overloaded_error"}
COUNT = 42
JSON_ONLY = "one JSON object"  # in the system prompt
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
        "content": [{"type": "text", "text": HELLO}] if content is None else content,
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


def start(model: str = "m") -> bytes:
    usage = USAGE | {"output_tokens": 1}
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": model, "content": []}
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
    orders = orders_of(asked.body.get("messages") or (), _offer(asked.body))
    if asked.received.line.startswith(b"POST /v1/messages/count_tokens"):
        await peer.answer(msgspec.json.encode({"input_tokens": COUNT}), JSON)
    elif orders.refuse:
        kind = ERROR_TYPES.get(orders.refuse, "api_error")
        await refusal(orders.refuse, error(kind, f"this is {orders.refuse}"))(server, peer, asked)
    elif asked.body.get("stream"):
        events = [start(asked.body["model"]), PING, *_ordered_blocks(orders)]
        ended = [*events, *end("tool_use" if orders.calls else "end_turn")]
        await streamed(*([*events[:4], Cut] if orders.cut else ended))(server, peer, asked)
    else:
        await peer.answer(_ordered_message(orders, asked.body["model"]), JSON)


def _offer(body: dict[str, Any]) -> Offer:
    choice = body.get("tool_choice") or {}
    return Offer(
        {tool["name"]: tool.get("input_schema") or {} for tool in body.get("tools") or ()},
        required=choice.get("type") in ("any", "tool"),
        chosen=choice.get("name"),
        schema=((body.get("output_config") or {}).get("format") or {}).get("schema"),
        any_json=JSON_ONLY in (body.get("system") or ""),
    )


def _ordered_message(orders: Orders, model: str) -> bytes:
    if not orders.calls:
        return message([{"type": "text", "text": orders.answer}], model=model)
    uses = [
        {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": given}
        for number, (name, given) in enumerate(orders.calls)
    ]
    return message(uses, stop_reason="tool_use", model=model)


def _ordered_blocks(orders: Orders) -> list[bytes]:
    if not orders.calls:
        return text_block(0, *orders.pieces)
    texts = [(name, msgspec.json.encode(given).decode()) for name, given in orders.calls]
    blocks = [
        tool_block(number, f"toolu_{number}", name, text[: len(text) // 2], text[len(text) // 2 :])
        for number, (name, text) in enumerate(texts)
    ]
    return [part for parts in blocks for part in parts]


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
