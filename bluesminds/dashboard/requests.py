"""Requests: search, filters and pages. Administrators have the same page for those of all users."""

import re
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct, structs

from bluesminds.accounts.usage import UsageReports
from bluesminds.accounts.users import Users
from bluesminds.common.broadcast import Broadcast
from bluesminds.common.clock import format_time
from bluesminds.common.crypto import is_uuid
from bluesminds.common.emails import read_email
from bluesminds.dashboard import words
from bluesminds.dashboard.days import DayText, read_days
from bluesminds.dashboard.frame import HOME, HTML, Frame, address, link
from bluesminds.dashboard.overview import require_server_filter
from bluesminds.web.api.live import EVENTS, event_stream, subscribe_requests
from bluesminds.web.browser_request import BrowserRequest
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, RawBody, Route, StreamBody, route
from storage.usage import LATEST, UsageRow
from storage.usage_log import LogQuery

ROWS: Final = 50
READ: Final = 5_000  # rows that one page reads at most
_TERM: Final = re.compile(r"(model|status|key|server|user):(\S*)")
_STATUS: Final = re.compile(r"ok|failed|[1-5](?:\d\d|xx)?")
_POSITION: Final = r"^(\d{1,18}-[0-9a-f-]{36})?\Z"

FilterText = Annotated[str, Meta(max_length=300, description="text of at most 300 characters")]


class RequestsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """`q` is a request id, with filters such as status:429 in it. `key` is the id of a key. `since` and
    `until` are days in UTC; both are included.
    """

    q: FilterText = ""
    status: FilterText = ""
    model: FilterText = ""
    key: FilterText = ""
    server: FilterText = ""
    since: DayText = ""
    until: DayText = ""
    after: Annotated[str, Meta(pattern=_POSITION, description="a position from a link of this page")] = ""


class RequestsOfAllQuery(RequestsQuery, frozen=True, forbid_unknown_fields=True):
    """`user` is the id or the complete e-mail address of a user."""

    user: Annotated[str, Meta(max_length=254, description="the id or the address of a user, or empty")] = ""


class LiveRow(Struct, frozen=True):
    """A request as the page shows it. `tone` is good, warn or bad. `server` may be empty, and `user_id` is
    empty on the page of one's own requests.
    """

    id: str
    request_id: str
    iso: str
    when: str
    tone: str
    status: str
    model: str
    server: str
    key_id: str
    user_id: str
    tokens_in: str
    tokens_out: str
    first_byte: str
    took: str
    cost: str


