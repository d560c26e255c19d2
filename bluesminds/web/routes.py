"""Route tables of the control plane. A line defines method, path and access; the annotations of the handler
define the rest.

    route("POST", "/api/keys", Access.SESSION, handlers.create, tag="Keys", status=201)

    async def create(self, principal: Principal, body: NewKey) -> CreatedKey:
        \"\"\"Create a key. The docstring is used in the API reference, the first sentence as summary.\"\"\"

The parameters of a handler are optional: `principal`, `body`, `query` (Structs that forbid unknown fields),
`browser` (a BrowserRequest), `raw` (a RawInput) and every {name} of its path. It returns a Struct, None
for no content, or a HandlerResponse to set a status or headers. {name:path} takes slashes as well. Routes
are only added by `mount`, so every route checks its access.
"""

import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import (
    Annotated,
    Any,
    Final,
    Generic,
    Literal,
    TypeVar,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
from msgspec import Meta, Struct
from quart import Quart, Response, abort, g, request
from quart.routing import QuartMap, QuartRule

from bluesminds.common.crypto import UUID
from bluesminds.web.browser_request import read_browser_request
from bluesminds.web.guard import Access, Guard
from bluesminds.web.parsing import read_body, read_query

Handler = Callable[..., Awaitable[object]]
T = TypeVar("T")
Row = TypeVar("Row")

MAX_PAGE: Final = 100  # rows
_PATH_PARAM: Final = re.compile(r"\{(\w+)(:path)?\}")
_PARAMETERS: Final = frozenset(("principal", "body", "query", "browser", "raw"))


class HandlerResponse(Struct, Generic[T], frozen=True):
    """A body with a status or headers. `status` None is the status of the route."""

    body: T
    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()


class RawInput(Struct, frozen=True):
    """The headers, with lower-case names, and the body of a request as it was received, for signatures."""

    headers: Mapping[str, str]
    content: bytes


class RawBody(Struct, frozen=True):
    """A response body that is not JSON."""

    content: bytes
    content_type: str


class StreamBody(Struct, frozen=True):
    """A response body that is not JSON and is sent while it is produced. An error after the first chunk ends
    the connection.
    """

    chunks: AsyncIterator[bytes]
    content_type: str


class Page(Struct, Generic[T], frozen=True, tag_field="object", tag="list"):
    """A list, or a page of one. If `next_cursor` is set, send it as `after` to get the next page."""

    data: Sequence[T]
    next_cursor: str | None = None

    @classmethod
    def of(
        cls, rows: Sequence[Row], limit: int, view: Callable[[Row], T], cursor: Callable[[Row], str]
    ) -> "Page[T]":
        """A page of the first `limit` rows. Query one row more, to know whether another page follows."""
        page = rows[:limit]
        return cls([view(row) for row in page], cursor(page[-1]) if len(rows) > limit else None)


class Paging(Struct, frozen=True, forbid_unknown_fields=True):
    """The query of a paged list; subclasses add filters."""

    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE, description=f"a whole number from 1 to {MAX_PAGE}")] = 20
    after: Annotated[
        str, Meta(pattern=rf"^({UUID})?\Z", description="the next_cursor of the previous page")
    ] = ""


class _NoQuery(Struct, forbid_unknown_fields=True):
    """No query parameters."""


class Route(Struct, frozen=True, kw_only=True):
    """`response` is the type of the body, None for no content. `other_statuses` have the same body. `media`
    is the content type of a RawBody or StreamBody, `other_media` are alternatives. `tag` groups routes in the
    reference. `text` is the handler's docstring.
    """

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    access: Access
    handler: Handler
    status: int
    tag: str
    text: str
    response: Any  # a type
    body: type[Struct] | None
    query: type[Struct] | None
    takes_principal: bool
    takes_browser: bool
    takes_raw: bool = False
    other_statuses: tuple[int, ...] = ()
    media: str = ""
    other_media: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def path_params(self) -> tuple[str, ...]:
        return _path_params(self.path)


