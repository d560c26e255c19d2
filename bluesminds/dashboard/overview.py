"""The overview: what an account spends, whether it works, and how much is left."""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct

from bluesminds.accounts.keys import Keys
from bluesminds.accounts.limits import AccountLimits, LimitsReport
from bluesminds.accounts.usage import UsageReports
from bluesminds.common.clock import Calendar, Clock
from bluesminds.common.errors import InvalidRequest
from bluesminds.common.values import InUse
from bluesminds.dashboard import words
from bluesminds.dashboard.examples import examples
from bluesminds.dashboard.frame import HOME, HTML, Frame, link
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

OwnGroup = Annotated[Literal["model", "key", "server"], Meta(description="model, key or server")]


class OverviewQuery(Struct, frozen=True, forbid_unknown_fields=True):
    range: TimeRange = "30d"
    show: Measure = "spend"
    by: OwnGroup = "model"


class BudgetTile(Struct, frozen=True):
    """The use of the most important limit, written out. `part` of `whole` is used."""

    title: str
    left: str
    used: str
    limit: str
    ends: str
    part: int
    whole: int


class OverviewPage(Struct, frozen=True):
    """`usage_now` is what "user:ID" uses at this moment. `example_model` is for the example request."""

    frame: Frame
    usage: UsageReports
    keys: Keys
    limits: AccountLimits
    calendar: Calendar
    clock: Clock
    usage_now: Callable[[str], InUse]
    example_model: Callable[[], str | None]

    async def show(
        self, principal: Principal, browser: BrowserRequest, query: OverviewQuery
    ) -> HandlerResponse[RawBody]:
        """The overview."""
        require_group(self.frame, principal, query.by)
        slots = TimeSlots.until_now(query.range, self.clock.now_ms())
        found = await self.usage.figures(slots.query(query.by, principal.user_id), latest=6)
        report = await self.limits.of_user(principal.user_id, self.usage_now)
        groups = groups_of(found.rows, query.show, found.key_names if query.by == "key" else {})
        total = UsageTotal.of(found.rows)
        is_new = not total.requests and not found.latest
        keys = await self.keys.list(principal.user_id, active=True, limit=1) if is_new else []
        budget = self._budget(report)
        return self.frame.page(
            "overview.html",
            browser,
            principal,
            slots=slots,
            show=query.show,
            by=query.by,
            title=measure_title(query.show),
            total=total,
            before=UsageTotal.of(found.before),
            lines={
                "spend": slots.values(found.rows, lambda row: row.cost_nano),
                "requests": slots.values(found.rows, lambda row: row.requests),
                "errors": slots.values(found.rows, lambda row: row.errors),
                "tokens": slots.values(found.rows, lambda row: row.tokens),
            },
            chart=chart_of(slots, found.rows, groups, query.show) if found.rows else None,
            groups=groups,
            latest=found.latest,
            is_new=is_new,
            first_key=keys[0] if keys else None,
            examples=examples(self.frame.base_url(browser), self.example_model()),
            budget=budget,
            notices=_notices(budget, total, slots.title),
            tabs_of=_choices(query, group_names(self.frame, principal)),
        )

    def _budget(self, report: LimitsReport) -> BudgetTile | None:
        """The limit of money that ends first, else that of tokens."""
        date = self.calendar.date(self.clock.now_ms())
        month, tomorrow = self.calendar.end_of_month(date.month), date.ends
        for name, title, ends in (
            ("usd_per_month", f"Budget of {words.month_name(date.month)}", words.utc_day(month)),
            ("usd_per_day", "Budget of today", ""),
            ("usd_total", "Budget", ""),
            ("tokens_per_month", f"Tokens of {words.month_name(date.month)}", words.utc_day(month)),
            ("tokens_per_day", "Tokens of today", words.utc_day(tomorrow)),
        ):
            found = report.limits[name]
            if found.limit:
                write = words.usd if name.startswith("usd") else words.short
                return BudgetTile(
                    title=title,
                    left=write(max(found.limit - found.used, 0)),
                    used=write(found.used),
                    limit=write(found.limit),
                    ends=ends,
                    part=found.used,
                    whole=found.limit,
                )
        return None


def group_names(frame: Frame, principal: Principal) -> Sequence[OwnGroup]:
    """The groups that this caller may see."""
    return ("model", "key", "server") if frame.shows_servers(principal) else ("model", "key")


def require_group(frame: Frame, principal: Principal, group: OwnGroup) -> None:
    """Raises InvalidRequest for servers if the caller may not see their names."""
    if group not in group_names(frame, principal):
        raise InvalidRequest("invalid_value", "by must be model or key.", param="by")


def _notices(budget: BudgetTile | None, total: UsageTotal, title: str) -> list[str]:
    found = []
    if budget is not None and budget.part * 10 >= budget.whole * 8:
        found.append(f"{budget.title}: {budget.used} of {budget.limit} is used.")
    if total.unpriced:
        answers = "1 response has" if total.unpriced == 1 else f"{total.unpriced:,} responses have"
        found.append(f"{answers} no price. Their cost is not in the spend of the last {title}.")
    return found


def _choices(query: OverviewQuery, groups: Sequence[OwnGroup]) -> dict[str, list[tuple[str, str, str]]]:
    """The tabs: value, text and address."""

    def at(**changed: str) -> str:
        return link("", **({"range": query.range, "show": query.show, "by": query.by} | changed))

    return {
        "ranges": [(name, name, at(range=name)) for name in RANGES],
        "measures": [(name, name.capitalize(), at(show=name)) for name in ("spend", "requests", "tokens")],
        "groupings": [(name, f"By {name}", at(by=name)) for name in groups],
    }


def routes(page: OverviewPage) -> list[Route]:
    return [route("GET", HOME, Access.SESSION, page.show, tag="Pages", media=HTML)]
