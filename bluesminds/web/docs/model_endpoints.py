"""The API reference of the data plane, made from the table of operations and the schemas of requests and
responses.
"""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from bluesminds.gateway.operations import GEMINI_MODELS, OPERATIONS, ApiName, Operation, api_of
from bluesminds.web.docs import model_requests as requests
from bluesminds.web.docs import model_responses as responses
from bluesminds.web.docs.openapi import JSON, OpenAPIOperation
from bluesminds.wire.base import FormatName

EVENTS: Final = "text/event-stream"


# The Structs of request and response; None: it is not JSON.
_BODIES: Final[Mapping[FormatName, tuple[type[Struct] | None, type[Struct] | None]]] = {
    "chat": (requests.ChatRequestSchema, responses.CompletionSchema),
    "messages": (requests.MessagesRequestSchema, responses.AnthropicMessageSchema),
    "count_tokens": (requests.CountTokensRequestSchema, responses.TokenCountSchema),
    "responses": (requests.ResponsesRequestSchema, responses.ResponseObjectSchema),
    "input_tokens": (requests.InputTokensRequestSchema, responses.InputTokensSchema),
    "compact": (requests.CompactRequestSchema, responses.CompactedResponseSchema),
    "gemini": (requests.GeminiRequestSchema, responses.GeminiResponseSchema),
    "gemini_count_tokens": (requests.GeminiCountRequestSchema, responses.GeminiTokenCountSchema),
    "gemini_embed": (requests.GeminiEmbedRequestSchema, responses.GeminiEmbeddingSchema),
    "gemini_batch_embed": (requests.GeminiBatchEmbedRequestSchema, responses.GeminiEmbeddingsSchema),
    "completions": (requests.CompletionRequestSchema, responses.CompletionSchema),
    "embeddings": (requests.EmbeddingRequestSchema, responses.EmbeddingsSchema),
    "moderations": (requests.ModerationRequestSchema, responses.ResultsSchema),
    "rerank": (requests.RerankRequestSchema, responses.ResultsSchema),
    "images": (requests.ImageRequestSchema, responses.ImagesSchema),
    "image_edits": (requests.ImageEditRequestSchema, responses.ImagesSchema),
    "image_variations": (None, responses.ImagesSchema),
    "speech": (requests.SpeechRequestSchema, None),
    "transcription": (None, responses.TranscriptSchema),
    "audio_translation": (None, responses.TranscriptSchema),
}
_FORMS: Final[Mapping[FormatName, type[Struct]]] = {
    "image_edits": requests.ImageEditFormSchema,
    "image_variations": requests.ImageVariationFormSchema,
    "transcription": requests.TranscriptionFormSchema,
    "audio_translation": requests.AudioTranslationFormSchema,
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
    "openai": responses.UpstreamErrorResponse,
    "anthropic": responses.AnthropicErrorResponse,
    "gemini": responses.GoogleErrorResponse,
}
_MODELS: Final = "Models"


_STORED: Final[Mapping[tuple[str, str], tuple[type[Struct], type[Struct] | None]]] = {
    ("GET", ""): (responses.ResponseObjectSchema, responses.StoredResponseQuery),
    ("DELETE", ""): (responses.DeletedResponseSchema, None),
    ("GET", "/input_items"): (responses.InputItemListSchema, responses.InputItemsQuery),
    ("POST", "/cancel"): (responses.ResponseObjectSchema, None),
}


def _described_stored(operation: Operation) -> OpenAPIOperation:
    below = operation.path.removeprefix("/v1/responses/{id}")
    response, query = _STORED[operation.method, below]
    events = {EVENTS: None} if query is responses.StoredResponseQuery else {}
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
        error=responses.UpstreamErrorResponse,
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
        media={JSON: responses.ModelListSchema},
    ),
    OpenAPIOperation(
        method="GET",
        path="/v1/models/{id}",
        tag=_MODELS,
        text="Show one model.\n\nThe id may contain slashes.",
        access=None,
        statuses=(200,),
        media={JSON: responses.ModelSchema},
        path_params=("id",),
    ),
    OpenAPIOperation(
        method="GET",
        path=GEMINI_MODELS,
        tag=_MODELS,
        text="List the models that the key may use, in Gemini's format.\n\nThe list has one page.",
        access=None,
        statuses=(200,),
        media={JSON: responses.GeminiModelListSchema},
        error=responses.GoogleErrorResponse,
    ),
    OpenAPIOperation(
        method="GET",
        path=f"{GEMINI_MODELS}/{{model}}",
        tag=_MODELS,
        text="Show one model, in Gemini's format.",
        access=None,
        statuses=(200,),
        media={JSON: responses.GeminiModelSchema},
        path_params=("model",),
        error=responses.GoogleErrorResponse,
    ),
)
