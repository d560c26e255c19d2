"""/openapi.json and /docs: the reference of the API, as data and as a page. Both are made once, from the same
tables.

Model traffic does not go through the tables: its operations are written down here.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from bluesminds import __version__
from bluesminds.providers import openai
from bluesminds.web.docs.docs_page import POLICY, page
from bluesminds.web.docs.openapi import JSON, Operation, document, operation
from bluesminds.web.guard import Access
from bluesminds.web.routes import Answer, RawBody, Route, route


class ChatMessage(Struct):
    """One message of a conversation, with whatever else the model takes."""

    role: str
    content: Any = None


class ChatRequest(openai.ChatRequest, kw_only=True):
    """What the gateway reads. Other fields, known or not, go to the server as they are."""

    model: Annotated[str, Meta(examples=["gpt-5-mini"])]
    messages: Annotated[  # type: ignore[assignment]  # what the gateway itself leaves to the server
        list[ChatMessage], Meta(min_length=1, examples=[[{"role": "user", "content": "Say hello."}]])
    ]


class ChatUsage(Struct):
    """Tokens, as the server counted them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatAnswer(Struct):
    """What the server answered, byte for byte: OpenAI's chat completion."""

    choices: list[dict[str, Any]] = []
    usage: ChatUsage | None = None


class ChatRefusal(Struct):
    """What went wrong. The gateway's own refusals have every field; those of a server pass as they came."""

    message: str
    type: str | None = None
    param: str | None = None
    code: str | int | None = None
    request_id: str | UnsetType = UNSET


class ChatRefused(Struct):
    """The body of every refusal, the gateway's or a server's."""

    error: ChatRefusal


class ModelView(Struct, frozen=True):
    """A model that can be asked for. `created` is in seconds since the epoch, 0 when it is not known."""

    id: str
    created: int
    owned_by: str
    object: Literal["model"] = "model"


class ModelList(Struct, frozen=True):
    data: list[ModelView]
    object: Literal["list"] = "list"


_MODELS: Final = "Models"
DATA_PLANE: Final = (
    Operation(
        method="POST",
        path="/v1/chat/completions",
        tag=_MODELS,
        text="""Ask a model.

With `"stream": true` the answer is a stream of server-sent events that ends with `data: [DONE]`. When
something fails in its middle, an event with an `error` object takes the place of that.""",
        access=None,
        statuses=(200,),
        media={JSON: ChatAnswer, "text/event-stream": None},
        body=ChatRequest,
        refusal=ChatRefused,
    ),
    Operation(
        method="GET",
        path="/v1/models",
        tag=_MODELS,
        text="List the models that this key may ask for.",
        access=None,
        statuses=(200,),
        media={JSON: ModelList},
    ),
    Operation(
        method="GET",
        path="/v1/models/{id}",
        tag=_MODELS,
        text="Show one model.\n\nThe id may contain slashes.",
        access=None,
        statuses=(200,),
        media={JSON: ModelView},
        places=("id",),
    ),
)


class Reference:
    """`routes` are its own two; `others` those of the rest. `url` is where clients reach the gateway."""

    def __init__(self, others: Sequence[Route], *, url: str) -> None:
        tag = "Reference"
        self.routes = [
            route("GET", "/openapi.json", Access.PUBLIC, self.as_data, tag=tag, media=JSON),
            route("GET", "/docs", Access.PUBLIC, self.as_page, tag=tag, media="text/html"),
        ]
        operations = [*DATA_PLANE, *map(operation, [*others, *self.routes])]
        made = document(operations, version=__version__, url=url)
        self._data = RawBody(msgspec.json.encode(made), JSON)
        self._page = Answer(
            RawBody(page(made), "text/html; charset=utf-8"), headers=(("content-security-policy", POLICY),)
        )

    async def as_data(self) -> RawBody:
        """This reference as OpenAPI 3.1."""
        return self._data

    async def as_page(self) -> Answer[RawBody]:
        """This reference as a page."""
        return self._page
