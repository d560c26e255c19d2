"""The OpenAPI 3.1 document, generated from the route tables and the Structs that the handlers use.

The schemas are msgspec's with two changes: `\\Z` in patterns becomes `$`, and the Struct of a query becomes
one parameter per field.
"""

import http
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from bluesminds.web.errors import ErrorResponse
from bluesminds.web.guard import COOKIE, CSRF_HEADER, PLAIN_COOKIE, Access
from bluesminds.web.routes import RawBody, Route, StreamBody

JSON: Final = "application/json"
FORM: Final = "multipart/form-data"
Schema = dict[str, Any]

_SCHEMES: Final[Mapping[str, Schema]] = {
    "apiKey": {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, `bm_...`. Only accepted under `/v1`.",
    },
    "xApiKey": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "An API key."},
    "apiKeyHeader": {"type": "apiKey", "in": "header", "name": "api-key", "description": "An API key."},
    "session": {
        "type": "http",
        "scheme": "bearer",
        "description": "A session token, `bms_...`, for programs.",
    },
    "sessionCookie": {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": "The session token, in a browser. On localhost over http the cookie is named"
        f" `{PLAIN_COOKIE}`.",
    },
    "csrfToken": {
        "type": "apiKey",
        "in": "header",
        "name": CSRF_HEADER,
        "description": "The `csrf_token` of `GET /api/auth/me`. Required for changes with a cookie.",
    },
}

_HEADERS: Final[Mapping[str, Schema]] = {
    name: {"description": description, "schema": {"type": "string"}}
    for name, description in (
        ("x-request-id", "The id of the request in the log of the gateway."),
        ("retry-after", "Seconds after which the request can succeed, if waiting helps."),
        ("x-should-retry", "`false` if a retry cannot succeed."),
    )
}


class OpenAPIOperation(Struct, frozen=True, kw_only=True):
    """`media` maps each content type of the response to a Struct, or to None if there is no schema.
    `statuses` are those of responses that are not errors. `body` is the Struct of a request in JSON, `form`
    the Struct of a form.
    """

    method: str
    path: str
    tag: str
    text: str
    access: Access | None  # None: an API key
    statuses: Sequence[int]
    media: Mapping[str, Any]
    body: Any = None
    form: Any = None
    query: type[Struct] | None = None
    path_params: Sequence[str] = ()
    error: type[Struct] = ErrorResponse


def operation_of(one: Route) -> OpenAPIOperation:
    if one.response is None:
        media: Mapping[str, Any] = {}
    elif one.response in (RawBody, StreamBody):
        media = dict.fromkeys((one.media, *one.other_media))
    else:
        media = {JSON: one.response}
    return OpenAPIOperation(
        method=one.method,
        path=one.path,
        tag=one.tag,
        text=one.text,
        access=one.access,
        statuses=(one.status, *one.other_statuses),
        media=media,
        body=one.body,
        query=one.query,
        path_params=one.path_params,
    )


def openapi_document(operations: Iterable[OpenAPIOperation], *, version: str, url: str) -> Schema:
    """`url` is the public URL of the gateway."""
    every = list(operations)
    types = _types(every)
    found, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schemas = dict(zip(types, map(_to_json_schema, found), strict=True))
    components = {name: _to_json_schema(schema) for name, schema in components.items()}
    paths: dict[str, Schema] = {}
    for one in every:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, schemas, components)
    for one in every:
        if one.query is not None:
            components.pop(_name(schemas[one.query]), None)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "BluesMinds",
            "version": version,
            "description": "A self-hosted AI gateway. The OpenAI-compatible API is under `/v1` and also under"
            " `/api/v1`. The endpoints for accounts and keys are under `/api`.",
        },
        "servers": [{"url": url}],
        "tags": [{"name": tag} for tag in dict.fromkeys(one.tag for one in every)],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": _SCHEMES,
            "responses": {
                kind.__name__: {
                    "description": "An error.",
                    "headers": _HEADERS,
                    "content": {JSON: {"schema": schemas[kind]}},
                }
                for kind in dict.fromkeys(one.error for one in every)
            },
        },
    }


