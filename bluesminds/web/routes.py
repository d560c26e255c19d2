"""The control plane as tables of routes: one line says who may call, the handler's annotations say the rest.

    route("POST", "/api/keys", Access.SESSION, desk.create, status=201)

    async def create(self, who: Principal, body: NewKey) -> MadeKey:
        \"\"\"Make a key. What follows the first line is the longer text of the reference.\"\"\"

A handler takes what it names: `who`, `body` and `query` (Structs that forbid unknown fields), and every
{name} of its path. It returns the Struct that its annotation promises, None for no content, or an Answer for
another status or more headers. `mount` is the only way into the application, so nothing is served without
its access having been asked.
"""

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Annotated, Any, Final, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct
from quart import Quart, Response, abort, request

from bluesminds.common.crypto import UUID
from bluesminds.web.guard import Access, Guard
from bluesminds.web.parsing import read_input, read_query

Handler = Callable[..., Awaitable[object]]
T = TypeVar("T")
Row = TypeVar("Row")

MAX_PAGE: Final = 100  # rows
_PLACE: Final = re.compile(r"\{(\w+)\}")
_OWN_WORDS: Final = frozenset(("who", "body", "query"))


class Answer(Struct, Generic[T], frozen=True):
    """An answer that is more than its body. `status` None: as the route says."""

    body: T
    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()


class RawBody(Struct, frozen=True):
    """An answer that is no JSON."""

    content: bytes
    content_type: str


class Page(Struct, Generic[T], frozen=True, tag_field="object", tag="list"):
    """A list, or a part of one: ask again with `after` = `next_cursor` for what follows."""

    data: Sequence[T]
    next_cursor: str | None = None

    @classmethod
    def of(
        cls, rows: Sequence[Row], limit: int, show: Callable[[Row], T], cursor: Callable[[Row], str]
    ) -> "Page[T]":
        """The first `limit` rows; that there is one more says that another page follows."""
        shown = rows[:limit]
        return cls([show(row) for row in shown], cursor(shown[-1]) if len(rows) > limit else None)


class Paging(Struct, frozen=True, forbid_unknown_fields=True):
    """The query of a list. To be extended with filters."""

    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE, description=f"a whole number from 1 to {MAX_PAGE}")] = 20
    after: Annotated[
        str, Meta(pattern=rf"^({UUID})?\Z", description="the next_cursor of the page before")
    ] = ""


class _Nothing(Struct, forbid_unknown_fields=True):
    """The query of what takes none."""


class Route(Struct, frozen=True, kw_only=True):
    """`answer` None: no content. `also` are other statuses with the same answer, `media` is the type of a
    RawBody. `tag` groups routes in the reference; `text` is the handler's docstring.
    """

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    access: Access
    handler: Handler
    status: int
    tag: str
    text: str
    answer: Any  # a type
    body: type[Struct] | None
    query: type[Struct] | None
    takes_who: bool
    also: tuple[int, ...] = ()
    media: str = ""

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def places(self) -> tuple[str, ...]:
        """The names in the path."""
        return tuple(_PLACE.findall(self.path))


def route(
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"],
    path: str,
    access: Access,
    handler: Handler,
    *,
    tag: str,
    status: int = 200,
    also: tuple[int, ...] = (),
    media: str = "",
) -> Route:
    """Raises TypeError when the handler does not take just what the path and the tables can give."""
    hints = get_type_hints(handler, include_extras=True)
    answer = hints.pop("return")
    if strangers := set(hints) - _OWN_WORDS - set(_PLACE.findall(path)):
        raise TypeError(f"{method} {path} cannot give its handler {', '.join(sorted(strangers))}")
    answer = get_args(answer)[0] if get_origin(answer) is Answer else answer
    return Route(
        method=method,
        path=path,
        access=access,
        handler=handler,
        status=204 if answer is type(None) else status,
        tag=tag,
        text=inspect.getdoc(handler) or "",
        answer=None if answer is type(None) else answer,
        body=hints.get("body"),
        query=hints.get("query"),
        takes_who="who" in hints,
        also=also,
        media=media,
    )


def mount(app: Quart, routes: Iterable[Route], guard: Guard) -> None:
    for one in routes:
        path = _PLACE.sub(r"<\1>", one.path)
        app.add_url_rule(path, one.name, _view(one, guard), methods=[one.method])


def _view(one: Route, guard: Guard) -> Callable[..., Awaitable[Response]]:
    async def view(**places: str) -> Response:
        who = await guard.admit(one.access, request)
        if any("\0" in place for place in places.values()):
            abort(404)  # no database holds such a text, and not all of them say so kindly
        given: dict[str, object] = dict(places)
        if one.takes_who:
            given["who"] = who
        if one.query is not None:
            given["query"] = read_query(one.query, request)
        elif one.method != "GET" or one.access is not Access.PUBLIC:  # a link to a page may carry more
            read_query(_Nothing, request)
        if one.body is not None:
            given["body"] = await read_input(one.body, request)
        return _written(one, await one.handler(**given))

    return view


def _written(one: Route, answer: object) -> Response:
    whole: Answer[object] = answer if isinstance(answer, Answer) else Answer(answer)
    status, body = whole.status or one.status, whole.body
    if isinstance(body, RawBody):
        response = Response(body.content, status, content_type=body.content_type)
    elif body is None:
        response = Response(b"", status)
        del response.headers["content-type"]
    else:
        response = Response(msgspec.json.encode(body), status, content_type="application/json")
    for name, value in whole.headers:
        response.headers.add(name, value)
    return response
