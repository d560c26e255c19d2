"""/openapi.json and /docs: the API reference as OpenAPI and as a page.

The data plane has no route table, so its operations are described here.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from bluesminds import __version__
from bluesminds.providers import openai
from bluesminds.web.docs.docs_page import POLICY, docs_page
from bluesminds.web.docs.openapi import JSON, OpenAPIOperation, openapi_document, operation_of
from bluesminds.web.guard import Access
from bluesminds.web.routes import HandlerResponse, RawBody, Route, route


class ChatMessageSchema(Struct):
    """One message. All other fields are forwarded."""

    role: str
    content: Any = None


class ChatRequestSchema(openai.ChatRequest, kw_only=True):
    """The fields that the gateway reads. All other fields are forwarded to the server unchanged."""

    model: str
    messages: Annotated[  # type: ignore[assignment]  # the gateway does not check it
        list[ChatMessageSchema], Meta(min_length=1, examples=[[{"role": "user", "content": "Say hello."}]])
    ]


class ChatUsageSchema(Struct):
    """Token counts of the server."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatResponseSchema(Struct):
    """The response of the server, unchanged: a chat completion in OpenAI's format."""

    choices: list[dict[str, Any]] = []
    usage: ChatUsageSchema | None = None


class ChatErrorObject(Struct):
    """Errors of the gateway have all fields. Errors of a server are forwarded unchanged."""

    message: str
    type: str | None = None
    param: str | None = None
    code: str | int | None = None
    request_id: str | UnsetType = UNSET


class ChatErrorResponse(Struct):
    """An error of the gateway or of a server."""

    error: ChatErrorObject


class ModelSchema(Struct, frozen=True):
    """A model. `created` is in seconds since the epoch, 0 if unknown."""

    id: str
    created: int
    owned_by: str
    object: Literal["model"] = "model"


class ModelListSchema(Struct, frozen=True):
    data: list[ModelSchema]
    object: Literal["list"] = "list"


NO_MODEL: Final = "MODEL"  # in the example while there is no model
_MODELS: Final = "Models"
DATA_PLANE: Final = (
    OpenAPIOperation(
        method="POST",
        path="/v1/chat/completions",
        tag=_MODELS,
        text="""Create a chat completion.

With `"stream": true` the response is a stream of server-sent events that ends with `data: [DONE]`. If an
error occurs after the start, the stream ends with an event with an `error` object instead.""",
        access=None,
        statuses=(200,),
        media={JSON: ChatResponseSchema, "text/event-stream": None},
        body=ChatRequestSchema,
        error=ChatErrorResponse,
    ),
    OpenAPIOperation(
        method="GET",
        path="/v1/models",
        tag=_MODELS,
        text="List the models that the API key can use.",
        access=None,
        statuses=(200,),
        media={JSON: ModelListSchema},
    ),
    OpenAPIOperation(
        method="GET",
        path="/v1/models/{id}",
        tag=_MODELS,
        text="Show a model.\n\nThe id may contain slashes.",
        access=None,
        statuses=(200,),
        media={JSON: ModelSchema},
        path_params=("id",),
    ),
)


class Reference:
    """`others` are the other routes to describe. `url` is the public URL of the gateway.
    `example_model` returns the id of a model that can be used, if there is one.
    """

    def __init__(
        self, others: Sequence[Route], *, url: str, example_model: Callable[[], str | None] = lambda: None
    ) -> None:
        tag = "Reference"
        self.routes = [
            route("GET", "/openapi.json", Access.PUBLIC, self.openapi, tag=tag, media=JSON),
            route("GET", "/docs", Access.PUBLIC, self.docs, tag=tag, media="text/html"),
        ]
        operations = [*DATA_PLANE, *map(operation_of, [*others, *self.routes])]
        self._document = openapi_document(operations, version=__version__, url=url)
        self._example_model = example_model

    def _current_document(self) -> dict[str, Any]:
        """The document with the current example model."""
        components = self._document["components"]
        name = ChatRequestSchema.__name__
        request = components["schemas"][name]
        model = request["properties"]["model"] | {"examples": [self._example_model() or NO_MODEL]}
        request = request | {"properties": request["properties"] | {"model": model}}
        schemas = components["schemas"] | {name: request}
        return self._document | {"components": components | {"schemas": schemas}}

    async def openapi(self) -> RawBody:
        """This reference as OpenAPI 3.1."""
        return RawBody(msgspec.json.encode(self._current_document()), JSON)

    async def docs(self) -> HandlerResponse[RawBody]:
        """This reference as a page."""
        page = RawBody(docs_page(self._current_document()), "text/html; charset=utf-8")
        return HandlerResponse(page, headers=(("content-security-policy", POLICY),))
