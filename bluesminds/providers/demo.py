"""A model server that needs no vendor: a small deterministic text generator behind OpenAI's chat dialect.

The same request always gets the same answer. It streams at a token pace, reports usage, calls the first
tool when asked to (`tool_choice` "required" or a named function), and fails on request by model name, so
that every path of the gateway can be tried:

    demo/echo    the last message back           demo/text   prose on the subject of the last message
    demo/slow    text, first token after 3 s     demo/cut    breaks the stream off in the middle
    demo/NNN     answers with HTTP status NNN (400 to 599), e.g. demo/429 with Retry-After

`script` is pure: a request's bytes to the steps of its answer. `app` plays a script as an ASGI application.
"""

import hashlib
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

import msgspec
import trio
from msgspec import Struct

TOKEN_SECONDS = 0.02
SLOW_SECONDS = 3.0
DEFAULT_TOKENS = 48
MAX_TOKENS = 4096
MODELS = ("demo/echo", "demo/text", "demo/slow", "demo/cut", "demo/400", "demo/429", "demo/500", "demo/503")
_PROSE = (
    "a gateway counts every token once and sends each answer on as it comes the budget holds while the "
    "stream runs and the ledger adds up to the last digit servers come and go but the key stays the same"
)
_WORDS = _PROSE.split()
_CREATED = 1_760_000_000  # fixed, because answers are deterministic


class _Message(Struct):
    role: str
    content: Any = None


class _Function(Struct):
    name: str


class _Tool(Struct):
    function: _Function | None = None


class _Options(Struct):
    include_usage: bool | None = None


class _Request(Struct):
    model: str
    messages: list[_Message]
    stream: bool | None = None
    stream_options: _Options | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    tools: list[_Tool] | None = None
    tool_choice: Any = None


class Step(Struct, frozen=True):
    """Wait `delay` seconds, then send `data`. `data` None breaks the connection off."""

    delay: float
    data: bytes | None


class Script(Struct, frozen=True):
    """A whole answer, step by step."""

    status: int
    content_type: str
    steps: list[Step]
    headers: tuple[tuple[bytes, bytes], ...] = ()


def script(body: bytes) -> Script:
    """What to answer to POST /chat/completions."""
    try:
        request = msgspec.json.decode(body, type=_Request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _failure(400)
    kind = request.model.removeprefix("demo/")
    if kind.isdecimal() and 400 <= int(kind) <= 599:
        return _failure(int(kind))
    tokens = list(_tokens(request, kind))
    limit = request.max_completion_tokens or request.max_tokens or DEFAULT_TOKENS
    finish = "length" if len(tokens) > limit else "stop"
    tokens = tokens[: min(limit, MAX_TOKENS)]
    answer = _Answer(request, tokens, finish, _tool(request))
    first = SLOW_SECONDS if kind == "slow" else TOKEN_SECONDS
    return (
        _streamed(answer, first, cut=kind == "cut")
        if request.stream
        else _whole(answer, first, cut=kind == "cut")
    )


class _Answer:
    def __init__(self, request: _Request, tokens: list[str], finish: str, tool: str | None) -> None:
        self.model = request.model
        self.tokens = tokens
        self.tool = tool
        self.finish = "tool_calls" if tool else finish
        self.include_usage = request.stream_options is not None and bool(request.stream_options.include_usage)
        self.id = "chatcmpl-demo-" + hashlib.sha256(repr((request.model, tokens)).encode()).hexdigest()[:16]
        prompt = sum(len(_text(message.content).split()) + 3 for message in request.messages)
        completion = 8 if tool else len(tokens)
        self.usage = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }

    def head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": _CREATED, "model": self.model}

    def tool_call(self) -> dict[str, Any]:
        return {
            "id": f"call_{self.id[-12:]}",
            "type": "function",
            "function": {"name": self.tool, "arguments": '{"query":"demo"}'},
        }


