"""The API reference of the data plane, made from the table of operations and one schema for each wire
format.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from bluesminds.gateway.operations import OPERATIONS, Operation, api_of
from bluesminds.web.docs.openapi import JSON, OpenAPIOperation
from bluesminds.wire.base import FormatName
from bluesminds.wire.requests import Choices, StreamOptions, Tokens

EVENTS: Final = "text/event-stream"


class MessageSchema(Struct):
    """One message of a conversation. Other fields pass through."""

    role: str
    content: Any = None


class GenerationRequestSchema(Struct, kw_only=True):
    """The fields that the gateway reads. All other fields are passed to the server unchanged."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    n: Choices | None = None
    best_of: Choices | None = None


class ChatRequestSchema(GenerationRequestSchema, kw_only=True):
    messages: Annotated[
        list[MessageSchema], Meta(min_length=1, examples=[[{"role": "user", "content": "Say hello."}]])
    ]
    max_completion_tokens: Tokens | None = None


class CompletionRequestSchema(GenerationRequestSchema, kw_only=True):
    prompt: Annotated[Any, Meta(examples=["Once upon a time"])]


class MessagesRequestSchema(Struct, kw_only=True):
    """Anthropic's format. The fields that the gateway reads; others are passed to servers of the format."""

    model: str
    max_tokens: Tokens
    messages: Annotated[
        list[MessageSchema], Meta(min_length=1, examples=[[{"role": "user", "content": "Say hello."}]])
    ]
    system: Any = None
    stream: bool | None = None


class CountTokensRequestSchema(Struct, kw_only=True):
    model: str
    messages: Annotated[
        list[MessageSchema], Meta(min_length=1, examples=[[{"role": "user", "content": "Say hello."}]])
    ]
    system: Any = None


class EmbeddingRequestSchema(Struct):
    """`input` is a text, a list of texts, or lists of tokens."""

    model: Annotated[str, Meta(examples=["demo/embedding"])]
    input: Annotated[Any, Meta(examples=["A text"])]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None


class ModerationRequestSchema(Struct):
    model: Annotated[str, Meta(examples=["demo/moderation"])]
    input: Annotated[Any, Meta(examples=["A text"])]


class RerankRequestSchema(Struct):
    model: Annotated[str, Meta(examples=["demo/rerank"])]
    query: Annotated[str, Meta(examples=["fruit"])]
    documents: Annotated[list[Any], Meta(examples=[["an apple", "a car"]])]
    top_n: int | None = None


class UsageSchema(Struct):
    """Tokens, as the server counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class CompletionSchema(Struct):
    """The server's response, byte for byte."""

    choices: list[dict[str, Any]] = []
    usage: UsageSchema | None = None


class MessagesUsageSchema(Struct):
    """Tokens, as the server counted them. `input_tokens` excludes what the cache read and wrote."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class AnthropicMessageSchema(Struct):
    """The server's response: byte for byte, or translated from chat completions."""

    id: str
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    usage: MessagesUsageSchema
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"


class TokenCountSchema(Struct):
    """The header `x-bluesminds-estimated: true` marks an estimate."""

    input_tokens: int


class AnthropicErrorSchema(Struct):
    type: str
    message: str
    details: dict[str, Any] | UnsetType = UNSET


class AnthropicErrorResponse(Struct):
    """The body of every error of Anthropic's endpoints. `details.error_code` is the stable code of the
    gateway's errors.
    """

    error: AnthropicErrorSchema
    type: Literal["error"] = "error"
    request_id: str | UnsetType = UNSET


class EmbeddingsSchema(Struct):
    """The server's response, byte for byte."""

    data: list[dict[str, Any]] = []
    usage: UsageSchema | None = None


class ResultsSchema(Struct):
    """The server's response, byte for byte."""

    results: list[dict[str, Any]] = []


class UpstreamErrorSchema(Struct):
    """What went wrong. Errors of the gateway have every field; errors of a server pass as they came."""

    message: str
    type: str | None = None
    param: str | None = None
    code: str | int | None = None
    request_id: str | UnsetType = UNSET


class UpstreamErrorResponse(Struct):
    """The body of every error, the gateway's or a server's."""

    error: UpstreamErrorSchema


class ModelSchema(Struct, frozen=True):
    """A model that can be called. `created` is in seconds since the epoch, 0 if it is not known."""

    id: str
    created: int
    owned_by: str
    object: Literal["model"] = "model"


class ModelListSchema(Struct, frozen=True):
    data: list[ModelSchema]
    object: Literal["list"] = "list"


_BODIES: Final[Mapping[FormatName, tuple[type[Struct], type[Struct]]]] = {
    "chat": (ChatRequestSchema, CompletionSchema),
    "messages": (MessagesRequestSchema, AnthropicMessageSchema),
    "count_tokens": (CountTokensRequestSchema, TokenCountSchema),
    "completions": (CompletionRequestSchema, CompletionSchema),
    "embeddings": (EmbeddingRequestSchema, EmbeddingsSchema),
    "moderations": (ModerationRequestSchema, ResultsSchema),
    "rerank": (RerankRequestSchema, ResultsSchema),
}
_STREAMS: Final = """

With `"stream": true` the response is a stream of server-sent events that ends with `data: [DONE]`. If
something fails after the first event, an event with an `error` object ends the stream instead.
"""
_NAMED_STREAMS: Final = """

With `"stream": true` the response is a stream of Anthropic's named events that ends with `message_stop`. If
something fails after the first event, an event `error` ends the stream instead.
"""
_STREAM_TEXTS: Final[Mapping[FormatName, str]] = {
    "chat": _STREAMS,
    "completions": _STREAMS,
    "messages": _NAMED_STREAMS,
}
_MODELS: Final = "Models"


def _described(operation: Operation) -> OpenAPIOperation:
    request, response = _BODIES[operation.format]
    streams = _STREAM_TEXTS.get(operation.format)
    return OpenAPIOperation(
        method=operation.method,
        path=operation.path,
        tag=_MODELS,
        text=operation.summary + "." + (streams or ""),
        access=None,
        statuses=(200,),
        media={JSON: response, EVENTS: None} if streams else {JSON: response},
        body=request,
        error=AnthropicErrorResponse if api_of(operation.path) == "anthropic" else UpstreamErrorResponse,
    )


DATA_PLANE: Final = (
    # OpenAPI cannot describe a WebSocket; docs/api.md does.
    *(_described(operation) for operation in OPERATIONS if operation.handler != "realtime"),
    OpenAPIOperation(
        method="GET",
        path="/v1/models",
        tag=_MODELS,
        text="List the models that the key may use.\n\n"
        "A request with the header `anthropic-version` gets Anthropic's format.",
        access=None,
        statuses=(200,),
        media={JSON: ModelListSchema},
    ),
    OpenAPIOperation(
        method="GET",
        path="/v1/models/{id}",
        tag=_MODELS,
        text="Show one model.\n\nThe id may contain slashes.",
        access=None,
        statuses=(200,),
        media={JSON: ModelSchema},
        path_params=("id",),
    ),
)
