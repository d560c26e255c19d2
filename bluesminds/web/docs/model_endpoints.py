"""The API reference of the data plane, made from the table of operations and one schema for each wire
format.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from bluesminds.gateway.operations import GEMINI_MODELS, OPERATIONS, ApiName, Operation, api_of
from bluesminds.web.docs.openapi import JSON, OpenAPIOperation
from bluesminds.wire.base import FormatName
from bluesminds.wire.models import ModelRow, write_model
from bluesminds.wire.requests import Choices, StreamOptions, Tokens, UsageOptions

EVENTS: Final = "text/event-stream"


def _file(example: str) -> Meta:
    """The contents of a file, in a form."""
    return Meta(examples=[example], extra_json_schema={"contentMediaType": "application/octet-stream"})


class MessageSchema(Struct):
    """One message of a conversation. Other fields are forwarded."""

    role: str
    content: Any = None


class GenerationRequestSchema(Struct, kw_only=True):
    """The fields that the gateway reads. All other fields are forwarded unchanged."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    usage: UsageOptions | None = None
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
    """The fields that the gateway reads. All other fields are forwarded to servers with this format."""

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


class ResponsesRequestSchema(Struct, kw_only=True):
    """The fields that the gateway reads. All other fields are forwarded to servers with this format."""

    model: str
    input: Annotated[Any, Meta(examples=["Say hello."])] = None
    instructions: str | None = None
    max_output_tokens: Tokens | None = None
    stream: bool | None = None
    background: Literal[False] | None = None


class InputTokensRequestSchema(Struct, kw_only=True):
    model: str
    input: Annotated[Any, Meta(examples=["Say hello."])] = None
    instructions: str | None = None


class CompactRequestSchema(Struct, kw_only=True):
    """All other fields are forwarded to servers with this endpoint."""

    model: str
    input: Annotated[Any, Meta(examples=["Say hello."])] = None
    instructions: str | None = None
    previous_response_id: str | None = None


class GeminiConfigSchema(Struct, kw_only=True, rename="camel"):
    """Other fields are forwarded."""

    max_output_tokens: Tokens | None = None
    candidate_count: Choices | None = None


class GeminiRequestSchema(Struct, kw_only=True, rename="camel"):
    """The fields that the gateway reads, in camel case or in snake case. All other fields are forwarded to
    servers with this format.
    """

    contents: Annotated[
        list[dict[str, Any]], Meta(min_length=1, examples=[[{"parts": [{"text": "Say hello."}]}]])
    ]
    system_instruction: Any = None
    generation_config: GeminiConfigSchema | None = None


class GeminiCountRequestSchema(Struct, kw_only=True, rename="camel"):
    """`contents`, or a whole request in `generateContentRequest`."""

    contents: Annotated[
        list[dict[str, Any]] | None, Meta(examples=[[{"parts": [{"text": "Say hello."}]}]])
    ] = None
    generate_content_request: dict[str, Any] | None = None


class GeminiEmbedRequestSchema(Struct, kw_only=True, rename="camel"):
    """All other fields are forwarded to servers with this format."""

    content: Annotated[dict[str, Any], Meta(examples=[{"parts": [{"text": "A text"}]}])]
    task_type: str | None = None
    output_dimensionality: int | None = None


class GeminiBatchEmbedRequestSchema(Struct):
    """Requests as of `embedContent`, each with the same model as in the path."""

    requests: Annotated[
        list[dict[str, Any]], Meta(min_length=1, examples=[[{"content": {"parts": [{"text": "A text"}]}}]])
    ]


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


class ImageRequestSchema(Struct, kw_only=True):
    """The fields that the gateway reads, and the most common others. All fields are forwarded."""

    model: Annotated[str, Meta(examples=["demo/image"])]
    prompt: Annotated[str, Meta(examples=["A lighthouse at night"])]
    n: Choices | None = None
    size: str | None = None
    quality: str | None = None
    output_format: str | None = None
    response_format: Literal["url", "b64_json"] | None = None
    stream: bool | None = None
    partial_images: int | None = None


