"""Usage statistics, the usage log and costs: a user's own at /api/usage and /api/costs, those of all users at
/api/admin/usage and /api/admin/costs.
"""

from collections.abc import AsyncIterator
from typing import Final

from msgspec import Struct

from bluesminds.accounts.usage import UsageReports
from bluesminds.web.api.usage_export import export_csv, export_jsonl
from bluesminds.web.api.usage_schemas import (
    CostsView,
    ExportFilter,
    ExportFilterForAll,
    LoggedRequest,
    LogPaging,
    LogPagingForAll,
    StatsFilter,
    StatsFilterForAll,
    UsageStatsView,
    costs_view,
    cursor_of,
    log_query,
    log_views,
    stats_query,
    stats_view,
)
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, Page, Route, StreamBody, route

JSON_LINES: Final = "application/jsonl"


class UsageHandlers(Struct, frozen=True):
    """Handlers for a user's own usage, and with `all` in the name for that of all users."""

    reports: UsageReports

    async def stats(self, principal: Principal, query: StatsFilter) -> UsageStatsView:
        """Totals and percentiles of your requests, by one or two groups.

        The totals cover whole days in UTC. By hour, and over at most two days that do not start at midnight,
        they cover whole hours.
        """
        return await self._stats(query, principal.user_id)

    async def stats_of_all(self, query: StatsFilterForAll) -> UsageStatsView:
        """Totals and percentiles of the requests of all users, by one or two groups.

        The totals cover whole days in UTC. By hour, and over at most two days that do not start at midnight,
        they cover whole hours.
        """
        return await self._stats(query, None)

    async def _stats(self, query: StatsFilter, owner: str | None) -> UsageStatsView:
        wanted = stats_query(query, owner, self.reports.last_days(query.days))
        return stats_view(await self.reports.stats(wanted), wanted.groups)

    async def log(self, principal: Principal, query: LogPaging) -> Page[LoggedRequest]:
        """List your requests, newest first.

        A page can have less rows than `limit` and still have a next page, because a page searches a limited
        number of rows.
        """
        return await self._log(query, principal.user_id, full=False)

    async def log_of_all(self, query: LogPagingForAll) -> Page[LoggedRequest]:
        """List the requests of all users, newest first.

        A page can have less rows than `limit` and still have a next page, because a page searches a limited
        number of rows.
        """
        return await self._log(query, None, full=True)

    async def _log(self, query: LogPaging, owner: str | None, *, full: bool) -> Page[LoggedRequest]:
        page = await self.reports.page(log_query(query, owner, limit=query.limit, after=query.after))
        return Page(log_views(page, full=full), cursor_of(page.next))

    async def export(self, principal: Principal, query: ExportFilter) -> HandlerResponse[StreamBody]:
        """Download your requests as CSV or JSON lines, newest first."""
        return await self._export(query, principal.user_id, full=False)

    async def export_all(self, query: ExportFilterForAll) -> HandlerResponse[StreamBody]:
        """Download the requests of all users as CSV or JSON lines, newest first."""
        return await self._export(query, None, full=True)

    async def _export(
        self, query: ExportFilter, owner: str | None, *, full: bool
    ) -> HandlerResponse[StreamBody]:
        pages = self.reports.log(log_query(query, owner))
        chunks: AsyncIterator[bytes]
        if query.format == "csv":
            chunks, kind = export_csv(pages, full=full), "text/csv; charset=utf-8"
        else:
            chunks, kind = export_jsonl(pages, full=full), JSON_LINES
        disposition = f'attachment; filename="usage.{query.format}"'
        return HandlerResponse(StreamBody(chunks, kind), headers=(("content-disposition", disposition),))

    async def costs(self, principal: Principal) -> CostsView:
        """Your costs in the current month, and a forecast."""
        return costs_view(await self.reports.costs(principal.user_id))

    async def costs_of_key(self, principal: Principal, key_id: str) -> CostsView:
        """The costs of one of your keys in the current month, and a forecast."""
        return costs_view(await self.reports.costs(principal.user_id, key_id))

    async def costs_of_all(self) -> CostsView:
        """The costs of all users in the current month, and a forecast."""
        return costs_view(await self.reports.costs(None))

    async def costs_of_any_key(self, key_id: str) -> CostsView:
        """The costs of a key in the current month, and a forecast."""
        return costs_view(await self.reports.costs(None, key_id))


def routes(handlers: UsageHandlers) -> list[Route]:
    tag, csv, jsonl = "Usage", "text/csv", (JSON_LINES,)
    own, every, site = Access.SESSION, Access.ADMIN, "/api/admin"
    return [
        route("GET", "/api/usage/stats", own, handlers.stats, tag=tag),
        route("GET", "/api/usage/logs", own, handlers.log, tag=tag),
        route("GET", "/api/usage/export", own, handlers.export, tag=tag, media=csv, other_media=jsonl),
        route("GET", "/api/costs", own, handlers.costs, tag=tag),
        route("GET", "/api/costs/{key_id}", own, handlers.costs_of_key, tag=tag),
        route("GET", f"{site}/usage/stats", every, handlers.stats_of_all, tag=tag),
        route("GET", f"{site}/usage/logs", every, handlers.log_of_all, tag=tag),
        route(
            "GET", f"{site}/usage/export", every, handlers.export_all, tag=tag, media=csv, other_media=jsonl
        ),
        route("GET", f"{site}/costs", every, handlers.costs_of_all, tag=tag),
        route("GET", f"{site}/costs/{{key_id}}", every, handlers.costs_of_any_key, tag=tag),
    ]
