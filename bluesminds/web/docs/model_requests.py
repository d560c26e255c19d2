"""Schemas of the requests to models, for the API reference. Other fields are forwarded."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from bluesminds.wire.requests import Choices, StreamOptions, Tokens, UsageOptions


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