def route(
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"],
    path: str,
    access: Access,
    handler: Handler,
    *,
    tag: str,
    status: int = 200,
    other_statuses: tuple[int, ...] = (),
    media: str = "",
    other_media: tuple[str, ...] = (),
) -> Route:
    """Raises TypeError if the handler has a parameter that is neither known nor in the path."""
    found = _signature(getattr(handler, "__func__", handler))
    if unknown := found.parameters - _PARAMETERS - set(_path_params(path)):
        raise TypeError(f"{method} {path} has no value for the parameters {', '.join(sorted(unknown))}")
    return Route(
        method=method,
        path=path,
        access=access,
        handler=handler,
        status=204 if found.response is None else status,
        tag=tag,
        text=found.text,
        response=found.response,
        body=found.body,
        query=found.query,
        takes_principal="principal" in found.parameters,
        takes_browser="browser" in found.parameters,
        takes_raw="raw" in found.parameters,
        other_statuses=other_statuses,
        media=media,
        other_media=other_media,
    )


@lru_cache(maxsize=1024)
def _path_params(path: str) -> tuple[str, ...]:
    return tuple(found[1] for found in _PATH_PARAM.finditer(path))


class _Signature(Struct, frozen=True):
    """What a route needs to know of its handler."""

    parameters: frozenset[str]
    response: Any
    body: type[Struct] | None
    query: type[Struct] | None
    text: str


@lru_cache(maxsize=1024)
def _signature(function: Handler) -> _Signature:
    """Several applications of one process share it."""
    hints = get_type_hints(function, include_extras=True)
    response = hints.pop("return")
    response = get_args(response)[0] if get_origin(response) is HandlerResponse else response
    return _Signature(
        parameters=frozenset(hints),
        response=None if response is type(None) else response,
        body=hints.get("body"),
        query=hints.get("query"),
        text=inspect.getdoc(function) or "",
    )


class MatchedRule(QuartRule):
    """A rule that matches paths only. Werkzeug compiles code for each rule that builds its URLs; this code is
    never used here and took a third of the time to start.
    """

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        return _build_no_url


def _build_no_url(*_: object, **__: object) -> tuple[str, str]:
    raise NotImplementedError("url_for is not available: write the path")


def mount(app: Quart, routes: Iterable[Route], guard: Guard) -> None:
    mounted = list(routes)
    app.url_map = _url_map(tuple((route.method, route.path, route.name) for route in mounted))
    app.view_functions = {route.name: _view(route, guard) for route in mounted}
    if len(app.view_functions) < len(mounted):
        raise ValueError("two routes have the same name")


@lru_cache(maxsize=8)
def _url_map(routes: tuple[tuple[str, str, str], ...]) -> QuartMap:
    """The map for these methods, paths and names. Parsing the rules takes a third of the time to start, so
    several applications of one process share it.
    """
    found = QuartMap(merge_slashes=False)  # they are merged by a redirect with an HTML body
    for method, path, name in routes:
        pattern = _PATH_PARAM.sub(lambda found: f"<path:{found[1]}>" if found[2] else f"<{found[1]}>", path)
        rule = MatchedRule(pattern, methods={method}, endpoint=name)
        rule.provide_automatic_options = False
        found.add(rule)
    return found


def _view(route: Route, guard: Guard) -> Callable[..., Awaitable[Response]]:
    async def view(**path_params: str) -> Response:
        principal = g.principal = await guard.authorize(route.access, request)
        if any("\0" in value for value in path_params.values()):
            abort(404)  # PostgreSQL rejects NUL in text
        arguments: dict[str, object] = dict(path_params)
        if route.takes_principal:
            arguments["principal"] = principal
        if route.takes_browser:
            arguments["browser"] = read_browser_request(request)
        if route.takes_raw:
            headers = {name.lower(): value for name, value in request.headers.items()}
            arguments["raw"] = RawInput(headers, cast(bytes, await request.get_data(cache=False)))
        if route.query is not None:
            arguments["query"] = read_query(route.query, request)
        elif route.method != "GET" or route.access is not Access.PUBLIC:  # links to pages may have a query
            read_query(_NoQuery, request)
        if route.body is not None:
            arguments["body"] = await read_body(route.body, request)
        return _build_response(route, await route.handler(**arguments))

    return view


def _build_response(route: Route, result: object) -> Response:
    found: HandlerResponse[object] = (
        result if isinstance(result, HandlerResponse) else HandlerResponse(result)
    )
    status, body = found.status or route.status, found.body
    if isinstance(body, RawBody):
        response = Response(body.content, status, content_type=body.content_type)
    elif isinstance(body, StreamBody):
        response = Response(body.chunks, status, content_type=body.content_type)
    elif body is None:
        response = Response(b"", status)
        del response.headers["content-type"]
    else:
        response = Response(msgspec.json.encode(body), status, content_type="application/json")
    for name, value in found.headers:
        response.headers.add(name, value)
    return response
