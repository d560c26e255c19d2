"""Servers: their health and use, and one server."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from bluesminds.accounts.usage import UsageReports
from bluesminds.common.clock import Clock
from bluesminds.common.errors import NotFound
from bluesminds.dashboard.frame import HOME, HTML, Frame
from bluesminds.dashboard.series import TimeSlots, UsageTotal, chart_of, groups_of
from bluesminds.gateway.routing.fleet import FleetHealth
from bluesminds.providers.vendors import VENDORS
from bluesminds.web.api.models import ModelHandlers
from bluesminds.web.api.server_schemas import ServerView
from bluesminds.web.api.servers import ServerHandlers
from bluesminds.web.browser_request import BrowserRequest
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, RawBody, Route, route
from storage.usage_series import SeriesRow

_TAG: Final = "Pages"


class RunningRequests(Struct, frozen=True):
    """Connections with a request, of at most `capacity`."""

    running: int = 0
    capacity: int = 0


class ServerLine(Struct, frozen=True):
    """A server with its requests of the last 24 hours; `hours` are the requests of each hour. `running` says
    how many of its connections have a request now.
    """

    server: ServerView
    running: RunningRequests
    total: UsageTotal
    hours: Sequence[int]


class ServersPages(Struct, frozen=True):
    frame: Frame
    servers: ServerHandlers
    models: ModelHandlers
    usage: UsageReports
    clock: Clock
    health: Callable[[], FleetHealth]

    async def list(self, principal: Principal, browser: BrowserRequest) -> HandlerResponse[RawBody]:
        """All servers."""
        views = (await self.servers.list()).data
        slots = TimeSlots.until_now("24h", self.clock.now_ms())
        by_server = await self._last_day(slots)
        running = self._running()
        lines = [
            ServerLine(
                view,
                running.get(view.name, RunningRequests()),
                UsageTotal.of(by_server.get(view.name, [])),
                slots.values(by_server.get(view.name, []), lambda row: row.requests),
            )
            for view in views
        ]
        return self.frame.page(
            "servers.html",
            browser,
            principal,
            lines=sorted(lines, key=lambda line: (line.server.state != "down", line.server.name)),
            down=[view for view in views if view.state in ("down", "unusable") and view.mode != "off"],
            vendors=sorted((vendor.name, vendor.title) for vendor in VENDORS.values()),
        )

    async def one(self, principal: Principal, browser: BrowserRequest, name: str) -> HandlerResponse[RawBody]:
        """One server."""
        view = next((view for view in (await self.servers.list()).data if view.name == name), None)
        if view is None:
            raise NotFound("server_not_found", f"There is no server named {name}.")
        slots = TimeSlots.until_now("24h", self.clock.now_ms())
        found = await self.usage.figures(slots.query("model", None, server=name))
        groups = groups_of(found.rows, "requests", {})
        models = [row for row in (await self.models.list()).data if name in row.servers]
        return self.frame.page(
            "server.html",
            browser,
            principal,
            server=view,
            running=self._running().get(name, RunningRequests()),
            slots=slots,
            total=UsageTotal.of(found.rows),
            chart=chart_of(slots, found.rows, groups, "requests") if found.rows else None,
            models=models,
            only_here=[row.id for row in models if row.servers == [name]],
        )

    def _running(self) -> Mapping[str, RunningRequests]:
        return {one.name: RunningRequests(one.running, one.capacity) for one in self.health().servers}

    async def _last_day(self, slots: TimeSlots) -> Mapping[str, Sequence[SeriesRow]]:
        by_server: dict[str, list[SeriesRow]] = {}
        for row in (await self.usage.figures(slots.query("server", None))).rows:
            by_server.setdefault(row.label, []).append(row)
        return by_server


def routes(pages: ServersPages) -> list[Route]:
    admin = f"{HOME}/admin"
    return [
        route("GET", f"{admin}/servers", Access.ADMIN, pages.list, tag=_TAG, media=HTML),
        route("GET", f"{admin}/servers/{{name}}", Access.ADMIN, pages.one, tag=_TAG, media=HTML),
    ]
