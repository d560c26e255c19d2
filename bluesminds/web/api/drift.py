"""/api/admin/drift: how far the gateway's own count and price are from what servers report."""

from typing import Annotated, Final

from msgspec import Meta, Struct

from bluesminds.accounts.usage import MAX_DAYS, UsageReports
from bluesminds.common.money import write_usd
from bluesminds.web.api.usage_schemas import FilterName
from bluesminds.web.guard import Access
from bluesminds.web.routes import Page, Route, route
from storage.usage_meters import MeterRow

LEAST_REQUESTS: Final = 20  # fewer requests prove no drift
COST_DRIFT: Final = 0.1  # the share by which the costs may differ
TOKEN_FACTOR: Final = 3.0  # the gateway's count is only an approximation


class DriftQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """The last `days` calendar days in UTC, including today."""

    days: Annotated[int, Meta(ge=1, le=MAX_DAYS, description=f"a whole number from 1 to {MAX_DAYS}")] = 7
    model: FilterName | None = None
    server: FilterName | None = None


class Drift(Struct, frozen=True):
    """Both meters of the same requests to a model at a server. A ratio is the server's sum divided by the
    gateway's; null if the gateway's sum is 0. `output` only counts requests without reasoning, because a
    server may hide reasoning. `own_cost_usd` is without a markup. `drifting`: of at least 20 requests, the
    costs differ by more than a tenth, or tokens by more than the factor 3.
    """

    model: str
    server: str
    requests: int
    own_input_tokens: int
    reported_input_tokens: int
    input_ratio: float | None
    own_output_tokens: int
    reported_output_tokens: int
    output_ratio: float | None
    requests_with_cost: int
    own_cost_usd: str
    reported_cost_usd: str
    cost_ratio: float | None
    quarantined: int
    drifting: bool


class DriftHandlers(Struct, frozen=True):
    reports: UsageReports

    async def list(self, query: DriftQuery) -> Page[Drift]:
        """Compare the gateway's own count and price with what servers report."""
        rows = await self.reports.meters(query.days, query.model or "", query.server or "")
        return Page([drift_of(row) for row in rows])


def drift_of(row: MeterRow) -> Drift:
    input_ratio = _ratio(row.reported_input, row.own_input)
    output_ratio = _ratio(row.reported_output, row.own_output)
    cost_ratio = _ratio(row.reported_cost_nano, row.own_cost_nano)
    costs_differ = (
        row.costed >= LEAST_REQUESTS
        and abs(row.reported_cost_nano - row.own_cost_nano) > COST_DRIFT * row.own_cost_nano
    )
    tokens_differ = row.compared >= LEAST_REQUESTS and any(
        ratio is not None and not 1 / TOKEN_FACTOR <= ratio <= TOKEN_FACTOR
        for ratio in (input_ratio, output_ratio)
    )
    return Drift(
        model=row.model,
        server=row.server,
        requests=row.compared,
        own_input_tokens=row.own_input,
        reported_input_tokens=row.reported_input,
        input_ratio=input_ratio,
        own_output_tokens=row.own_output,
        reported_output_tokens=row.reported_output,
        output_ratio=output_ratio,
        requests_with_cost=row.costed,
        own_cost_usd=write_usd(row.own_cost_nano),
        reported_cost_usd=write_usd(row.reported_cost_nano),
        cost_ratio=cost_ratio,
        quarantined=row.quarantined,
        drifting=costs_differ or tokens_differ,
    )


def _ratio(reported: int, own: int) -> float | None:
    return round(reported / own, 4) if own else None


def routes(handlers: DriftHandlers) -> list[Route]:
    return [route("GET", "/api/admin/drift", Access.ADMIN, handlers.list, tag="Usage")]