class ImageEditRequestSchema(Struct, kw_only=True):
    """The fields that the gateway reads, and the most common others. All fields are forwarded."""

    model: Annotated[str, Meta(examples=["demo/image"])]
    prompt: Annotated[str, Meta(examples=["Add a moon"])]
    images: Annotated[list[dict[str, Any]], Meta(examples=[[{"image_url": "https://example.com/a.png"}]])]
    n: Choices | None = None
    size: str | None = None
    stream: bool | None = None


class ImageEditFormSchema(Struct, kw_only=True):
    """All fields are forwarded. Several images are several parts named `image[]`."""

    model: Annotated[str, Meta(examples=["demo/image"])]
    image: Annotated[str, _file("@lighthouse.png")]
    prompt: Annotated[str, Meta(examples=["Add a moon"])]
    mask: Annotated[str | None, _file("@mask.png")] = None
    n: Choices | None = None
    size: str | None = None
    stream: bool | None = None


class ImageVariationFormSchema(Struct, kw_only=True):
    """All fields are forwarded."""

    model: Annotated[str, Meta(examples=["demo/image"])]
    image: Annotated[str, _file("@lighthouse.png")]
    n: Choices | None = None
    size: str | None = None
    response_format: Literal["url", "b64_json"] | None = None


class TranscriptionFormSchema(Struct, kw_only=True):
    """All fields are forwarded."""

    model: Annotated[str, Meta(examples=["demo/transcription"])]
    file: Annotated[str, _file("@speech.wav")]
    language: str | None = None
    prompt: str | None = None
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"] | None = None
    temperature: float | None = None
    stream: bool | None = None


class AudioTranslationFormSchema(Struct, kw_only=True):
    """All fields are forwarded."""

    model: Annotated[str, Meta(examples=["demo/transcription"])]
    file: Annotated[str, _file("@speech.wav")]
    prompt: str | None = None
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] | None = None
    temperature: float | None = None


class SpeechRequestSchema(Struct, kw_only=True):
    """The fields that the gateway reads, and the most common others. All fields are forwarded."""

    model: Annotated[str, Meta(examples=["demo/speech"])]
    input: Annotated[str, Meta(examples=["Hello!"])]
    voice: Annotated[Any, Meta(examples=["alloy"])]
    instructions: str | None = None
    response_format: Annotated[str | None, Meta(examples=["wav"])] = None
    speed: float | None = None
    stream_format: Literal["audio", "sse"] | None = None


class UsageSchema(Struct):
    """Tokens, as the server counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class CompletionSchema(Struct):
    """The server's response: byte for byte, or translated."""

    choices: list[dict[str, Any]] = []
    usage: UsageSchema | None = None


class MessagesUsageSchema(Struct):
    """Tokens, as the server counted them. `input_tokens` excludes tokens that were read from or written to a
    cache.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class AnthropicMessageSchema(Struct):
    """The server's response: byte for byte, or translated."""

    id: str
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    usage: MessagesUsageSchema
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"


class ResponsesUsageSchema(Struct):
    """Tokens, as the server counted them."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0


class ResponseObjectSchema(Struct):
    """The server's response: byte for byte, or translated."""

    id: str
    model: str
    output: list[dict[str, Any]]
    status: str
    usage: ResponsesUsageSchema | None = None
    object: Literal["response"] = "response"


class InputTokensSchema(Struct):
    """The header `x-bluesminds-estimated: true` marks an estimate."""

    input_tokens: int
    object: Literal["response.input_tokens"] = "response.input_tokens"


class CompactedResponseSchema(Struct):
    """`output` takes the place of the conversation in later requests."""

    id: str
    created_at: int
    output: list[dict[str, Any]]
    usage: ResponsesUsageSchema
    object: Literal["response.compaction"] = "response.compaction"


class DeletedResponseSchema(Struct):
    id: str
    deleted: Literal[True] = True
    object: Literal["response.deleted"] = "response.deleted"


