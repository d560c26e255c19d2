"""A scripted model server: the chat dialect of OpenAI over a real socket, one plan per request.

    models = await nursery.start(model_server.serve)
    models.plan(streamed(chunk("Hel"), chunk("lo"), DONE))

Requests are answered by the plans in order, and with a correct response when no plan is left: it follows the
orders in the prompt (`orders.py`). `asked` has all received requests.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import trio

from tests.fakes import raw_upstream
from tests.fakes.orders import HELLO, Offer, orders_of
from tests.fakes.raw_upstream import Peer, Received, Upstream

USAGE = {"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13}
DONE = b"data: [DONE]\n\n"
EVENT_STREAM = b"Content-Type: text/event-stream"
JSON = b"Content-Type: application/json"
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Asked:
    """One received chat request."""

    received: Received
    body: dict[str, Any]

    def header(self, name: bytes) -> bytes | None:
        values = self.received.values(name)
        return values[0] if values else None


Plan = Callable[["ModelServer", Peer, Asked], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait inside a stream, in seconds."""

    seconds: float


class Cut:
    """Reset the connection."""


class Stall:
    """Send nothing more, and wait until the client closes the connection."""


class Fin:
    """Close the connection with FIN, without the last chunk."""


def chunk(
    content: str | None = None, *, usage: Any = _ABSENT, finish: str | None = None, **more: Any
) -> bytes:
    """One chat.completion.chunk event. Without `content` and `finish` it has no choices."""
    body: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    choice = {"index": 0, "delta": {} if content is None else {"content": content}, "finish_reason": finish}
    body["choices"] = [] if content is None and finish is None else [choice]
    if usage is not _ABSENT:
        body["usage"] = usage
    return b"data: " + msgspec.json.encode(body | more) + b"\n\n"


def completion(
    content: str = HELLO, *, usage: Any = USAGE, calls: Sequence[dict[str, Any]] = (), **more: Any
) -> bytes:
    """A complete response: text, or tool calls. `usage=...` omits the usage."""
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if calls:
        message |= {"content": None, "tool_calls": calls}
    finish = "tool_calls" if calls else "stop"
    body: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m"}
    body["choices"] = [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}]
    if usage is not ...:
        body["usage"] = usage
    return msgspec.json.encode(body | more)


def error(message: str = "broken", **more: Any) -> bytes:
    return msgspec.json.encode({"error": {"message": message, "type": "server_error", "code": None} | more})