class RequestsPage(Struct, frozen=True):
    """`of_all`: the requests of all users instead of those of the reader."""

    frame: Frame
    usage: UsageReports
    users: Users
    requests: Broadcast[UsageRow] | None
    of_all: bool = False

    @property
    def path(self) -> str:
        """Of the list, below HOME."""
        return "/admin/requests" if self.of_all else "/requests"

    async def show(
        self, principal: Principal, browser: BrowserRequest, query: RequestsQuery
    ) -> HandlerResponse[RawBody]:
        """The requests of an account."""
        return await self._list(principal, browser, self._own(principal, query), principal.user_id, "")

    async def show_all(
        self, principal: Principal, browser: BrowserRequest, query: RequestsOfAllQuery
    ) -> HandlerResponse[RawBody]:
        """The requests of all users."""
        user = query.user or _terms(query.q).get("user", "")
        return await self._list(principal, browser, _with_terms(query), await self._id_of(user), user)

    async def live(
        self, principal: Principal, browser: BrowserRequest, query: RequestsQuery
    ) -> HandlerResponse[StreamBody]:
        """Requests that the page shows, as they end: first the newest ones, which it may have missed."""
        search = _log_query(principal.user_id, self._own(principal, query))
        return await self._stream(principal, browser, search)

    async def live_all(
        self, principal: Principal, browser: BrowserRequest, query: RequestsOfAllQuery
    ) -> HandlerResponse[StreamBody]:
        """Requests of all users as they end."""
        user = query.user or _terms(query.q).get("user", "")
        search = _log_query(await self._id_of(user), _with_terms(query))
        return await self._stream(principal, browser, search)

    def _own(self, principal: Principal, query: RequestsQuery) -> RequestsQuery:
        """Raises InvalidRequest."""
        wanted = _with_terms(query)
        require_server_filter(self.frame, principal, wanted.server)
        return wanted

    async def _id_of(self, user: str) -> str | None:
        """The id of a user who is named by id or address. An unknown one has no requests."""
        if "@" not in user:
            return user or None
        email = read_email(user)
        found = await self.users.list(email=email, limit=1) if email else []
        return found[0].id if found else user

    async def _list(
        self,
        principal: Principal,
        browser: BrowserRequest,
        wanted: RequestsQuery,
        user_id: str | None,
        user: str,
    ) -> HandlerResponse[RawBody]:
        found, names = await self.usage.requests(_log_query(user_id, wanted))
        filters = {
            "status": wanted.status,
            "model": wanted.model,
            "key": wanted.key,
            "server": wanted.server,
            "since": wanted.since,
            "until": wanted.until,
            "user": user,
        }
        more = found.next
        keys = names if user_id is not None else {}
        return self.frame.page(
            "requests.html",
            browser,
            principal,
            rows=found.rows,
            names=names,
            keys=sorted(keys.items(), key=lambda one: one[1].lower()),
            query=wanted,
            of_all=self.of_all,
            home=link(self.path),
            user=user,
            emails=await self.users.names({row.user_id for row in found.rows}) if self.of_all else {},
            is_filtered=bool(wanted.q or any(filters.values())),
            is_first_page=not wanted.after,
            exports=[(kind, self._export(kind, wanted, user_id)) for kind in ("csv", "jsonl")],
            is_cut_short=more is not None and len(found.rows) < ROWS,
            looked_back_to=more[0] if more else None,
            first=link(self.path, q=wanted.q, **filters),
            more=link(self.path, q=wanted.q, **filters, after=f"{more[0]}-{more[1]}") if more else "",
        )

    async def _stream(
        self, principal: Principal, browser: BrowserRequest, search: LogQuery
    ) -> HandlerResponse[StreamBody]:
        subscription = subscribe_requests(self.requests, principal, search)
        try:
            found, _ = await self.usage.requests(search)
        except BaseException:
            subscription.close()
            raise
        times, shows_servers = self.frame.times(browser), self.frame.shows_servers(principal)

        def encode(row: UsageRow) -> bytes:
            shown = _live(row, times, shows_servers=shows_servers, shows_users=self.of_all)
            return msgspec.json.encode(shown)

        return event_stream(subscription, encode, found.rows[::-1])

    def _export(self, kind: str, query: RequestsQuery, user_id: str | None) -> str:
        """The address of the API for the same requests."""
        state = {"ok": {"outcome": "ok"}, "failed": {"failed": "true"}}.get(
            query.status, {"status": query.status}
        )
        since, until = read_days(query.since, query.until)
        of_all = {"user": user_id, "server": query.server} if self.of_all else {}
        return address(
            "/api/admin/usage/export" if self.of_all else "/api/usage/export",
            format=kind,
            key=query.key if is_uuid(query.key) else None,
            model=query.model,
            request_id=query.q,
            since=None if since is None else format_time(since),
            until=None if until is None else format_time(until),
            **state,
            **of_all,
        )


def _live(row: UsageRow, times: words.Times, *, shows_servers: bool, shows_users: bool) -> LiveRow:
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
        user_id=row.user_id if shows_users else "",
        tokens_in=str(words.count(row.input_tokens)),
        tokens_out=str(words.count(row.output_tokens)),
        first_byte=words.span(row.first_byte_ms),
        took=words.span(row.duration_ms),
        cost=words.usd(row.cost_nano),
    )


def _log_query(user_id: str | None, query: RequestsQuery) -> LogQuery:
    at, _, id_ = query.after.partition("-")
    status = query.status.removesuffix("xx")
    statuses = None
    if status.isdigit():
        statuses = (int(status) * 100, int(status) * 100 + 99) if len(status) == 1 else (int(status),) * 2
    since, until = read_days(query.since, query.until)
    found = LogQuery(
        limit=ROWS,
        since=since or 0,
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
    return found.until(until)


def _terms(text: str) -> Mapping[str, str]:
    """The filters that are written in a search."""
    return dict(_TERM.findall(text))


def _with_terms(query: RequestsQuery) -> RequestsQuery:
    """The query with the filters that are written in `q`. A status that cannot exist matches nothing."""
    terms = _terms(query.q)
    status = terms.get("status", query.status)
    return RequestsQuery(
        q=" ".join(_TERM.sub("", query.q).split()),
        status=status if not status or _STATUS.fullmatch(status) else "0",
        model=terms.get("model", query.model),
        key=terms.get("key", query.key),
        server=terms.get("server", query.server),
        since=query.since,
        until=query.until,
        after=query.after,
    )


def routes(page: RequestsPage) -> list[Route]:
    path, live = f"{HOME}/requests", f"{HOME}/live/requests"
    of_all = structs.replace(page, of_all=True)
    admin = f"{HOME}/admin"
    return [
        route("GET", path, Access.SESSION, page.show, tag="Pages", media=HTML),
        route("GET", live, Access.SESSION, page.live, tag="Pages", media=EVENTS),
        route("GET", f"{admin}/requests", Access.ADMIN, of_all.show_all, tag="Pages", media=HTML),
        route("GET", f"{admin}/live/requests", Access.ADMIN, of_all.live_all, tag="Pages", media=EVENTS),
    ]
