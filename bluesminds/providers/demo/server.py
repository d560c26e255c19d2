"""The endpoints and models of the demo server, and the ASGI application that plays scripts."""

from collections.abc import Awaitable, Callable
from urllib.parse import parse_qsl

import msgspec
from msgspec import Struct

from bluesminds.http.asgi import ASGIApp, Receive, Scope, Send
from bluesminds.http.server.websocket import WebSocketUpgrade
from bluesminds.http.websocket import WebSocketClosed, WebSocketLimits, WebSocketViolation
from bluesminds.providers.demo.chat import chat
from bluesminds.providers.demo.completions import completions
from bluesminds.providers.demo.moderations import moderations
from bluesminds.providers.demo.realtime import DemoSession
from bluesminds.providers.demo.script import (
    CREATED,
    TOKEN_SECONDS,
    DemoError,
    Script,
    Step,
    error_response,
    read,
    response,
)
from bluesminds.providers.demo.vectors import embeddings, rerank

SLOW_SECONDS = 3.0
_ENDPOINTS = {
    "/chat/completions": chat,
    "/completions": completions,
    "/embeddings": embeddings,
    "/moderations": moderations,
    "/rerank": rerank,
}
_TEXT = ("/chat/completions", "/completions")
_ALL = tuple(_ENDPOINTS)
_REALTIME = "/realtime"
_SOCKET = WebSocketLimits()
MODELS = {  # the endpoints that each model serves
    "demo/echo": _TEXT,
    "demo/text": _TEXT,
    "demo/reasoning": ("/chat/completions",),
    "demo/refusal": ("/chat/completions",),
    "demo/embedding": ("/embeddings",),
    "demo/moderation": ("/moderations",),
    "demo/rerank": ("/rerank",),
    "demo/realtime": (_REALTIME,),
    "demo/slow": _ALL,
    "demo/cut": _ALL,
    "demo/400": _ALL,
    "demo/429": _ALL,
    "demo/500": _ALL,
    "demo/503": _ALL,
}


class CutOff(Exception):
    """Raised by the application to close its connection, when a script says so."""


class _ModelField(Struct):
    model: str = ""


def respond(method: str, path: str, body: bytes) -> Script:
    """What to respond. Paths begin with /v1."""
    try:
        return _respond(method, path.removeprefix("/v1"), body)
    except DemoError as error:
        return error_response(error)
    except RecursionError:
        return error_response(DemoError("The body is nested too deeply."))


def _respond(method: str, path: str, body: bytes) -> Script:
    if method == "GET" and path == "/models":
        return response({"object": "list", "data": [_model(name) for name in MODELS]})
    if method == "GET" and path.startswith("/models/"):
        name = path.removeprefix("/models/")
        if name not in MODELS:
            raise _unknown_model(name)
        return response(_model(name))
    endpoint = _ENDPOINTS.get(path) if method == "POST" else None
    if endpoint is None:
        raise DemoError(f"The demo server has no endpoint {method} {path}.", status=404, code="not_found")
    model = read(body, _ModelField).model
    kind = model.removeprefix("demo/")
    _check_model(model, path)
    script = endpoint(body)
    return _delayed(script) if kind == "slow" else _cut(script) if kind == "cut" else script


def _check_model(model: str, path: str) -> None:
    """Raises DemoError for a model that fails, is unknown, or does not serve this endpoint."""
    kind = model.removeprefix("demo/")
    if kind.isdecimal() and 400 <= int(kind) <= 599:
        raise DemoError(f"{model} always fails with status {kind}.", status=int(kind), code=f"demo_{kind}")
    if model and model not in MODELS:
        raise _unknown_model(model)
    if model and path not in MODELS[model]:
        others = ", ".join(name for name, paths in MODELS.items() if path in paths and paths != _ALL)
        raise DemoError(
            f"{model} does not serve {path}. Models for it: {others}.", "model", code="unsupported_model"
        )


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "demo"}


def _unknown_model(name: str) -> DemoError:
    message = f"The demo server has no model {name}. Its models are {', '.join(MODELS)}."
    return DemoError(message, "model", status=404, code="model_not_found")


def _delayed(script: Script) -> Script:
    first, *rest = script.steps
    return msgspec.structs.replace(script, steps=(Step(SLOW_SECONDS, first.data), *rest))


def _cut(script: Script) -> Script:
    """Half of the events or, if there is only one piece, half of its bytes."""
    half = script.steps[: len(script.steps) // 2]
    if not half:
        (whole,) = script.steps
        half = (Step(whole.delay, (whole.data or b"")[: len(whole.data or b"") // 2]),)
    return msgspec.structs.replace(script, steps=(*half, Step(0.0, None)))


def demo_app(sleep: Callable[[float], Awaitable[object]]) -> ASGIApp:
    """The ASGI application. It raises CutOff to break its connection."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        upgrade = scope["extensions"].get("websocket")
        if upgrade is not None and scope["path"] == f"/v1{_REALTIME}":
            model = dict(parse_qsl(scope["query_string"].decode())).get("model", "")
            try:
                _check_model(model or "none", _REALTIME)
            except DemoError as error:
                script = error_response(error)
            else:
                await _talk(upgrade, model, sleep)
                return
        else:
            script = respond(scope["method"], scope["path"], await _read_body(receive))
        headers = [(b"content-type", script.content_type.encode()), *script.headers]
        await send({"type": "http.response.start", "status": script.status, "headers": headers})
        for step in script.steps:
            await sleep(step.delay)
            if step.data is None:
                raise CutOff
            await send({"type": "http.response.body", "body": step.data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


async def _talk(upgrade: WebSocketUpgrade, model: str, sleep: Callable[[float], Awaitable[object]]) -> None:
    """One Realtime session, until the client closes it."""
    offered = next(iter(upgrade.subprotocols), None)
    socket = await upgrade.accept(offered, (), _SOCKET, _keep)
    session = DemoSession(model)
    events = session.open()
    try:
        while True:
            for event in events:
                await sleep(TOKEN_SECONDS if event["type"].endswith(".delta") else 0.0)
                await socket.send(msgspec.json.encode(event).decode())
            message = await socket.receive()
            events = session.handle(message if isinstance(message, str) else "")
    except WebSocketViolation as exc:
        await socket.close(exc.code, exc.reason)
    except WebSocketClosed as exc:
        await socket.close(exc.code)


def _keep(size: int) -> None:
    """The memory of messages is not counted here."""


async def _read_body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)
