"""A model server of Google's: Gemini over a real socket, one plan per request.

It is a ModelServer, so its plans are those of model_server: `whole`, `refusal`, `streamed` and the others.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
import trio

from tests.fakes import raw_upstream
from tests.fakes.model_server import JSON, Asked, Cut, ModelServer, refusal, streamed
from tests.fakes.orders import Offer, Orders, orders_of
from tests.fakes.raw_upstream import Peer

HEAD = {"modelVersion": "gemini-3-flash", "responseId": "r_1"}
USAGE = {
    "promptTokenCount": 107,
    "cachedContentTokenCount": 100,
    "candidatesTokenCount": 3,
    "thoughtsTokenCount": 2,
    "totalTokenCount": 112,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 107}],
}
COUNT = 42
VECTOR = {"values": [0.5, -1.25, 0.1]}
EMBED_USAGE = {"promptTokenCount": 7, "promptTokenDetails": [{"modality": "TEXT", "tokenCount": 7}]}
ERROR_NAMES = {400: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE"}


def candidate(*parts: Any, finish: str = "", **more: Any) -> dict[str, Any]:
    """The JSON of one response."""
    content = {"parts": list(parts), "role": "model"} if parts else {"role": "model"}
    only: dict[str, Any] = {"content": content, "index": 0}
    if finish:
        only["finishReason"] = finish
    return {"candidates": [only], **more, **HEAD}


def content(*parts: Any, finish: str = "STOP") -> bytes:
    """A whole answer, over several lines as Google writes it."""
    body = candidate(*(parts or ({"text": "Hello world"},)), finish=finish, usageMetadata=USAGE)
    return msgspec.json.format(msgspec.json.encode(body), indent=2)


def event(*parts: Any, finish: str = "", **more: Any) -> bytes:
    """One event of a stream."""
    return b"data: " + msgspec.json.encode(candidate(*parts, finish=finish, **more)) + b"\r\n\r\n"


def end(finish: str = "STOP") -> bytes:
    return event({"text": ""}, finish=finish, usageMetadata=USAGE)


def error(status: int, name: str, text: str = "broken", reason: str = "") -> bytes:
    body: dict[str, Any] = {"code": status, "message": text, "status": name}
    if reason:
        kind = "type.googleapis.com/google.rpc.ErrorInfo"
        body["details"] = [{"@type": kind, "reason": reason, "domain": "googleapis.com"}]
    return msgspec.json.format(msgspec.json.encode({"error": body}), indent=2) + b"\n"


async def correct(server: ModelServer, peer: Peer, asked: Asked) -> None:
    """What a good server answers to this request."""
    line = asked.received.line
    orders = orders_of(list(_messages(asked.body)), _offer(asked.body))
    if b":countTokens " in line:
        await peer.answer(msgspec.json.encode({"totalTokens": COUNT}), JSON)
    elif b":embedContent " in line:
        await peer.answer(msgspec.json.encode({"embedding": VECTOR, "usageMetadata": EMBED_USAGE}), JSON)
    elif b":batchEmbedContents " in line:
        vectors = [VECTOR for _ in asked.body["requests"]]
        await peer.answer(msgspec.json.encode({"embeddings": vectors, "usageMetadata": EMBED_USAGE}), JSON)
    elif orders.refuse:
        name = ERROR_NAMES.get(orders.refuse, "INTERNAL")
        await refusal(orders.refuse, error(orders.refuse, name, f"this is {orders.refuse}"))(
            server, peer, asked
        )
    elif b":streamGenerateContent?alt=sse " in line:
        events = [event(part) for part in _parts(orders, orders.pieces)]
        await streamed(*([events[0], Cut] if orders.cut else [*events, end()]))(server, peer, asked)
    else:
        await peer.answer(content(*_parts(orders, [orders.answer])), JSON)


def _parts(orders: Orders, texts: list[str]) -> list[dict[str, Any]]:
    calls = [{"functionCall": {"name": name, "args": given}} for name, given in orders.calls]
    return calls or [{"text": text} for text in texts]


def _messages(body: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """The contents, as chat messages."""
    for turn in body.get("contents") or ():
        parts = turn.get("parts") or ()
        if turn.get("role") == "model":
            yield {"role": "assistant", "content": None}
            continue
        for part in parts:
            if "functionResponse" in part:
                result = part["functionResponse"]["response"]
                only = next(iter(result.values())) if len(result) == 1 else result
                text = only if isinstance(only, str) else msgspec.json.encode(only).decode()
                yield {"role": "tool", "content": text}
        texts = [{"type": "text", "text": part["text"]} for part in parts if "text" in part]
        yield {"role": "user", "content": texts}


def _offer(body: dict[str, Any]) -> Offer:
    config = body.get("generationConfig") or {}
    calling = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
    names = calling.get("allowedFunctionNames") or [None]
    schema = config.get("responseJsonSchema")
    return Offer(
        {
            tool["name"]: tool.get("parametersJsonSchema") or {}
            for tools in body.get("tools") or ()
            for tool in tools.get("functionDeclarations") or ()
        },
        required=calling.get("mode") == "ANY",
        chosen=names[0] if len(names) == 1 else None,
        schema=schema,
        any_json=config.get("responseMimeType") == "application/json" and schema is None,
    )


class GeminiServer(ModelServer):
    __slots__ = ()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.upstream.port}/v1beta"

    def list_models(self) -> bytes:
        rows = [
            {"name": f"models/{name}", "displayName": name, "supportedGenerationMethods": ["generateContent"]}
            for name in self.models
        ]
        other = {"name": "models/film", "supportedGenerationMethods": ["predictLongRunning"]}
        return msgspec.json.encode({"models": [*rows, other]})


async def serve(*models: str, task_status: trio.TaskStatus[ModelServer]) -> None:
    """Serve on a free loopback port until cancelled; "m" is the model unless others are named."""
    server = GeminiServer(models or ("m",), default=correct)
    async with trio.open_nursery() as nursery:
        server.upstream = await nursery.start(raw_upstream.serve, server.play)
        task_status.started(server)
