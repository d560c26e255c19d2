"""Gemini's endpoints of the demo server. The answers are those of its OpenAI endpoints, converted."""

from typing import Any, Final

import msgspec
from msgspec import Raw, structs

from bluesminds.common.errors import InvalidRequest
from bluesminds.providers.demo.chat import chat
from bluesminds.providers.demo.script import DemoError, Script, Step, error_response, response
from bluesminds.providers.demo.vectors import embeddings
from bluesminds.wire.base import FormatName, RequestFacts
from bluesminds.wire.chat_codec import CHAT_CODEC
from bluesminds.wire.conversation import ConversationRequest, EncodingOptions
from bluesminds.wire.errors import ErrorDetail
from bluesminds.wire.formats import client_vectors_of, vectors_of
from bluesminds.wire.gemini_codec import GEMINI_CODEC
from bluesminds.wire.gemini_errors import write_gemini_error
from bluesminds.wire.json_text import write_fields
from bluesminds.wire.requests import read_body
from bluesminds.wire.translation import Translation

_WHOLE: Final = "generateContentRequest"  # a request whose tokens are counted


def generate_content(model: str, body: bytes, *, stream: bool) -> Script:
    """Raises DemoError."""
    request = _read(model, body, stream=stream)
    script = _chat(request)
    if not stream:
        return response(_reply(request, script))
    stage = Translation(CHAT_CODEC, GEMINI_CODEC, request, RequestFacts(model, stream=True))
    events = [Step(step.delay, data) for step in script.steps if (data := stage.feed(step.data or b""))]
    return structs.replace(script, steps=(*events, Step(0.0, stage.finish())))


def count_tokens(model: str, body: bytes) -> Script:
    """Raises DemoError."""
    try:
        fields = read_body(body)
    except InvalidRequest as exc:
        raise DemoError(exc.message, exc.param) from exc
    request = _read(model, bytes(fields.get(_WHOLE, b"")) or body, stream=False)
    usage = _reply(request, _chat(request))["usageMetadata"]
    return response({"totalTokens": usage["promptTokenCount"]})


def embed_content(model: str, body: bytes, format_: FormatName) -> Script:
    """Raises DemoError."""
    codec, openai = client_vectors_of(format_), vectors_of("embeddings")
    try:
        request = codec.decode_request(read_body(body) | {"model": Raw(msgspec.json.encode(model))})
    except InvalidRequest as exc:
        raise DemoError(exc.message, exc.param) from exc
    (whole,) = embeddings(write_fields(openai.encode_request(request, model).fields)).steps
    reply = openai.decode_reply(whole.data or b"")
    return response(msgspec.json.decode(codec.encode_reply(reply, request)))


def gemini_error(error: DemoError) -> Script:
    """Google's error object."""
    script = error_response(error)
    detail = ErrorDetail(str(error), param=error.param, code=error.code, status=error.status)
    return structs.replace(script, steps=(Step(0.0, write_gemini_error(detail)),))


def _read(model: str, body: bytes, *, stream: bool) -> ConversationRequest:
    said = {"model": Raw(msgspec.json.encode(model)), "stream": Raw(b"true" if stream else b"false")}
    try:
        return GEMINI_CODEC.decode_request(read_body(body) | said, 0)
    except InvalidRequest as exc:
        raise DemoError(exc.message, exc.param) from exc


def _chat(request: ConversationRequest) -> Script:
    try:
        encoded = CHAT_CODEC.encode_request(request, EncodingOptions(model=request.model))
    except InvalidRequest as exc:
        raise DemoError(exc.message, exc.param) from exc
    return chat(write_fields(encoded.fields))


def _reply(request: ConversationRequest, script: Script) -> dict[str, Any]:
    (whole,) = script.steps
    reply = CHAT_CODEC.decode_reply(whole.data or b"", request)
    return dict(msgspec.json.decode(GEMINI_CODEC.encode_reply(reply, request)))
