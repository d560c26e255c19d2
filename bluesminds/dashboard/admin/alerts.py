"""Alerts: the rules, their states and their channels."""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from bluesminds.accounts.alerts import Alerts
from bluesminds.common.alerts import UNITS, AlertKind
from bluesminds.dashboard.frame import HOME, HTML, Frame
from bluesminds.web.browser_request import BrowserRequest
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, RawBody, Route, route

FIGURES: Final[Mapping[AlertKind, str]] = {
    "error_share": "Failed requests, in %",
    "latency": "Average duration of requests, in seconds",
    "server": "Servers that are down",
    "queue": "Requests that wait for a server",
    "budget": "Used part of a shared budget, in %",
    "drift": "Difference between reported and computed costs, in %",
}


class AlertsPage(Struct, frozen=True):
    frame: Frame
    alerts: Alerts

    async def list(self, principal: Principal, browser: BrowserRequest) -> HandlerResponse[RawBody]:
        """All alerts."""
        return self.frame.page(
            "alerts.html",
            browser,
            principal,
            rows=await self.alerts.list(),
            channels=self.alerts.channels,
            units=UNITS,
            figures=FIGURES,
        )


def routes(frame: Frame, alerts: Alerts) -> list[Route]:
    page = AlertsPage(frame, alerts)
    return [route("GET", f"{HOME}/admin/alerts", Access.ADMIN, page.list, tag="Pages", media=HTML)]
