"""The OpenAPI 3.1 document, made from the route tables: paths, inputs and answers are those the gateway
itself works with, so they cannot differ from what it does.

Schemas are msgspec's, with two things put into JSON Schema's terms: Python's end of text in patterns, and
queries, whose Structs become one parameter per field.
"""

import http
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from bluesminds.web.errors import ErrorResponse
from bluesminds.web.guard import COOKIE, CSRF_HEADER, Access
from bluesminds.web.routes import RawBody, Route

JSON: Final = "application/json"
Schema = dict[str, Any]

_SCHEMES: Final[Mapping[str, Schema]] = {
    "apiKey": {"type": "http", "scheme": "bearer", "description": "An API key, `bm_...`. It calls models."},
    "xApiKey": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same."},
    "apiKeyHeader": {"type": "apiKey", "in": "header", "name": "api-key", "description": "The same."},
    "session": {
        "type": "http",
        "scheme": "bearer",
        "description": "The token of a session, `bms_...`, for programs.",
    },
    "sessionCookie": {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": "The same token, as browsers keep it.",
    },
    "csrfToken": {
        "type": "apiKey",
        "in": "header",
        "name": CSRF_HEADER,
        "description": "The `csrf_token` of `GET /api/auth/me`, with every change by cookie.",
    },
}

_HEADERS: Final[Mapping[str, Schema]] = {
    name: {"description": told, "schema": {"type": "string"}}
    for name, told in (
        ("x-request-id", "What to ask the operator about; it is in the log."),
        ("retry-after", "Seconds until the same request can succeed, where waiting helps."),
        ("x-should-retry", "`false` where it does not."),
    )
}


class Operation(Struct, frozen=True, kw_only=True):
    """One line of the reference. `media` maps what an answer may be to its type, None for no type to tell;
    `statuses` are those of an answer that is no refusal.
    """

    method: str
    path: str
    tag: str
    text: str
    access: Access | None  # None: an API key
    statuses: Sequence[int]
    media: Mapping[str, Any]
    body: Any = None
    query: type[Struct] | None = None
    places: Sequence[str] = ()
    refusal: type[Struct] = ErrorResponse


def operation(one: Route) -> Operation:
    if one.answer is None:
        media: Mapping[str, Any] = {}
    elif one.answer is RawBody:
        media = {one.media: None}
    else:
        media = {JSON: one.answer}
    return Operation(
        method=one.method,
        path=one.path,
        tag=one.tag,
        text=one.text,
        access=one.access,
        statuses=(one.status, *one.also),
        media=media,
        body=one.body,
        query=one.query,
        places=one.places,
    )


def document(operations: Iterable[Operation], *, version: str, url: str) -> Schema:
    """`url` is where clients reach the gateway."""
    every = list(operations)
    types = _types(every)
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    of = dict(zip(types, (_in_json_schema(schema) for schema in schemas), strict=True))
    components = {name: _in_json_schema(schema) for name, schema in components.items()}
    paths: dict[str, Schema] = {}
    for one in every:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, of, components)
    for one in every:
        if one.query is not None:
            components.pop(_name(of[one.query]), None)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "BluesMinds",
            "version": version,
            "description": "A self-hosted AI gateway. Applications call models with any OpenAI SDK, under"
            " `/v1` and, the same, `/api/v1`; people manage keys and accounts.",
        },
        "servers": [{"url": url}],
        "tags": [{"name": tag} for tag in dict.fromkeys(one.tag for one in every)],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": _SCHEMES,
            "responses": {
                kind.__name__: {
                    "description": "A refusal, or a failure.",
                    "headers": _HEADERS,
                    "content": {JSON: {"schema": of[kind]}},
                }
                for kind in dict.fromkeys(one.refusal for one in every)
            },
        },
    }


def _types(operations: Iterable[Operation]) -> list[Any]:
    found: dict[Any, None] = {}
    for one in operations:
        for kind in (one.refusal, one.body, one.query, *one.media.values()):
            if kind is not None:
                found[kind] = None
    return list(found)


def _operation(one: Operation, of: Mapping[Any, Schema], components: Mapping[str, Schema]) -> Schema:
    summary, description = _told(one.text)
    made: Schema = {
        "tags": [one.tag],
        "summary": summary,
        "operationId": _identifier(one),
        "security": _security(one),
        "responses": _responses(one, of),
    }
    if description:
        made["description"] = description
    parameters = [_place(name) for name in one.places]
    if one.query is not None:
        parameters += _parameters(components[_name(of[one.query])])
    if parameters:
        made["parameters"] = parameters
    if one.body is not None:
        made["requestBody"] = {"required": True, "content": {JSON: {"schema": of[one.body]}}}
    return made


def _told(text: str) -> tuple[str, str]:
    """The first sentence, and the paragraphs that are left."""
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    summary, _, rest = paragraphs[0].partition(". ")
    return summary.rstrip("."), "\n\n".join([rest, *paragraphs[1:]]).strip()


def _identifier(one: Operation) -> str:
    words = [word.strip("{}") for word in one.path.split("/") if word]
    return "_".join([one.method.lower(), *words]).replace("-", "_").replace(".", "_")


def _security(one: Operation) -> list[dict[str, list[str]]]:
    if one.access is None:
        return [{"apiKey": []}, {"xApiKey": []}, {"apiKeyHeader": []}]
    if one.access is Access.PUBLIC:
        return []
    by_cookie: dict[str, list[str]] = {"sessionCookie": []}
    return [{"session": []}, by_cookie if one.method == "GET" else by_cookie | {"csrfToken": []}]


def _responses(one: Operation, of: Mapping[Any, Schema]) -> Schema:
    content = {name: {} if kind is None else {"schema": of[kind]} for name, kind in one.media.items()}
    answers: Schema = {}
    for status in one.statuses:
        answers[str(status)] = {"description": http.HTTPStatus(status).phrase}
        if content:
            answers[str(status)]["content"] = content
    refusal = {"$ref": f"#/components/responses/{one.refusal.__name__}"}
    return answers | {"4XX": refusal, "5XX": refusal}


def _place(name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _parameters(query: Schema) -> list[Schema]:
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
    """A parameter is left out, not null."""
    bare: Schema = {name: value for name, value in schema.items() if name != "default" or value is not None}
    choices: list[Schema] = [one for one in bare.pop("anyOf", ()) if one != {"type": "null"}]
    if len(choices) == 1:
        return choices[0] | bare
    return bare | ({"anyOf": choices} if choices else {})


def _name(reference: Schema) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _in_json_schema(schema: Any) -> Any:  # noqa: ANN401
    match schema:
        case {"pattern": str(pattern), **others}:
            return _in_json_schema(others) | {"pattern": pattern.replace(r"\Z", "$")}
        case dict():
            return {name: _in_json_schema(value) for name, value in schema.items()}
        case list():
            return [_in_json_schema(value) for value in schema]
    return schema
