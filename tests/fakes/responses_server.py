"""A model server of OpenAI's: the Responses API over a real socket, one plan per request.

It is a ModelServer, so its plans are those of model_server: `whole`, `refusal`, `streamed` and the others.
"""

from collections.abc import Iterable
from itertools import count
from typing import Any

import msgspec
import trio

from tests.fakes import raw_upstream
from tests.fakes.model_server import JSON, Asked, Cut, ModelServer, refusal, streamed
from tests.fakes.orders import Offer, Orders, orders_of
from tests.fakes.raw_upstream import Peer

USAGE = {
    "input_tokens": 11,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 2,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 13,
}
COUNT = 42
_TEXTS = ("input_text", "output_text", "text")


def response(
    model: str, output: list[dict[str, Any]], status: str = "completed", *, text: Any = None
) -> dict[str, Any]:
    """`text`: the format that the request asks for."""
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "model": model,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": False,
        "temperature": 1.0,
        "text": text or {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": USAGE if status == "completed" else None,
        "user": None,
        "metadata": {},
    }


async def correct(server: ModelServer, peer: Peer, asked: Asked) -> None:
    """What a good server answers to this request."""
    body = asked.body
    orders = orders_of(list(_messages(body.get("input"))), _offer(body))
    model = body.get("model", "m")
    if asked.received.line.startswith(b"POST /v1/responses/input_tokens"):
        await peer.answer(
            msgspec.json.encode({"object": "response.input_tokens", "input_tokens": COUNT}), JSON
        )
    elif orders.refuse:
        await refusal(orders.refuse)(server, peer, asked)
    elif body.get("stream"):
        events = list(_events(orders, model, body.get("text")))
        await streamed(*([*events[:5], Cut] if orders.cut else events))(server, peer, asked)
    else:
        await peer.answer(msgspec.json.encode(response(model, _output(orders), text=body.get("text"))), JSON)


def _messages(given: Any) -> Iterable[dict[str, Any]]:
    """The input, as chat messages."""
    if isinstance(given, str):
        yield {"role": "user", "content": given}
        return
    for item in given or ():
        kind = item.get("type", "message")
        if kind == "message":
            yield {"role": item["role"], "content": _blocks(item["content"])}
        elif kind.endswith("_call_output"):
            yield {"role": "tool", "content": _blocks(item["output"])}
        elif kind.endswith("_call"):
            yield {"role": "assistant", "content": None}


def _blocks(content: Any) -> Any:
    if isinstance(content, str):
        return content
    return [{"type": "text", "text": part["text"]} for part in content if part["type"] in _TEXTS]


def _offer(body: dict[str, Any]) -> Offer:
    choice = body.get("tool_choice")
    form = (body.get("text") or {}).get("format") or {}
    return Offer(
        {
            tool["name"]: tool.get("parameters") or {}
            for tool in body.get("tools") or ()
            if tool["type"] == "function"
        },
        required=choice == "required" or isinstance(choice, dict),
        chosen=choice["name"] if isinstance(choice, dict) else None,
        schema=form.get("schema"),
        any_json=form.get("type") == "json_object",
    )


def _output(orders: Orders) -> list[dict[str, Any]]:
    if not orders.calls:
        part = {"type": "output_text", "text": orders.answer, "annotations": [], "logprobs": []}
        return [
            {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [part]}
        ]
    return [
        {
            "type": "function_call",
            "id": f"fc_{number}",
            "status": "completed",
            "call_id": f"call_{number}",
            "name": name,
            "arguments": msgspec.json.encode(given).decode(),
        }
        for number, (name, given) in enumerate(orders.calls)
    ]


def _events(orders: Orders, model: str, text: Any) -> Iterable[bytes]:
    output = _output(orders)
    numbers = count()

    def event(kind: str, **fields: Any) -> bytes:
        data = {"type": f"response.{kind}", "sequence_number": next(numbers)} | fields
        return f"event: response.{kind}\ndata: ".encode() + msgspec.json.encode(data) + b"\n\n"

    begun = response(model, [], "in_progress", text=text)
    yield event("created", response=begun)
    yield event("in_progress", response=begun)
    for index, item in enumerate(output):
        at = {"output_index": index, "item_id": item["id"]}
        empty = {"content": []} if "content" in item else {"arguments": ""}
        yield event("output_item.added", output_index=index, item=item | {"status": "in_progress"} | empty)
        if "content" in item:
            part = item["content"][0]
            at["content_index"] = 0
            yield event("content_part.added", **at, part=part | {"text": ""})
            for piece in orders.pieces:
                yield event("output_text.delta", **at, delta=piece, logprobs=[])
            yield event("output_text.done", **at, text=part["text"], logprobs=[])
            yield event("content_part.done", **at, part=part)
        else:
            given = item["arguments"]
            for piece in (given[: len(given) // 2], given[len(given) // 2 :]):
                yield event("function_call_arguments.delta", **at, delta=piece)
            yield event("function_call_arguments.done", **at, name=item["name"], arguments=given)
        yield event("output_item.done", output_index=index, item=item)
    yield event("completed", response=response(model, output, text=text))


async def serve(*models: str, task_status: trio.TaskStatus[ModelServer]) -> None:
    """Serve on a free loopback port until cancelled; "m" is the model unless others are named."""
    server = ModelServer(models or ("m",), default=correct)
    async with trio.open_nursery() as nursery:
        server.upstream = await nursery.start(raw_upstream.serve, server.play)
        task_status.started(server)