class InputItemsQuery(Struct):
    """`order`: asc or desc, the default."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None


class StoredResponseQuery(Struct):
    """With `stream` the response is sent as events, after the one with the number `starting_after`."""

    stream: bool | None = None
    starting_after: int | None = None


class InputItemListSchema(Struct):
    """`first_id` and `last_id` are null for an empty page."""

    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


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


class GeminiUsageSchema(Struct, rename="camel"):
    """Tokens, as the server counted them. `candidatesTokenCount` excludes the thoughts."""

    prompt_token_count: int = 0
    candidates_token_count: int = 0
    total_token_count: int = 0
    thoughts_token_count: int | None = None
    cached_content_token_count: int | None = None


class GeminiResponseSchema(Struct, rename="camel"):
    """The server's response: byte for byte, or translated from another format."""

    candidates: list[dict[str, Any]] = []
    usage_metadata: GeminiUsageSchema | None = None
    model_version: str | None = None
    response_id: str | None = None


class GeminiTokenCountSchema(Struct, rename="camel"):
    """The header `x-bluesminds-estimated: true` marks an estimate."""

    total_tokens: int


class GeminiVectorSchema(Struct):
    values: list[float]


class GeminiEmbeddingSchema(Struct, rename="camel"):
    """The server's response: byte for byte, or translated from another format."""

    embedding: GeminiVectorSchema
    usage_metadata: GeminiUsageSchema | None = None


class GeminiEmbeddingsSchema(Struct, rename="camel"):
    """The server's response: byte for byte, or translated from another format."""

    embeddings: list[GeminiVectorSchema]
    usage_metadata: GeminiUsageSchema | None = None


class GoogleErrorSchema(Struct):
    code: int
    message: str
    status: str
    details: list[dict[str, Any]] | UnsetType = UNSET


class GoogleErrorResponse(Struct):
    """The body of every error of Gemini's endpoints. The stable code of the gateway's errors is
    `metadata.code` in the ErrorInfo among the details.
    """

    error: GoogleErrorSchema


class GeminiModelSchema(Struct, frozen=True, rename="camel"):
    """A model that can be called. `name` is `models/` and the name of the model."""

    name: str
    base_model_id: str
    version: str
    display_name: str
    supported_generation_methods: list[str]
    input_token_limit: int | UnsetType = UNSET
    output_token_limit: int | UnsetType = UNSET


class GeminiModelListSchema(Struct, frozen=True):
    models: list[GeminiModelSchema]


class EmbeddingsSchema(Struct):
    """The server's response: byte for byte, or translated from Gemini's format."""

    data: list[dict[str, Any]] = []
    usage: UsageSchema | None = None


class ResultsSchema(Struct):
    """The server's response, byte for byte."""

    results: list[dict[str, Any]] = []


class ImageUsageSchema(Struct):
    """Tokens, as the server counted them."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    input_tokens_details: dict[str, int] | None = None
    output_tokens_details: dict[str, int] | None = None


class ImagesSchema(Struct):
    """The server's response, byte for byte. Each image has `b64_json` or `url`."""

    created: int
    data: list[dict[str, Any]] = []
    usage: ImageUsageSchema | None = None


class TranscriptSchema(Struct):
    """The server's response, byte for byte. `usage` is in tokens or in seconds."""

    text: str
    duration: float | None = None
    usage: dict[str, Any] | None = None


class UpstreamErrorSchema(Struct):
    """Errors of the gateway have every field. Errors of a server are forwarded unchanged."""

    message: str
    type: str | None = None
    param: str | None = None
    code: str | int | None = None
    request_id: str | UnsetType = UNSET


class UpstreamErrorResponse(Struct):
    """The body of every error, of the gateway or of a server."""

    error: UpstreamErrorSchema


class ModalitiesSchema(Struct, frozen=True):
    input_modalities: list[str] | UnsetType = UNSET
    output_modalities: list[str] | UnsetType = UNSET


class TokenPricesSchema(Struct, frozen=True):
    """USD per token, as decimal text."""

    prompt: Annotated[str, Meta(examples=["0.00000125"])]
    completion: str
    input_cache_read: str


class ModelSchema(Struct, frozen=True, kw_only=True):
    """A model that can be called. `created` is in seconds since the epoch, 0 if it is not known. Lengths are
    in tokens. `pricing` is what the gateway charges. The optional fields are there if they are known.
    """

    id: str
    created: int
    owned_by: str
    context_length: int | UnsetType = UNSET
    max_output_tokens: int | UnsetType = UNSET
    architecture: ModalitiesSchema | UnsetType = UNSET
    pricing: TokenPricesSchema | UnsetType = UNSET
    object: Literal["model"] = "model"


