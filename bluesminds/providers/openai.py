"""OpenAI's chat dialect as the client speaks it and as servers answer it.

Formats: OpenAI API reference, chat completions and streaming; the fields follow the types of the openai
Python SDK. Only the fields the gateway acts on are decoded; everything else stays the sender's bytes. A
request's top-level object is written anew, so that it means the same to every reader; its values keep their
bytes (msgspec.Raw).
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from bluesminds.common.values import Usage
from bluesminds.providers.usage import Implausible, read_usage

# What decoding raises for bytes that are not the JSON wanted; invalid UTF-8 is not a DecodeError.
NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class StreamOptions(Struct):
    include_usage: bool | None = None


MAX_COMPLETION = 10_000_000  # tokens; who asks for more means something else
_Tokens = Annotated[int, Meta(ge=1, le=MAX_COMPLETION)]
_Choices = Annotated[int, Meta(ge=1, le=128)]


class ChatRequest(Struct):
    """POST /v1/chat/completions, as far as the gateway needs it: whatever decides what it may cost is read
    strictly.
    """

    model: str
    messages: Raw
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: _Tokens | None = None
    max_completion_tokens: _Tokens | None = None
    n: _Choices | None = None
    best_of: _Choices | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None

    @property
    def max_completion(self) -> int | None:
        """The most tokens of one choice; None when the client leaves it to the model."""
        if self.max_tokens is None or self.max_completion_tokens is None:
            return self.max_tokens or self.max_completion_tokens
        return max(self.max_tokens, self.max_completion_tokens)

    @property
    def choices(self) -> int:
        return max(self.n or 1, self.best_of or 1)


_chat_request = msgspec.json.Decoder(ChatRequest)
_object = msgspec.json.Decoder(dict[str, Raw])
_NAMES = frozenset(ChatRequest.__struct_fields__)
_FORCED = Raw(b'{"include_usage":true}')


def read_chat_request(body: bytes) -> ChatRequest:
    """Raises msgspec.ValidationError (a field is wrong), else one of NOT_JSON."""
    if not body.isascii():
        body.decode()  # what is not read is not decoded, and must be text all the same
    return _chat_request.decode(body)


def unambiguous(body: bytes) -> bytes:
    """The body with every top-level key once, the last one, which is the one that was read; every value keeps
    its bytes. Raises msgspec.ValidationError for a key that some servers read as another.

    Readers differ on which of two `model` or `max_tokens` keys counts, and on whether `MODEL` is one. Writing
    the body anew costs less than looking for repeated keys.
    """
    return msgspec.json.encode(_fields(body))


def _fields(body: bytes) -> dict[str, Raw]:
    """The request's top-level fields. Raises msgspec.ValidationError for a name that differs from one the
    gateway reads in the case of its letters alone.
    """
    fields = _object.decode(body)
    for name in fields:
        if name not in _NAMES and (meant := name.casefold()) in _NAMES:
            raise msgspec.ValidationError(f"Field with another spelling - at `$.{meant}`")
    return fields


def with_forced_usage(body: bytes) -> bytes:
    """The streaming request with `stream_options.include_usage` set; other stream options survive. Raises as
    `unambiguous` does.
    """
    fields = _fields(body)
    options = fields.get("stream_options")
    if options is None or bytes(options) == b"null":
        fields["stream_options"] = _FORCED
    else:
        merge_servers = _object.decode(options)
        merge_servers["include_usage"] = Raw(b"true")
        fields["stream_options"] = Raw(msgspec.json.encode(merge_servers))
    return msgspec.json.encode(fields)


_CHUNK = b'"chat.completion.chunk"'
_ABSENT = Raw()  # msgspec does not take Raw in a union with None


class _Answer(Struct):
    object: Raw = _ABSENT
    usage: Raw = _ABSENT
    error: Raw = _ABSENT
    choices: list[Raw] | None = None


_answer = msgspec.json.Decoder(_Answer)


class Reading(Struct, frozen=True):
    """What one answer or one stream chunk says about itself."""

    usage: Usage | None = None
    failed: bool = False  # it carries an error object
    choices: int = 0
    readable: bool = True  # it is a JSON object
    implausible: bool = False  # it reports a usage that cannot be true
    chunk: Literal["usage", "mixed"] | None = None  # a chat chunk with a `usage`, alone or beside others


_UNREADABLE = Reading(readable=False)


def read_answer(body: bytes) -> Reading:
    """Read a whole answer or one chunk's data; an unreadable one reads as having no usage."""
    try:
        answer = _decode_answer(body)
    except NOT_JSON:
        return _UNREADABLE
    usage, implausible = None, False
    if _is_set(answer.usage):
        try:
            usage = read_usage(answer.usage)
        except Implausible:
            implausible = True
    return Reading(
        usage=usage,
        failed=_is_set(answer.error),
        choices=len(answer.choices or ()),
        implausible=implausible,
        chunk=_kind_of_chunk(answer),
    )