def whole(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> Plan:
    async def play(_: "ModelServer", peer: Peer, asked: Asked) -> None:
        await peer.answer(body, JSON, *headers, status=status)

    return play


def refusal(status: int, body: bytes | None = None, *headers: bytes) -> Plan:
    return whole(
        error(f"this is {status}") if body is None else body, *headers, status=b"%d Refused" % status
    )


def streamed(*steps: Any, headers: Sequence[bytes] = (), content_type: bytes = EVENT_STREAM) -> Plan:
    """A chunked event stream, one HTTP chunk per step of bytes. Other steps are a Pause, an Event to wait
    for, Cut, Stall and Fin.
    """

    async def play(server: "ModelServer", peer: Peer, asked: Asked) -> None:
        await peer.begin_chunked(content_type, *headers)
        for step in steps:
            if isinstance(step, bytes):
                await peer.chunk(step)
            elif isinstance(step, Pause):
                await trio.sleep(step.seconds)
            elif isinstance(step, trio.Event):
                await step.wait()
            elif step is Cut:
                peer.reset()
                return
            elif step is Fin:
                await peer.close()
                return
            else:
                await _wait_until_left(server, peer)
                return
        await peer.send(b"0\r\n\r\n")

    return play


async def _wait_until_left(server: "ModelServer", peer: Peer) -> None:
    """Wait until the client closes or resets the connection."""
    try:
        await peer.wait_closed()
    finally:
        server.left += 1


async def hang(server: "ModelServer", peer: Peer, asked: Asked) -> None:
    """Never answer."""
    await _wait_until_left(server, peer)


async def drop(server: "ModelServer", peer: Peer, asked: Asked) -> None:
    """Reset instead of answering."""
    peer.reset()


async def drop_twice(server: "ModelServer", peer: Peer, asked: Asked) -> None:
    """Reset now, and again when the request is repeated on a new connection. It is repeated only if the first
    reset arrives before any response.
    """
    request_id = asked.header(b"x-request-id")
    assert request_id, "a repetition could not be recognized"
    server.dropped.add(request_id)
    peer.reset()


async def correct(server: "ModelServer", peer: Peer, asked: Asked) -> None:
    """Answer as a correct server does."""
    model = asked.body.get("model", "m")
    orders = orders_of(asked.body.get("messages") or (), _offer(asked.body))
    calls = [
        {
            "id": f"call_{number}",
            "type": "function",
            "function": {"name": name, "arguments": msgspec.json.encode(arguments).decode()},
        }
        for number, (name, arguments) in enumerate(orders.calls)
    ]
    if orders.refuse:
        await refusal(orders.refuse)(server, peer, asked)
    elif not asked.body.get("stream"):
        await peer.answer(completion(orders.answer, calls=calls, model=model), JSON)
    else:
        wants = (asked.body.get("stream_options") or {}).get("include_usage")
        nothing = {"model": model} | ({"usage": None} if wants else {})
        parts = call_chunks(calls, **nothing) or text_chunks(orders.pieces, **nothing)
        events = [*parts, chunk(finish="tool_calls" if calls else "stop", **nothing)]
        ended = [*events, *([chunk(usage=USAGE, model=model)] if wants else []), DONE]
        await streamed(*([parts[0], Cut] if orders.cut else ended))(server, peer, asked)


def _offer(body: dict[str, Any]) -> Offer:
    tools = [tool[tool["type"]] for tool in body.get("tools") or ()]
    choice = body.get("tool_choice")
    form = body.get("response_format") or {}
    return Offer(
        {tool["name"]: tool.get("parameters") or {} for tool in tools},
        required=choice == "required" or isinstance(choice, dict),
        chosen=choice["function"]["name"] if isinstance(choice, dict) else None,
        schema=form["json_schema"]["schema"] if form.get("type") == "json_schema" else None,
        any_json=form.get("type") == "json_object",
    )


def text_chunks(pieces: Sequence[str] = ("Hello", " world"), **more: Any) -> list[bytes]:
    """The chunks of a text; the first has the role."""
    deltas = [{"role": "assistant", "content": pieces[0]}, *({"content": piece} for piece in pieces[1:])]
    return [_delta_chunk(delta, **more) for delta in deltas]


def call_chunks(calls: Sequence[dict[str, Any]], **more: Any) -> list[bytes]:
    """The chunks of tool calls; the arguments are divided in two."""
    parts: list[dict[str, Any]] = []
    for index, call in enumerate(calls):
        function = call["function"]
        text = function["arguments"]
        half = len(text) // 2
        parts.append({"index": index, **call, "function": function | {"arguments": ""}})
        parts += [{"index": index, "function": {"arguments": piece}} for piece in (text[:half], text[half:])]
    deltas: list[dict[str, Any]] = [{"tool_calls": [part]} for part in parts]
    deltas[:1] = [{"role": "assistant", "content": None} | delta for delta in deltas[:1]]
    return [_delta_chunk(delta, **more) for delta in deltas]


def _delta_chunk(delta: dict[str, Any], **more: Any) -> bytes:
    return chunk(choices=[{"index": 0, "delta": delta, "finish_reason": None}], **more)


@dataclass(slots=True)
class ModelServer:
    """`left` counts clients that disconnected during a plan. `list_status` is the status of the list
    of models. `default` answers when no plan is left. `dropped` are the ids of requests whose repetitions
    are reset. `rows` replace the rows of the list of models; `refused_keys` must not list them.
    """

    models: tuple[str, ...]
    upstream: Upstream = field(default_factory=lambda: Upstream(0))
    asked: list[Asked] = field(default_factory=list)
    left: int = 0
    list_status: bytes = b"200 OK"
    dropped: set[bytes] = field(default_factory=set)
    default: Plan = correct
    rows: list[dict[str, Any]] = field(default_factory=list)
    refused_keys: frozenset[str] = frozenset()
    _plans: deque[Plan] = field(default_factory=deque)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.upstream.port}/v1"

    def plan(self, *plans: Plan) -> None:
        self._plans.extend(plans)

    def list_models(self) -> bytes:
        rows = [{"id": name, "object": "model", "created": 7, "owned_by": "tests"} for name in self.models]
        rows = self.rows or rows
        return msgspec.json.encode({"object": "list", "data": rows})

    async def play(self, peer: Peer) -> None:
        while True:
            received = await peer.request()
            if received.line.startswith(b"GET "):
                keys = {value.decode().removeprefix("Bearer ") for value in received.values(b"authorization")}
                status = b"401 Unauthorized" if keys & self.refused_keys else self.list_status
                await peer.answer(self.list_models(), JSON, status=status)
                continue
            asked = Asked(received, _decoded(received.body))
            self.asked.append(asked)
            if asked.header(b"x-request-id") in self.dropped:
                peer.reset()
                return
            plan = self._plans.popleft() if self._plans else self.default
            await plan(self, peer, asked)


def _decoded(body: bytes) -> dict[str, Any]:
    """Empty for a relayed body that is not an object, and for a number that is too large for every type."""
    try:
        value = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return {}
    return value if isinstance(value, dict) else {}


async def serve(*models: str, task_status: trio.TaskStatus[ModelServer]) -> None:
    """Serve on a free loopback port until cancelled; "m" is the model unless others are named."""
    server = ModelServer(models or ("m",))
    async with trio.open_nursery() as nursery:
        server.upstream = await nursery.start(raw_upstream.serve, server.play)
        task_status.started(server)