def model_schema(row: ModelRow) -> ModelSchema:
    """The same JSON as in the list of models of a key."""
    return msgspec.json.decode(write_model(row), type=ModelSchema)


class ModelListSchema(Struct, frozen=True):
    data: list[ModelSchema]
    object: Literal["list"] = "list"


# The Structs of request and response; None: it is not JSON.
_BODIES: Final[Mapping[FormatName, tuple[type[Struct] | None, type[Struct] | None]]] = {
    "chat": (ChatRequestSchema, CompletionSchema),
    "messages": (MessagesRequestSchema, AnthropicMessageSchema),
    "count_tokens": (CountTokensRequestSchema, TokenCountSchema),
    "responses": (ResponsesRequestSchema, ResponseObjectSchema),
    "input_tokens": (InputTokensRequestSchema, InputTokensSchema),
    "compact": (CompactRequestSchema, CompactedResponseSchema),
    "gemini": (GeminiRequestSchema, GeminiResponseSchema),
    "gemini_count_tokens": (GeminiCountRequestSchema, GeminiTokenCountSchema),
    "gemini_embed": (GeminiEmbedRequestSchema, GeminiEmbeddingSchema),
    "gemini_batch_embed": (GeminiBatchEmbedRequestSchema, GeminiEmbeddingsSchema),
    "completions": (CompletionRequestSchema, CompletionSchema),
    "embeddings": (EmbeddingRequestSchema, EmbeddingsSchema),
    "moderations": (ModerationRequestSchema, ResultsSchema),
    "rerank": (RerankRequestSchema, ResultsSchema),
    "images": (ImageRequestSchema, ImagesSchema),
    "image_edits": (ImageEditRequestSchema, ImagesSchema),
    "image_variations": (None, ImagesSchema),
    "speech": (SpeechRequestSchema, None),
    "transcription": (None, TranscriptSchema),
    "audio_translation": (None, TranscriptSchema),
}
_FORMS: Final[Mapping[FormatName, type[Struct]]] = {
    "image_edits": ImageEditFormSchema,
    "image_variations": ImageVariationFormSchema,
    "transcription": TranscriptionFormSchema,
    "audio_translation": AudioTranslationFormSchema,
}
# Content types of responses besides JSON and events.
_OTHER_MEDIA: Final[Mapping[FormatName, str]] = {
    "speech": "audio/*",
    "transcription": "text/*",
    "audio_translation": "text/*",
}
_STREAMS: Final = """

With `"stream": true` the response is a stream of server-sent events that ends with `data: [DONE]`. If
something fails after the first event, an event with an `error` object ends the stream instead.
"""
_NAMED_STREAMS: Final = """

With `"stream": true` the response is a stream of Anthropic's named events that ends with `message_stop`. If
something fails after the first event, an event `error` ends the stream instead.
"""
_NUMBERED_STREAMS: Final = """

With `"stream": true` the response is a stream of OpenAI's named events that ends with `response.completed`,
`response.incomplete` or `response.failed`. If something fails after the first event, an event `error` ends
the stream instead.
"""
_GEMINI_STREAMS: Final = """

With the query parameter `alt=sse` the response is a stream of server-sent events. Otherwise it is a JSON
array that arrives element by element. The last element has a `finishReason`. If something fails after the
first element, an object with an `error` ends the stream instead.
"""
_IMAGE_STREAMS: Final = """

With `"stream": true` the response is a stream of the server's events: partial images, if the request asks for
them, and the completed image with its usage. A server that does not stream responds with JSON.
"""
_AUDIO: Final = """

The response is audio in the format of `response_format`, forwarded when it arrives. With
`"stream_format": "sse"` the response is a stream of the server's events. If the server ends the response
early, the gateway closes the connection before the end of the response.
"""
_TRANSCRIPTS: Final = """

The response is JSON, or text and subtitles as `response_format` says. If the field `model` comes before the
file, the gateway forwards the file while it arrives.
"""
_TRANSCRIPT_STREAMS: Final = (
    _TRANSCRIPTS
    + """
With `"stream": true` the response is a stream of the server's events.
"""
)
_STREAM_TEXTS: Final[dict[FormatName, str]] = {
    "chat": _STREAMS,
    "completions": _STREAMS,
    "messages": _NAMED_STREAMS,
    "responses": _NUMBERED_STREAMS,
    "images": _IMAGE_STREAMS,
    "image_edits": _IMAGE_STREAMS,
    "speech": _AUDIO,
    "transcription": _TRANSCRIPT_STREAMS,
}
_TEXTS: Final[Mapping[FormatName, str]] = _STREAM_TEXTS | {"audio_translation": _TRANSCRIPTS}
_ERRORS: Final[Mapping[ApiName, type[Struct]]] = {
    "openai": UpstreamErrorResponse,
    "anthropic": AnthropicErrorResponse,
    "gemini": GoogleErrorResponse,
}
_MODELS: Final = "Models"


