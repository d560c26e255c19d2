"""The endpoints and models of the demo server, and the ASGI application that plays scripts."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from urllib.parse import parse_qsl

import msgspec
from msgspec import Struct

from bluesminds.http.asgi import ASGIApp, Receive, Scope, Send
from bluesminds.http.server.websocket import WebSocketUpgrade
from bluesminds.http.websocket import WebSocketClosed, WebSocketLimits, WebSocketViolation
from bluesminds.providers.demo.audio import speech
from bluesminds.providers.demo.chat import chat
from bluesminds.providers.demo.completions import completions
from bluesminds.providers.demo.forms import UploadedForm, receive_form
from bluesminds.providers.demo.gemini import count_tokens, embed_content, gemini_error, generate_content
from bluesminds.providers.demo.images import edits, edits_of_form, generations, variations
from bluesminds.providers.demo.moderations import moderations
from bluesminds.providers.demo.objects import MAX_UPLOAD, DemoObjects, has_objects
from bluesminds.providers.demo.realtime import DemoSession
from bluesminds.providers.demo.responses import input_tokens, responses
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
from bluesminds.providers.demo.transcripts import transcriptions, translations
from bluesminds.providers.demo.vectors import embeddings, rerank
from bluesminds.wire.base import FormatName
from bluesminds.wire.models import ModelRow, write_gemini_model, write_gemini_models
from bluesminds.wire.multipart import is_form

SLOW_SECONDS = 3.0
_ENDPOINTS = {
    "/chat/completions": chat,
    "/responses": responses,
    "/responses/input_tokens": input_tokens,
    "/completions": completions,
    "/embeddings": embeddings,
    "/moderations": moderations,
    "/rerank": rerank,
    "/images/generations": generations,
    "/images/edits": edits,
    "/audio/speech": speech,
}
_FORM_ENDPOINTS = {
    "/images/edits": edits_of_form,
    "/images/variations": variations,
    "/audio/transcriptions": transcriptions,
    "/audio/translations": translations,
}
_GEMINI = "/v1beta"
_EMBEDDING_CALLS: Mapping[str, FormatName] = {
    "embedContent": "gemini_embed",
    "batchEmbedContents": "gemini_batch_embed",
}
_CHAT = ("/chat/completions", "/responses", "/responses/input_tokens")
_TEXT = (*_CHAT, "/completions")
_ALL = tuple(dict.fromkeys((*_ENDPOINTS, *_FORM_ENDPOINTS)))
_REALTIME = "/realtime"
_SOCKET = WebSocketLimits()
MODELS = {  # the endpoints that each model serves
    "demo/echo": _TEXT,
    "demo/text": _TEXT,
    "demo/reasoning": _CHAT,
    "demo/refusal": _CHAT,
    "demo/embedding": ("/embeddings",),
    "demo/moderation": ("/moderations",),
    "demo/rerank": ("/rerank",),
    "demo/image": ("/images/generations", "/images/edits", "/images/variations"),
    "demo/speech": ("/audio/speech",),
    "demo/transcription": ("/audio/transcriptions", "/audio/translations"),
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


def respond(method: str, path: str, body: bytes | UploadedForm) -> Script:
    """What to respond. Paths begin with /v1 or, for Gemini's API, with /v1beta."""
    google = path.startswith(_GEMINI)
    write_error = gemini_error if google else error_response
    try:
        if google:
            return _respond_to_google(method, path.removeprefix(_GEMINI), _as_json(body))
        return _respond(method, path.removeprefix("/v1"), body)
    except DemoError as error:
        return write_error(error)
    except RecursionError:
        return write_error(DemoError("The body is nested too deeply."))


def _respond_to_google(method: str, path: str, body: bytes) -> Script:
    rows = {
        name: ModelRow(name, embeds="/chat/completions" not in paths)
        for name, paths in MODELS.items()
        if "/chat/completions" in paths or "/embeddings" in paths
    }
    name, _, call = path.removeprefix("/models/").rpartition(":")
    if method == "GET" and path == "/models":
        return _json(write_gemini_models(rows.values()))
    if method == "GET" and path.startswith("/models/"):
        name = path.removeprefix("/models/")
        if name not in rows:
            raise _unknown_model(name)
        return _json(write_gemini_model(rows[name]))
    if method != "POST" or not path.startswith("/models/"):
        raise _unknown_endpoint(method, path)
    if call == "countTokens":
        return _play(name, "/chat/completions", lambda: count_tokens(name, body))
    if (format_ := _EMBEDDING_CALLS.get(call)) is not None:
        return _play(name, "/embeddings", lambda: embed_content(name, body, format_))
    if call not in ("generateContent", "streamGenerateContent"):
        raise _unknown_endpoint(method, path)
    stream = call == "streamGenerateContent"
    return _play(name, "/chat/completions", lambda: generate_content(name, body, stream=stream))


def _json(content: bytes) -> Script:
    return Script(200, "application/json", (Step(0.0, content),))


def _respond(method: str, path: str, body: bytes | UploadedForm) -> Script:
    if method == "GET" and path == "/models":
        return response({"object": "list", "data": [_model(name) for name in MODELS]})
    if method == "GET" and path.startswith("/models/"):
        name = path.removeprefix("/models/")
        if name not in MODELS:
            raise _unknown_model(name)
        return response(_model(name))
    if method != "POST" or path not in _ALL:
        raise _unknown_endpoint(method, path)
    model = (body.read if isinstance(body, UploadedForm) else partial(read, body))(_ModelField).model
    return _play(model, path, lambda: _answer(path, body))


def _play(model: str, path: str, make: Callable[[], Script]) -> Script:
    """The script that `make` writes for a model, with the faults of the model."""
    _check_model(model, path)
    kind = model.removeprefix("demo/")
    script = make()
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


def _answer(path: str, body: bytes | UploadedForm) -> Script:
    if isinstance(body, UploadedForm):
        if (of_form := _FORM_ENDPOINTS.get(path)) is not None:
            return of_form(body)
        body = _as_json(body)
    if (of_json := _ENDPOINTS.get(path)) is not None:
        return of_json(body)
    raise DemoError("Send a form (multipart/form-data).", status=415)


def _as_json(body: bytes | UploadedForm) -> bytes:
    if isinstance(body, UploadedForm):
        raise DemoError("Send JSON, not a form.", status=415)
    return body


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "demo"}


def _unknown_endpoint(method: str, path: str) -> DemoError:
    return DemoError(f"The demo server has no endpoint {method} {path}.", status=404, code="not_found")


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
    objects = DemoObjects(respond)

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
            script = await _script(objects, scope, receive)
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


async def _script(objects: DemoObjects, scope: Scope, receive: Receive) -> Script:
    content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    try:
        if has_objects(scope["path"]):
            body = await _read_body(receive, MAX_UPLOAD if is_form(content_type) else None)
            found = objects.respond(scope["method"], scope["path"], content_type, body)
            return respond(scope["method"], scope["path"], body) if found is None else found
        if not is_form(content_type):
            return respond(scope["method"], scope["path"], await _read_body(receive))
        return respond(scope["method"], scope["path"], await receive_form(content_type, receive))
    except DemoError as error:
        return error_response(error)


async def _read_body(receive: Receive, limit: int | None = None) -> bytes:
    """Raises DemoError for more than `limit` bytes."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if limit is not None and len(body) > limit:
            raise DemoError("The file is too large for the demo server.", "file", status=413)
        if not message.get("more_body", False):
            return bytes(body)