def _whole(answer: _Answer, first: float, *, cut: bool) -> Script:
    message: dict[str, Any] = {"role": "assistant", "content": "".join(answer.tokens), "refusal": None}
    if answer.tool:
        message |= {"content": None, "tool_calls": [answer.tool_call()]}
    body = msgspec.json.encode(
        answer.head("chat.completion")
        | {
            "choices": [{"index": 0, "message": message, "finish_reason": answer.finish, "logprobs": None}],
            "usage": answer.usage,
        }
    )
    if cut:
        return Script(200, "application/json", [Step(first, body[: len(body) // 2]), Step(0.0, None)])
    return Script(200, "application/json", [Step(first, body)])


def _streamed(answer: _Answer, first: float, *, cut: bool) -> Script:
    chunks = [_event(answer, [_choice(delta, None)]) for delta in _deltas(answer)]
    steps = [Step(first if n == 0 else TOKEN_SECONDS, chunk) for n, chunk in enumerate(chunks)]
    if cut:
        return Script(200, "text/event-stream", [*steps[: len(steps) // 2 + 1], Step(0.0, None)])
    steps.append(Step(TOKEN_SECONDS, _event(answer, [_choice({}, answer.finish)])))
    if answer.include_usage:
        steps.append(Step(0.0, _event(answer, [], answer.usage)))
    steps.append(Step(0.0, b"data: [DONE]\n\n"))
    return Script(200, "text/event-stream", steps)


def _deltas(answer: _Answer) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": None if answer.tool else ""}
    if answer.tool:
        yield {"tool_calls": [{"index": 0, **answer.tool_call()}]}
        return
    for token in answer.tokens:
        yield {"content": token}


def _choice(delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}


def _event(answer: _Answer, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
    chunk = answer.head("chat.completion.chunk") | {"choices": choices}
    if answer.include_usage:
        chunk["usage"] = usage
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


def _tokens(request: _Request, kind: str) -> Iterator[str]:
    said = _text(request.messages[-1].content) if request.messages else ""
    if kind == "echo":
        yield from (word if n == 0 else f" {word}" for n, word in enumerate(said.split() or ["(nothing)"]))
        return
    start = hashlib.sha256(said.encode("utf-8", "surrogatepass")).digest()[0]
    for n in range(DEFAULT_TOKENS):
        word = _WORDS[(start + n * 7) % len(_WORDS)]
        yield word.capitalize() if n == 0 else f" {word}"


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return " ".join(str(part["text"]) for part in parts if isinstance(part, dict) and "text" in part)


def _tool(request: _Request) -> str | None:
    """The tool to call: the one named by tool_choice, or the first when a call is required."""
    names = [tool.function.name for tool in request.tools or () if tool.function is not None]
    if isinstance(request.tool_choice, dict):
        named = request.tool_choice.get("function")
        name = named.get("name") if isinstance(named, dict) else None
        return name if name in names else None
    return names[0] if names and request.tool_choice == "required" else None


def _failure(status: int) -> Script:
    body = msgspec.json.encode(
        {
            "error": {
                "message": f"The demo server answers {status} because it was asked to.",
                "type": "rate_limit_error"
                if status == 429
                else "server_error"
                if status >= 500
                else "invalid_request_error",
                "param": None,
                "code": f"demo_{status}",
            }
        }
    )
    headers = ((b"retry-after", b"1"),) if status == 429 else ()
    return Script(status, "application/json", [Step(0.0, body)], headers)


def model_list() -> bytes:
    rows = [{"id": name, "object": "model", "created": _CREATED, "owned_by": "demo"} for name in MODELS]
    return msgspec.json.encode({"object": "list", "data": rows})


class CutOff(Exception):
    """Raised by the application to break its connection off, as a script demands."""


Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """ASGI: POST …/chat/completions and GET …/models."""
    if scope["type"] != "http":
        return
    if scope["path"].endswith("/models"):
        played = Script(200, "application/json", [Step(0.0, model_list())])
    else:
        played = script(await _read(receive))
    content_type = (b"content-type", played.content_type.encode())
    await send(
        {"type": "http.response.start", "status": played.status, "headers": [content_type, *played.headers]}
    )
    for step in played.steps:
        await trio.sleep(step.delay)
        if step.data is None:
            raise CutOff
        await send({"type": "http.response.body", "body": step.data, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)
