"""Usage of an account over time: all groups, with filters, and as CSV."""

import csv
import io
from collections.abc import Mapping
from typing import Annotated, Final

from msgspec import Meta, Struct

from bluesminds.accounts.usage import UsageFigures, UsageReports
from bluesminds.common.clock import Clock, format_time
from bluesminds.common.money import write_usd
from bluesminds.dashboard.frame import HOME, HTML, Frame, link
from bluesminds.dashboard.overview import OwnGroup, group_names, require_group
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

Filter = Annotated[str, Meta(max_length=300, description="text of at most 300 characters")]


class UsagePageQuery(Struct, frozen=True, forbid_unknown_fields=True):
    range: TimeRange = "30d"
    show: Measure = "spend"
    by: OwnGroup = "model"
    key: Filter = ""
    model: Filter = ""
    server: Filter = ""


class UsagePages(Struct, frozen=True):
    frame: Frame
    usage: UsageReports
    clock: Clock

    async def show(
        self, principal: Principal, browser: BrowserRequest, query: UsagePageQuery
    ) -> HandlerResponse[RawBody]:
        """Usage over time."""
        slots, found = await self._figures(principal, query)
        groups = groups_of(found.rows, query.show, found.key_names if query.by == "key" else {})
        return self.frame.page(
            "usage.html",
            browser,
            principal,
            slots=slots,
            query=query,
            title=measure_title(query.show),
            total=UsageTotal.of(found.rows),
            groups=groups,
            names=found.key_names,
            chart=chart_of(slots, found.rows, groups, query.show) if found.rows else None,
            csv=_at("/usage.csv", query),
            tabs_of={
                "ranges": [(name, name, _at("/usage", query, range=name)) for name in RANGES],
                "measures": [
                    (name, name.capitalize(), _at("/usage", query, show=name))
                    for name in ("spend", "requests", "tokens")
                ],
                "groupings": [
                    (name, f"By {name}", _at("/usage", query, by=name))
                    for name in group_names(self.frame, principal)
                ],
            },
        )

    async def csv(self, principal: Principal, query: UsagePageQuery) -> HandlerResponse[RawBody]:
        """The figures of the page, a line for each hour or day and group."""
        _, found = await self._figures(principal, query)
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(
            ("time", query.by, "requests", "failed", "input_tokens", "output_tokens", "cost_usd", "unpriced")
        )
        for row in found.rows:
            name = found.key_names.get(row.label, row.label) if query.by == "key" else row.label
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

    async def _figures(self, principal: Principal, query: UsagePageQuery) -> tuple[TimeSlots, UsageFigures]:
        require_group(self.frame, principal, query.by)
        slots = TimeSlots.until_now(query.range, self.clock.now_ms())
        search = slots.query(
            query.by, principal.user_id, key_id=query.key, model=query.model, server=query.server
        )
        return slots, await self.usage.figures(search)


def _at(path: str, query: UsagePageQuery, **changed: str) -> str:
    given: Mapping[str, str] = {
        "range": query.range,
        "show": query.show,
        "by": query.by,
        "key": query.key,
        "model": query.model,
        "server": query.server,
    }
    return link(path, **{**given, **changed})


def routes(pages: UsagePages) -> list[Route]:
    return [
        route("GET", f"{HOME}/usage", Access.SESSION, pages.show, tag="Pages", media=HTML),
        route("GET", f"{HOME}/usage.csv", Access.SESSION, pages.csv, tag="Pages", media=CSV),
    ]
