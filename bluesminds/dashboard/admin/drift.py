"""How far the gateway's own count and price are from what servers report."""

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from bluesminds.accounts.usage import UsageReports
from bluesminds.common.money import read_usd
from bluesminds.dashboard.frame import HOME, HTML, Frame, link
from bluesminds.web.api.drift import COST_DRIFT, LEAST_REQUESTS, TOKEN_FACTOR, Drift, drift_of
from bluesminds.web.browser_request import BrowserRequest
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, RawBody, Route, route

_DAYS: Final = ("1", "7", "30", "90")
FilterText = Annotated[str, Meta(max_length=300, description="text of at most 300 characters")]


class DriftPageQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """The last calendar days in UTC, including today."""

    days: Annotated[Literal["1", "7", "30", "90"], Meta(description="1, 7, 30 or 90")] = "7"
    model: FilterText = ""
    server: FilterText = ""


class DriftLine(Struct, frozen=True):
    """Costs are nano-USD."""

    drift: Drift

    @property
    def own_nano(self) -> int:
        return read_usd(self.drift.own_cost_usd)

    @property
    def reported_nano(self) -> int:
        return read_usd(self.drift.reported_cost_usd)


class DriftPage(Struct, frozen=True):
    frame: Frame
    usage: UsageReports

    async def show(
        self, principal: Principal, browser: BrowserRequest, query: DriftPageQuery
    ) -> HandlerResponse[RawBody]:
        """Both meters for each model and server; those that differ come first."""
        rows = [drift_of(row) for row in await self.usage.meters(int(query.days), query.model, query.server)]
        path, filters = "/admin/drift", {"model": query.model, "server": query.server}
        return self.frame.page(
            "drift.html",
            browser,
            principal,
            lines=[DriftLine(row) for row in sorted(rows, key=lambda row: not row.drifting)],
            drifting=sum(row.drifting for row in rows),
            query=query,
            is_filtered=any(filters.values()),
            ranges=[(days, f"{days}d", link(path, days=days, **filters)) for days in _DAYS],
            clear=link(path, days=query.days),
            least=LEAST_REQUESTS,
            cost_drift=f"{COST_DRIFT:.0%}",
            token_factor=f"{TOKEN_FACTOR:.0f}",
        )


def routes(page: DriftPage) -> list[Route]:
    return [route("GET", f"{HOME}/admin/drift", Access.ADMIN, page.show, tag="Pages", media=HTML)]