def _types(operations: Iterable[OpenAPIOperation]) -> list[Any]:
    found: dict[Any, None] = {}
    for one in operations:
        for kind in (one.error, one.body, one.form, one.query, *one.media.values()):
            if kind is not None:
                found[kind] = None
    return list(found)


def _operation(
    one: OpenAPIOperation, schemas: Mapping[Any, Schema], components: Mapping[str, Schema]
) -> Schema:
    summary, description = _split_text(one.text)
    result: Schema = {
        "tags": [one.tag],
        "summary": summary,
        "operationId": _operation_id(one),
        "security": _security(one),
        "responses": _responses(one, schemas),
    }
    if description:
        result["description"] = description
    parameters = [_path_parameter(name) for name in one.path_params]
    if one.query is not None:
        parameters += _query_parameters(components[_name(schemas[one.query])])
    if parameters:
        result["parameters"] = parameters
    bodies = [(media, kind) for media, kind in ((FORM, one.form), (JSON, one.body)) if kind is not None]
    if bodies:
        content = {media: {"schema": schemas[kind]} for media, kind in bodies}
        result["requestBody"] = {"required": True, "content": content}
    return result


def _split_text(text: str) -> tuple[str, str]:
    """The first sentence, and the rest."""
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    summary, _, rest = paragraphs[0].partition(". ")
    return summary.rstrip("."), "\n\n".join([rest, *paragraphs[1:]]).strip()


def _operation_id(one: OpenAPIOperation) -> str:
    parts = [part.strip("{}") for part in one.path.split("/") if part]
    return "_".join([one.method.lower(), *parts]).replace("-", "_").replace(".", "_")


def _security(one: OpenAPIOperation) -> list[dict[str, list[str]]]:
    if one.access is None:
        return [{"apiKey": []}, {"xApiKey": []}, {"apiKeyHeader": []}]
    if one.access is Access.PUBLIC:
        return []
    by_cookie: dict[str, list[str]] = {"sessionCookie": []}
    return [{"session": []}, by_cookie if one.method == "GET" else by_cookie | {"csrfToken": []}]


def _responses(one: OpenAPIOperation, schemas: Mapping[Any, Schema]) -> Schema:
    content = {name: {} if kind is None else {"schema": schemas[kind]} for name, kind in one.media.items()}
    responses: Schema = {}
    for status in one.statuses:
        responses[str(status)] = {"description": http.HTTPStatus(status).phrase}
        if content:
            responses[str(status)]["content"] = content
    error = {"$ref": f"#/components/responses/{one.error.__name__}"}
    return responses | {"4XX": error, "5XX": error}


def _path_parameter(name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _query_parameters(query: Schema) -> list[Schema]:
    required = query.get("required", ())
    found = []
    for name, schema in query["properties"].items():
        bare = _without_null(schema)
        parameter = {"name": name, "in": "query", "required": name in required, "schema": bare}
        if "description" in bare:
            parameter["description"] = bare.pop("description")
        found.append(parameter)
    return found


def _without_null(schema: Schema) -> Schema:
    """Parameters are omitted, never null."""
    bare: Schema = {name: value for name, value in schema.items() if name != "default" or value is not None}
    choices: list[Schema] = [one for one in bare.pop("anyOf", ()) if one != {"type": "null"}]
    if len(choices) == 1:
        return choices[0] | bare
    return bare | ({"anyOf": choices} if choices else {})


def _name(reference: Schema) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _to_json_schema(schema: Any) -> Any:  # noqa: ANN401
    match schema:
        case {"pattern": str(pattern), **others}:
            return _to_json_schema(others) | {"pattern": pattern.replace(r"\Z", "$")}
        case dict():
            return {name: _to_json_schema(value) for name, value in schema.items()}
        case list():
            return [_to_json_schema(value) for value in schema]
    return schema