def _kind_of_chunk(answer: _Answer) -> Literal["usage", "mixed"] | None:
    if not bytes(answer.usage) or (answer.choices is None and bytes(answer.object) != _CHUNK):
        return None
    return "usage" if answer.choices == [] and _is_set(answer.usage) else "mixed"


def announces_usage(data: bytes) -> bool:
    """Whether a stream's event is a chat chunk whose `usage` is null."""
    try:
        answer = _answer.decode(data)
    except NOT_JSON:
        return False
    return bytes(answer.usage) == b"null" and _kind_of_chunk(answer) is not None


def _decode_answer(body: bytes) -> _Answer:
    """An object whose `choices` are no list reads as having none."""
    try:
        return _answer.decode(body)
    except msgspec.ValidationError:
        fields = _object.decode(body)
    return _Answer(usage=fields.get("usage", _ABSENT), error=fields.get("error", _ABSENT))


def without_usage(chunk: bytes) -> bytes:
    """The chunk's JSON without its top-level `usage`."""
    fields = _object.decode(chunk)
    fields.pop("usage", None)
    return msgspec.json.encode(fields)


def _is_set(raw: Raw) -> bool:
    return bytes(raw) not in (b"", b"null", b"false", b'""', b"{}")


class ModelRow(Struct):
    id: str
    created: int | None = None
    owned_by: str | None = None


class _ModelList(Struct):
    data: list[ModelRow]


_models = msgspec.json.Decoder(_ModelList | list[ModelRow])


def read_models(body: bytes) -> list[ModelRow]:
    """GET /models, as an object with `data` or (Together) as a bare list.

    Raises ValueError when it is neither."""
    try:
        answer = _models.decode(body)
    except NOT_JSON as exc:
        raise ValueError("the server's list of models is not in OpenAI's format") from exc
    return answer.data if isinstance(answer, _ModelList) else answer


class ErrorDetail(Struct):
    """OpenAI's error object."""

    message: str | None = None
    type: str | None = None
    param: str | None = None
    code: str | int | None = None

    def blames_request(self) -> bool:
        """Whether it says that the request was wrong, not the server."""
        return self.type == "invalid_request_error" or (isinstance(self.code, int) and 400 <= self.code < 500)


_detail = msgspec.json.Decoder(ErrorDetail)
_text = msgspec.json.Decoder(str)


def read_error(status: int, body: bytes) -> ErrorDetail:
    """A server's error in any of the shapes seen: {error:{…}}, {error:"text"}, {message}, {detail}, HTML or
    nothing.
    """
    try:
        fields = _object.decode(body)
    except NOT_JSON:
        return ErrorDetail(message=f"The server answered {status} without a readable reason.")
    for name in ("error", "message", "detail"):
        if name in fields:
            return _error_detail(fields[name], status)
    return ErrorDetail(message=f"The server answered {status}.")


def _error_detail(raw: Raw, status: int) -> ErrorDetail:
    try:
        return _detail.decode(raw)
    except NOT_JSON:
        pass
    try:
        return ErrorDetail(message=_text.decode(raw))
    except NOT_JSON:
        return ErrorDetail(
            message=f"The server answered {status}: {bytes(raw)[:500].decode(errors='replace')}"
        )


def has_error_object(body: bytes) -> bool:
    """Whether body is already {"error": {…"message"…}}, so that it can pass unchanged."""
    try:
        error = _object.decode(body).get("error")
        return error is not None and "message" in _object.decode(error)
    except NOT_JSON:
        return False
