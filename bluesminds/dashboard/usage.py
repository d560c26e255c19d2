"""Usage over time: all groups, with filters, and as CSV. Administrators have the same page for all users."""

import csv
import io
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Final, Literal, TypeAlias

from msgspec import Meta, Struct, structs

from bluesminds.accounts.usage import UsageFigures, UsageReports
from bluesminds.accounts.users import Users
from bluesminds.common.clock import Clock, format_time
from bluesminds.common.money import write_usd
from bluesminds.dashboard.frame import HOME, HTML, Frame, link
from bluesminds.dashboard.overview import OwnGroup, group_names, require_group, require_server_filter
from bluesminds.dashboard.series import (
    RANGES,
    Measure,
    TimeRange,
    TimeSlots,
    UsageTotal,
    chart_of,
    groups_of,
    measure_title,
)
from bluesminds.web.browser_request import BrowserRequest
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, RawBody, Route, route

CSV: Final = "text/csv; charset=utf-8"
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")  # spreadsheets run cells that begin with these

SHOWN: Final = 200  # groups in the table
ANY_GROUPS: Final = ("model", "user", "key", "server")

AnyGroup = Annotated[
    Literal["model", "user", "key", "server"], Meta(description="model, user, key or server")
]
Filter = Annotated[str, Meta(max_length=300, description="text of at most 300 characters")]


class UsageFilters(Struct, frozen=True, forbid_unknown_fields=True):
    range: TimeRange = "30d"
    show: Measure = "spend"
    key: Filter = ""
    model: Filter = ""
    server: Filter = ""


class UsagePageQuery(UsageFilters, frozen=True, forbid_unknown_fields=True):
    by: OwnGroup = "model"


class UsageOfAllQuery(UsageFilters, frozen=True, forbid_unknown_fields=True):
    """`user` is the id of a user."""

    by: AnyGroup = "model"
    user: Filter = ""


AnyUsageQuery: TypeAlias = UsagePageQuery | UsageOfAllQuery


class UsagePages(Struct, frozen=True):
    """`of_all`: the usage of all users instead of that of the reader."""

    frame: Frame
    usage: UsageReports
    users: Users
    clock: Clock
    of_all: bool = False

    async def show(
        self, principal: Principal, browser: BrowserRequest, query: UsagePageQuery
    ) -> HandlerResponse[RawBody]:
        """Usage over time."""
        require_group(self.frame, principal, query.by)
        require_server_filter(self.frame, principal, query.server)
        return await self._page(principal, browser, query, principal.user_id)

    async def show_all(
        self, principal: Principal, browser: BrowserRequest, query: UsageOfAllQuery
    ) -> HandlerResponse[RawBody]:
        """Usage of all users over time."""
        return await self._page(principal, browser, query, query.user or None)

    async def csv(self, principal: Principal, query: UsagePageQuery) -> HandlerResponse[RawBody]:
        """The figures of the page, a line for each hour or day and group."""
        require_group(self.frame, principal, query.by)
        require_server_filter(self.frame, principal, query.server)
        return await self._csv(query, principal.user_id)

    async def csv_all(self, query: UsageOfAllQuery) -> HandlerResponse[RawBody]:
        """The figures of the page, a line for each hour or day and group."""
        return await self._csv(query, query.user or None)

    async def _page(
        self, principal: Principal, browser: BrowserRequest, query: AnyUsageQuery, user_id: str | None
    ) -> HandlerResponse[RawBody]:
        slots, found = await self._figures(query, user_id)
        names = await self._names(query, found)
        groups = groups_of(found.rows, query.show, names)
        path = "/admin/usage" if self.of_all else "/usage"
        groupings: Sequence[str] = ANY_GROUPS if self.of_all else group_names(self.frame, principal)
        return self.frame.page(
            "usage.html",
            browser,
            principal,
            slots=slots,
            query=query,
            of_all=self.of_all,
            user=_user(query),
            title=measure_title(query.show),
            total=UsageTotal.of(found.rows),
            before=UsageTotal.of(found.before),
            groups=groups[:SHOWN],
            left_out=max(len(groups) - SHOWN, 0),
            names={**found.key_names, **names},
            at=partial(_at, path, query),
            chart=chart_of(slots, found.rows, groups, query.show) if found.rows else None,
            csv=_at(f"{path}.csv", query),
            tabs_of={
                "ranges": [(name, name, _at(path, query, range=name)) for name in RANGES],
                "measures": [
                    (name, name.capitalize(), _at(path, query, show=name))
                    for name in ("spend", "requests", "tokens")
                ],
                "groupings": [(name, f"By {name}", _at(path, query, by=name)) for name in groupings],
            },
        )

    async def _names(self, query: AnyUsageQuery, found: UsageFigures) -> Mapping[str, str]:
        """The names of the groups, and that of the user whose usage is shown."""
        if query.by == "key":
            return found.key_names
        ids = {row.label for row in found.rows} if query.by == "user" else set()
        return await self.users.names((ids | {_user(query)}) - {""})

    async def _csv(self, query: AnyUsageQuery, user_id: str | None) -> HandlerResponse[RawBody]:
        _, found = await self._figures(query, user_id)
        names = await self._names(query, found)
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(
            ("time", query.by, "requests", "failed", "input_tokens", "output_tokens", "cost_usd", "unpriced")
        )
        for row in found.rows:
            name = names.get(row.label, row.label)
            writer.writerow(
                (
                    format_time(row.bucket),
                    f"'{name}" if name.startswith(_FORMULA) else name,
                    row.requests,
                    row.errors,
                    row.input_tokens,
                    row.output_tokens,
                    write_usd(row.cost_nano),
                    row.unpriced,
                )
            )
        attachment = f'attachment; filename="usage-{query.range}-by-{query.by}.csv"'
        return HandlerResponse(
            RawBody(text.getvalue().encode(), CSV), headers=(("content-disposition", attachment),)
        )

    async def _figures(self, query: AnyUsageQuery, user_id: str | None) -> tuple[TimeSlots, UsageFigures]:
        slots = TimeSlots.until_now(query.range, self.clock.now_ms())
        search = slots.query(query.by, user_id, key_id=query.key, model=query.model, server=query.server)
        return slots, await self.usage.figures(search)


def _user(query: AnyUsageQuery) -> str:
    return query.user if isinstance(query, UsageOfAllQuery) else ""


def _at(path: str, query: AnyUsageQuery, **changed: str) -> str:
    given: Mapping[str, str] = {
        "range": query.range,
        "show": query.show,
        "by": query.by,
        "key": query.key,
        "model": query.model,
        "server": query.server,
        "user": _user(query),
    }
    return link(path, **{**given, **changed})


def routes(pages: UsagePages) -> list[Route]:
    own, admin = f"{HOME}/usage", f"{HOME}/admin/usage"
    of_all = structs.replace(pages, of_all=True)
    return [
        route("GET", own, Access.SESSION, pages.show, tag="Pages", media=HTML),
        route("GET", f"{own}.csv", Access.SESSION, pages.csv, tag="Pages", media=CSV),
        route("GET", admin, Access.ADMIN, of_all.show_all, tag="Pages", media=HTML),
        route("GET", f"{admin}.csv", Access.ADMIN, of_all.csv_all, tag="Pages", media=CSV),
    ]
