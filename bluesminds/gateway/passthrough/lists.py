"""Lists of objects at a server, reduced to those of one account.

The server lists the objects of all accounts, so the gateway reads as many pages as it needs. Format: OpenAI's
and Anthropic's lists, {"data": [{"id"}], "first_id", "last_id", "has_more"}.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
from msgspec import Raw, Struct, structs

from bluesminds.common.errors import NotFound, UpstreamFailed
from bluesminds.wire.json_text import NOT_JSON, read_fields

MAX_PAGES: Final = 10  # of the server, for one request
MAX_PAGE: Final = 8 * 1024 * 1024  # bytes
_BACKWARDS: Final = frozenset(("before", "before_id"))

Query = Sequence[tuple[str, str]]


class _Identified(Struct):
    id: str


class ListPage(Struct, frozen=True):
    """One page as the server sent it. `items` have their ids; `is_openai`: it says that it is a list."""

    items: Sequence[tuple[str, Raw]]
    has_more: bool
    is_openai: bool = True

    def with_items(self, change: Callable[[bytes], bytes]) -> "ListPage":
        """The page with `change` applied to every item."""
        items = [(item_id, Raw(change(bytes(item)))) for item_id, item in self.items]
        return structs.replace(self, items=items)


_items = msgspec.json.Decoder(list[Raw])
_identified = msgspec.json.Decoder(_Identified)
_flag = msgspec.json.Decoder(bool)


def read_page(body: bytes) -> ListPage:
    """Raises NotFound for an answer that is not a list of objects with ids: it cannot be reduced."""
    try:
        fields = read_fields(body)
        items = [(_identified.decode(item).id, item) for item in _items.decode(fields["data"])]
        has_more = "has_more" in fields and _flag.decode(fields["has_more"])
    except (*NOT_JSON, KeyError) as exc:
        raise NotFound(
            "unsupported_endpoint",
            "The server's response is not a list of objects with ids. It is not relayed, because it "
            "may contain objects of other accounts.",
        ) from exc
    return ListPage(items, has_more, "object" in fields)


def write_page(page: ListPage) -> bytes:
    ids = [one for one, _ in page.items]
    fields: dict[str, object] = {"object": "list"} if page.is_openai else {}
    fields["data"] = [item for _, item in page.items]
    fields["first_id"] = ids[0] if ids else None
    fields["last_id"] = ids[-1] if ids else None
    fields["has_more"] = page.has_more
    return msgspec.json.encode(fields)


async def own_page(
    query: Query,
    cursor: str,
    fetch: Callable[[Query], Awaitable[bytes]],
    own_among: Callable[[Sequence[str]], Awaitable[frozenset[str]]],
) -> ListPage:
    """The page of the account's objects. `fetch` gets a page from the server, `cursor` is the parameter that
    names the object after which a page begins. Raises NotFound, and UpstreamFailed if the objects are not
    found within MAX_PAGES.
    """
    limits = (value for name, value in query if name == "limit" and value.isdecimal())
    limit = next((int(value) for value in limits if len(value) <= 9), None)
    collected: list[tuple[str, Raw]] = []
    page = ListPage((), has_more=True)
    for _ in range(MAX_PAGES):
        page = read_page(await fetch(query))
        own = await own_among([one for one, _ in page.items])
        collected += [item for item in page.items if item[0] in own]
        wanted = len(page.items) if limit is None else limit
        backwards = any(name in _BACKWARDS for name, _ in query)
        if not page.has_more or not page.items or backwards or len(collected) >= max(wanted, 1):
            break
        query = [(name, value) for name, value in query if name != cursor] + [(cursor, page.items[-1][0])]
    if page.has_more and not collected:
        raise UpstreamFailed(
            502,
            "list_incomplete",
            f"The first {MAX_PAGES} pages of the server's list contain none of "
            "your objects. Request each object by its id.",
        )
    has_more = page.has_more
    if limit is not None and len(collected) > limit:
        collected, has_more = collected[:limit], True
    return ListPage(collected, has_more, page.is_openai)
