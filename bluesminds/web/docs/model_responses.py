"""Schemas of the responses of models, for the API reference."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from bluesminds.wire.models import ModelRow, write_model


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