_STORED: Final[Mapping[tuple[str, str], tuple[type[Struct], type[Struct] | None]]] = {
    ("GET", ""): (ResponseObjectSchema, StoredResponseQuery),
    ("DELETE", ""): (DeletedResponseSchema, None),
    ("GET", "/input_items"): (InputItemListSchema, InputItemsQuery),
    ("POST", "/cancel"): (ResponseObjectSchema, None),
}


def _described_stored(operation: Operation) -> OpenAPIOperation:
    below = operation.path.removeprefix("/v1/responses/{id}")
    response, query = _STORED[operation.method, below]
    events = {EVENTS: None} if query is StoredResponseQuery else {}
    return OpenAPIOperation(
        method=operation.method,
        path=operation.path,
        tag=_MODELS,
        text=operation.summary + ".",
        access=None,
        statuses=(200,),
        media={JSON: response, **events},
        query=query,
        path_params=("id",),
        error=UpstreamErrorResponse,
    )


def _described(operation: Operation) -> OpenAPIOperation:
    if operation.handler == "stored_response":
        return _described_stored(operation)
    request, response = _BODIES[operation.format]
    media: dict[str, type[Struct] | None] = {} if response is None else {JSON: response}
    if (other := _OTHER_MEDIA.get(operation.format)) is not None:
        media[other] = None
    text = _TEXTS.get(operation.format, "")
    if operation.path.endswith(":streamGenerateContent"):
        text = _GEMINI_STREAMS
    if operation.format in _STREAM_TEXTS or text == _GEMINI_STREAMS:
        media[EVENTS] = None
    return OpenAPIOperation(
        method=operation.method,
        path=operation.path,
        tag=_MODELS,
        text=f"{operation.summary}.{text}",
        access=None,
        statuses=(200,),
        media=media,
        body=request,
        form=_FORMS.get(operation.format),
        path_params=[name for name in ("model",) if f"{{{name}}}" in operation.path],
        error=_ERRORS[api_of(operation.path)],
    )


DATA_PLANE: Final = (
    # OpenAPI cannot describe a WebSocket; docs/api.md does.
    *(_described(operation) for operation in OPERATIONS if not operation.is_socket),
    OpenAPIOperation(
        method="GET",
        path="/v1/models",
        tag=_MODELS,
        text="List the models that the key may use.\n\n"
        "A request with the header `anthropic-version` gets Anthropic's format, with the query parameters "
        "`limit`, `before_id` and `after_id`.",
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
    OpenAPIOperation(
        method="GET",
        path=GEMINI_MODELS,
        tag=_MODELS,
        text="List the models that the key may use, in Gemini's format.\n\nThe list has one page.",
        access=None,
        statuses=(200,),
        media={JSON: GeminiModelListSchema},
        error=GoogleErrorResponse,
    ),
    OpenAPIOperation(
        method="GET",
        path=f"{GEMINI_MODELS}/{{model}}",
        tag=_MODELS,
        text="Show one model, in Gemini's format.",
        access=None,
        statuses=(200,),
        media={JSON: GeminiModelSchema},
        path_params=("model",),
        error=GoogleErrorResponse,
    ),
)
