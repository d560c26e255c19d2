"""A model server of Google's: Gemini over a real socket, one plan per request.

It is a ModelServer, so its plans are those of model_server: `whole`, `refusal`, `streamed` and the others.
"""

from typing import Any

import msgspec
import trio

from tests.fakes import raw_upstream
from tests.fakes.model_server import JSON, Asked, ModelServer, streamed
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
    if b":countTokens " in line:
        await peer.answer(msgspec.json.encode({"totalTokens": COUNT}), JSON)
    elif b":streamGenerateContent?alt=sse " in line:
        await streamed(event({"text": "Hello"}), event({"text": " world"}), end())(server, peer, asked)
    else:
        await peer.answer(content(), JSON)


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
        other = {"name": "models/embedding", "supportedGenerationMethods": ["embedContent"]}
        return msgspec.json.encode({"models": [*rows, other]})


async def serve(*models: str, task_status: trio.TaskStatus[ModelServer]) -> None:
    """Serve on a free loopback port until cancelled; "m" is the model unless others are named."""
    server = GeminiServer(models or ("m",), default=correct)
    async with trio.open_nursery() as nursery:
        server.upstream = await nursery.start(raw_upstream.serve, server.play)
        task_status.started(server)
