"""/openapi.json and /docs: the API reference as OpenAPI and as a page."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Final

import msgspec
import trio

from bluesminds import __version__
from bluesminds.web.docs.docs_page import POLICY, docs_page
from bluesminds.web.docs.model_endpoints import DATA_PLANE
from bluesminds.web.docs.model_requests import ChatRequestSchema, CompletionRequestSchema
from bluesminds.web.docs.openapi import JSON, openapi_document, operation_of
from bluesminds.web.docs.relayed_endpoints import RELAYED
from bluesminds.web.guard import Access
from bluesminds.web.routes import HandlerResponse, RawBody, Route, route

_GENERATION: Final = (ChatRequestSchema.__name__, CompletionRequestSchema.__name__)
NO_MODEL: Final = "MODEL"  # in the examples while there is no model


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
        self._documented = [*others, *self.routes]
        self._url = url
        self._example_model = example_model

    @cached_property
    def _document(self) -> dict[str, Any]:
        """Made at its first use: it takes about as long as all other steps of a start."""
        operations = [*DATA_PLANE, *RELAYED, *map(operation_of, self._documented)]
        return openapi_document(operations, version=__version__, url=self._url)

    def _current_document(self) -> dict[str, Any]:
        """The document with the current example model."""
        components = self._document["components"]
        schemas = dict(components["schemas"])
        for name in _GENERATION:
            request = schemas[name]
            model = request["properties"]["model"] | {"examples": [self._example_model() or NO_MODEL]}
            schemas[name] = request | {"properties": request["properties"] | {"model": model}}
        return self._document | {"components": components | {"schemas": schemas}}

    async def openapi(self) -> RawBody:
        """This reference as OpenAPI 3.1."""
        document = await trio.to_thread.run_sync(self._current_document)
        return RawBody(msgspec.json.encode(document), JSON)

    async def docs(self) -> HandlerResponse[RawBody]:
        """This reference as a page."""
        document = await trio.to_thread.run_sync(self._current_document)
        page = RawBody(docs_page(document), "text/html; charset=utf-8")
        return HandlerResponse(page, headers=(("content-security-policy", POLICY),))
