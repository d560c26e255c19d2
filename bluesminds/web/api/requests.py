"""/api/keys/{key_id}/requests: the usage records of single requests."""

from typing import Annotated, Final

from msgspec import Meta, Struct

from bluesminds.accounts.keys import Keys
from bluesminds.accounts.usage import UsageReports
from bluesminds.common.clock import format_time
from bluesminds.common.crypto import is_uuid
from bluesminds.common.money import write_usd
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import MAX_PAGE, Page, Route, route
from storage.usage import LATEST, UsageRow

_SEARCHED: Final = 500  # rows that are read to find a request
_CLOCK_SKEW: Final = 5_000  # milliseconds between the id of a request and its record


class KeyRequestsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    request_id: Annotated[
        str, Meta(pattern=r"^([A-Za-z0-9._-]{1,64})?\Z", description="the id of a request")
    ] = ""
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE, description=f"a whole number from 1 to {MAX_PAGE}")] = 20


class RequestView(Struct, frozen=True):
    """`cost_usd` is null if the model has no price. `outcome` is "ok" if the response was complete."""

    request_id: str
    at: str
    endpoint: str
    model: str
    status: int
    outcome: str
    streamed: bool
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: str | None
    first_byte_ms: int | None
    duration_ms: int


class RequestHandlers(Struct, frozen=True):
    keys: Keys
    usage: UsageReports

    async def list(self, principal: Principal, query: KeyRequestsQuery, key_id: str) -> Page[RequestView]:
        """List the latest requests of one of your keys, newest first. With `request_id`, only this request;
        the list is empty while it runs.
        """
        key = await self.keys.get(principal.user_id, key_id)
        if not query.request_id:
            rows = await self.usage.of_key(principal.user_id, key.id, before=LATEST, limit=query.limit)
            return Page([_view(row) for row in rows])
        before = _after_id(query.request_id)
        found = await self.usage.of_key(principal.user_id, key.id, before=before, limit=_SEARCHED)
        return Page([_view(row) for row in found if row.request_id == query.request_id])


def routes(handlers: RequestHandlers) -> list[Route]:
    return [route("GET", "/api/keys/{key_id}/requests", Access.SESSION, handlers.list, tag="Keys")]


def _after_id(request_id: str) -> tuple[int, str]:
    """A position after the record of the request. The ids that the gateway makes contain their time."""
    if not is_uuid(request_id):
        return LATEST
    return int(request_id.replace("-", "")[:12], 16) + _CLOCK_SKEW, ""


def _view(row: UsageRow) -> RequestView:
    return RequestView(
        request_id=row.request_id,
        at=format_time(row.at),
        endpoint=row.endpoint,
        model=row.model,
        status=row.status,
        outcome=row.outcome,
        streamed=row.streamed,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        cost_usd=None if row.cost_nano is None else write_usd(row.cost_nano),
        first_byte_ms=row.first_byte_ms,
        duration_ms=row.duration_ms,
    )
