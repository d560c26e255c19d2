"""The requests of an account: search, filters and pages."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from bluesminds.accounts.prompts import Prompts
from bluesminds.accounts.usage import UsageReports
from bluesminds.common.broadcast import Broadcast
from bluesminds.common.crypto import is_uuid
from bluesminds.common.money import read_usd
from bluesminds.dashboard import words
from bluesminds.dashboard.frame import HOME, HTML, Frame, address, link
from bluesminds.dashboard.keys import LIMIT_FIELDS
from bluesminds.web.api.live import EVENTS, event_stream, subscribe_requests
from bluesminds.web.api.requests import ReceiptCost, RequestHandlers
from bluesminds.web.browser_request import BrowserRequest
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, RawBody, Route, StreamBody, route
from storage.usage import LATEST, UsageRow
from storage.usage_log import LogQuery

ROWS: Final = 50
READ: Final = 5_000  # rows that one page reads at most
DROP_REASONS: Final = {
    "model_not_allowed": "the key may not use this model",
    "unknown_model": "no server offers this model",
    "unknown_server": "the server does not exist, or is not enabled",
    "other_server": "the request refers to something at another server",
    "no_endpoint": "the server does not have the endpoint",
    "not_listed": "the server does not list the model, and another one does",
    "duplicate": "an earlier model has the same server",
    "unsupported": "the server does not support a field of the request",
}
_TERM: Final = re.compile(r"(model|status|key|server):(\S*)")
_STATUS: Final = re.compile(r"ok|failed|[1-5](?:\d\d|xx)?")
_POSITION: Final = r"^(\d{1,18}-[0-9a-f-]{36})?\Z"

FilterText = Annotated[str, Meta(max_length=300, description="text of at most 300 characters")]


class RequestsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """`q` is a request id, with filters such as status:429 in it. `key` is the id of a key."""

    q: FilterText = ""
    status: FilterText = ""
    model: FilterText = ""
    key: FilterText = ""
    server: FilterText = ""
    after: Annotated[str, Meta(pattern=_POSITION, description="a position from a link of this page")] = ""


class LiveRow(Struct, frozen=True):
    """A request as the page shows it. `tone` is good, warn or bad. `server` may be empty."""

    id: str
    request_id: str
    iso: str
    when: str
    tone: str
    status: str
    model: str
    server: str
    key_id: str
    tokens_in: str
    tokens_out: str
    first_byte: str
    took: str
    cost: str


class RequestsPage(Struct, frozen=True):
    """`prompts` is None if no prompts are kept."""

    frame: Frame
    usage: UsageReports
    receipts: RequestHandlers
    requests: Broadcast[UsageRow] | None
    prompts: Prompts | None

    async def one(
        self, principal: Principal, browser: BrowserRequest, request_id: str
    ) -> HandlerResponse[RawBody]:
        """One request with its receipt: where it was sent, and what it cost."""
        record = await self.usage.request(
            request_id, None if principal.role == "admin" else principal.user_id
        )
        view = await self.receipts.show(principal, request_id)
        receipt = view.receipt
        return self.frame.page(
            "receipt.html",
            browser,
            principal,
            row=record.row,
            repriced=record.repriced,
            view=view,
            receipt=receipt,
            costs=[] if receipt is None else _costs(receipt.cost),
            reasons=DROP_REASONS,
            limit_names=dict(LIMIT_FIELDS),
            prompt=await self._prompt(principal, record.row),
        )

    async def _prompt(self, principal: Principal, row: UsageRow) -> str:
        """The address of the request in the prompt log; "" if it is not there, or not for this user."""
        is_own = row.user_id == principal.user_id
        if self.prompts is None or not (is_own or self.prompts.administrators_read):
            return ""
        if not await self.prompts.has(row.id):
            return ""
        return f"{HOME}{'' if is_own else '/admin'}/prompts/{row.id}"

    async def show(
        self, principal: Principal, browser: BrowserRequest, query: RequestsQuery
    ) -> HandlerResponse[RawBody]:
        """The requests of an account."""
        wanted = _with_terms(query)
        found, names = await self.usage.requests(_log_query(principal.user_id, wanted))
        filters = {"status": wanted.status, "model": wanted.model, "key": wanted.key, "server": wanted.server}
        more = found.next
        return self.frame.page(
            "requests.html",
            browser,
            principal,
            rows=found.rows,
            names=names,
            keys=sorted(names.items(), key=lambda one: one[1].lower()),
            query=wanted,
            is_filtered=bool(wanted.q or any(filters.values())),
            is_first_page=not query.after,
            exports=[(kind, _export(kind, wanted)) for kind in ("csv", "jsonl")],
            is_cut_short=more is not None and len(found.rows) < ROWS,
            looked_back_to=more[0] if more else None,
            first=link("/requests", q=wanted.q, **filters),
            more=link("/requests", q=wanted.q, **filters, after=f"{more[0]}-{more[1]}") if more else "",
        )

    async def live(
        self, principal: Principal, browser: BrowserRequest, query: RequestsQuery
    ) -> HandlerResponse[StreamBody]:
        """Requests that the page shows, as they end: first the newest ones, which it may have missed."""
        search = _log_query(principal.user_id, _with_terms(query))
        subscription = subscribe_requests(self.requests, principal, search)
        try:
            found, _ = await self.usage.requests(search)
        except BaseException:
            subscription.close()
            raise
        times, shows_servers = self.frame.times(browser), self.frame.shows_servers(principal)

        def encode(row: UsageRow) -> bytes:
            return msgspec.json.encode(_live(row, times, shows_servers=shows_servers))

        return event_stream(subscription, encode, found.rows[::-1])


def _live(row: UsageRow, times: words.Times, *, shows_servers: bool) -> LiveRow:
    tone, status = words.request_state(row.status, row.outcome)
    tries = f" ({row.attempts} tries)" if row.attempts > 1 else ""
    return LiveRow(
        id=row.id,
        request_id=row.request_id,
        iso=times.iso(row.at),
        when=times.clock(row.at),
        tone=tone,
        status=status,
        model=row.model or words.NO_VALUE,
        server=f"{row.server or words.NO_VALUE}{tries}" if shows_servers else "",
        key_id=row.key_id,
        tokens_in=str(words.count(row.input_tokens)),
        tokens_out=str(words.count(row.output_tokens)),
        first_byte=words.span(row.first_byte_ms),
        took=words.span(row.duration_ms),
        cost=words.usd(row.cost_nano),
    )


def _export(kind: str, query: RequestsQuery) -> str:
    """The address of the API for the same requests."""
    state = {"ok": {"outcome": "ok"}, "failed": {"failed": "true"}}.get(
        query.status, {"status": query.status}
    )
    return address(
        "/api/usage/export",
        format=kind,
        key=query.key if is_uuid(query.key) else None,
        model=query.model,
        request_id=query.q,
        **state,
    )


def _log_query(user_id: str, query: RequestsQuery) -> LogQuery:
    at, _, id_ = query.after.partition("-")
    status = query.status.removesuffix("xx")
    statuses = None
    if status.isdigit():
        statuses = (int(status) * 100, int(status) * 100 + 99) if len(status) == 1 else (int(status),) * 2
    return LogQuery(
        limit=ROWS,
        before=(int(at), id_) if id_ else LATEST,
        user_id=user_id,
        key_id=query.key or None,
        request_id=query.q or None,
        model=query.model or None,
        server=query.server or None,
        statuses=statuses,
        failed={"ok": False, "failed": True}.get(query.status),
        scan=READ,
    )


class CostLine(Struct, frozen=True):
    """A quantity at a rate in nano-USD for a million units. `parts`: units in one of the quantity."""

    name: str
    tokens: int
    price: int
    parts: int = 1

    @property
    def amount(self) -> str:
        """USD with all digits."""
        return exact_cost(self.tokens * self.price * (1000 // self.parts))


_UNITS: Final[Mapping[str, str]] = {
    "input": "Input",
    "cached_input": "Input from the cache",
    "cache_write": "Input to the cache",
    "cache_write_hour": "Input to the cache, for an hour",
    "output": "Output",
    "reasoning": "Reasoning",
    "audio_input": "Audio input",
    "audio_output": "Audio output",
    "image_input": "Image input",
    "image_output": "Image output",
    "image": "Images",
    "second": "Audio, in milliseconds",
    "character": "Characters",
    "request": "Requests",
}


def _costs(lines: Sequence[ReceiptCost]) -> list[CostLine]:
    return [
        CostLine(_UNITS[one.unit], one.quantity, read_usd(one.rate_usd), 1000 if one.unit == "second" else 1)
        for one in lines
    ]


def exact_cost(parts: int) -> str:
    """USD of thousandths of what a million units cost in nano-USD, with all digits."""
    whole, fraction = divmod(parts, 10**18)
    return f"${whole}.{f'{fraction:018}'.rstrip('0').ljust(2, '0')}"


def _with_terms(query: RequestsQuery) -> RequestsQuery:
    """The query with the filters that are written in `q`. A status that cannot exist matches nothing."""
    terms: Mapping[str, str] = dict(_TERM.findall(query.q))
    status = terms.get("status", query.status)
    return RequestsQuery(
        q=" ".join(_TERM.sub("", query.q).split()),
        status=status if not status or _STATUS.fullmatch(status) else "0",
        model=terms.get("model", query.model),
        key=terms.get("key", query.key),
        server=terms.get("server", query.server),
        after=query.after,
    )


def routes(page: RequestsPage) -> list[Route]:
    path = f"{HOME}/requests"
    return [
        route("GET", path, Access.SESSION, page.show, tag="Pages", media=HTML),
        route("GET", f"{HOME}/live/requests", Access.SESSION, page.live, tag="Pages", media=EVENTS),
        route("GET", f"{path}/{{request_id}}", Access.SESSION, page.one, tag="Pages", media=HTML),
    ]
