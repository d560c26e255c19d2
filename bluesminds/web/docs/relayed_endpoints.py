"""The API reference of the most common requests that are relayed to servers."""

from typing import Any, Final

from msgspec import Struct

from bluesminds.web.docs.model_responses import UpstreamErrorResponse
from bluesminds.web.docs.openapi import JSON, OpenAPIOperation

_TAG: Final = "Objects at servers"
_RELAYED: Final = """

The request is relayed to a server with `passthrough = true`. Without such a server the response is 404.
"""
BINARY: Final = "application/octet-stream"


class ServerObjectSchema(Struct):
    """The server's response."""

    id: str


class ServerObjectListSchema(Struct):
    """The objects of the account, as the server describes them."""

    data: list[ServerObjectSchema]
    first_id: str | None
    last_id: str | None
    has_more: bool


class BatchRequestSchema(Struct):
    """All fields are forwarded."""

    input_file_id: str
    endpoint: str
    completion_window: str = "24h"


class VectorStoreRequestSchema(Struct):
    """All fields are forwarded."""

    name: str | None = None
    file_ids: list[str] = []


class ListQuery(Struct):
    limit: int | None = None
    after: str | None = None


def _relayed(method: str, path: str, text: str, **more: Any) -> OpenAPIOperation:  # noqa: ANN401
    return OpenAPIOperation(
        method=method,
        path=path,
        tag=_TAG,
        text=text + _RELAYED,
        access=None,
        statuses=(200,),
        path_params=("id",) if "{id}" in path else (),
        error=UpstreamErrorResponse,
        **({"media": {JSON: ServerObjectSchema}} | more),
    )


def _collection(path: str, name: str) -> list[OpenAPIOperation]:
    return [
        _relayed(
            "GET",
            path,
            f"List the {name} of the account.",
            media={JSON: ServerObjectListSchema},
            query=ListQuery,
        ),
        _relayed("GET", f"{path}/{{id}}", f"Show one of the {name}."),
    ]


RELAYED: Final = (
    *_collection("/v1/files", "files"),
    _relayed("POST", "/v1/files", "Upload a file as multipart/form-data."),
    _relayed("GET", "/v1/files/{id}/content", "Read the content of a file.", media={BINARY: None}),
    _relayed("DELETE", "/v1/files/{id}", "Delete a file."),
    *_collection("/v1/batches", "batches"),
    _relayed("POST", "/v1/batches", "Create a batch.", body=BatchRequestSchema),
    _relayed("POST", "/v1/batches/{id}/cancel", "Cancel a batch."),
    *_collection("/v1/vector_stores", "vector stores"),
    _relayed("POST", "/v1/vector_stores", "Create a vector store.", body=VectorStoreRequestSchema),
    _relayed("DELETE", "/v1/vector_stores/{id}", "Delete a vector store."),
)
