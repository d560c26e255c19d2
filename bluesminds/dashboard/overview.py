"""The overview: what an account spends, whether it works, and how much is left."""

from collections.abc import Callable, Sequence
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from bluesminds.accounts.keys import Keys
from bluesminds.accounts.ledger import Ledger
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
from storage.usage import DAY

LOW_DAYS: Final = 7  # credit that ends sooner has a notice
FOREVER: Final = 2**62
OwnGroup = Annotated[Literal["model", "key", "server"], Meta(description="model, key or server")]


class OverviewQuery(Struct, frozen=True, forbid_unknown_fields=True):
    range: TimeRange = "30d"
    show: Measure = "spend"
    by: OwnGroup = "model"


class BudgetTile(Struct, frozen=True):
    """The use of the most important limit, or the balance, written out. `part` of `whole` is used; without a
    limit, `whole` is 0. `note` is the line below the figure, and `warning` a sentence if it ends too soon.
    """

    title: str
    left: str
    note: str
    part: int = 0
    whole: int = 0
    warning: str = ""


class OverviewPage(Struct, frozen=True):
    """`usage_now` is what "user:ID" uses at this moment. `example_model` is for the example request."""

    frame: Frame
    usage: UsageReports
    keys: Keys
    limits: AccountLimits
    ledger: Ledger
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
        pace = slots.pace(found.rows)
        wallet = await self.ledger.balance(principal.user_id)
        budget = self._budget(report, pace)
        balance = None if wallet is None else _balance(wallet.balance_nano, pace)
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
            budget=budget if balance is None else balance,
            notices=_notices((budget, balance), total, slots.title),
            tabs_of=_choices(query, group_names(self.frame, principal)),
        )

    def _budget(self, report: LimitsReport, pace: int) -> BudgetTile | None:
        """The limit of money that ends first, else that of tokens. `pace` is nano-USD for a day."""
        now = self.clock.now_ms()
        date = self.calendar.date(now)
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
                used = f"{write(found.used)} of {write(found.limit)}"
                left = max(found.limit - found.used, 0)
                warning = f"{title}: {used} is used." if found.used * 10 >= found.limit * 8 else ""
                if name == "usd_per_month" and left and now + _lasts_ms(left, pace) < month:
                    day = words.utc_day(now + _lasts_ms(left, pace))
                    warning = f"{title}: {used} is used. At the current rate, it is used up on {day}."
                note = f"{used}; starts again on {ends}" if ends else used
                return BudgetTile(title, write(left), note, found.used, found.limit, warning)
        return None


def group_names(frame: Frame, principal: Principal) -> Sequence[OwnGroup]:
    """The groups that this caller may see."""
    return ("model", "key", "server") if frame.shows_servers(principal) else ("model", "key")


def require_group(frame: Frame, principal: Principal, group: OwnGroup) -> None:
    """Raises InvalidRequest for servers if the caller may not see their names."""
    if group not in group_names(frame, principal):
        raise InvalidRequest("invalid_value", "by must be model or key.", param="by")


def require_server_filter(frame: Frame, principal: Principal, server: str) -> None:
    """Raises InvalidRequest for a filter by server if the caller may not see the names of servers."""
    if server and not frame.shows_servers(principal):
        raise InvalidRequest("invalid_value", "Only administrators can filter by server.", param="server")


def _balance(nano: int, pace: int) -> BudgetTile:
    """The prepaid credit, and how long it lasts at a pace in nano-USD for a day."""
    title, left = "Credit", words.usd(nano)
    if nano <= 0:
        warning = "The credit is used up. Requests are rejected until credit is added."
        return BudgetTile(title, left, "requests are rejected", warning=warning)
    if not pace:
        return BudgetTile(title, left, "prepaid")
    days = round(_lasts_ms(nano, pace) / DAY)
    lasts = f"about {days:,} {'day' if days == 1 else 'days'}" if days else "less than a day"
    warning = f"The credit of {left} lasts {lasts} at the current rate." if days < LOW_DAYS else ""
    return BudgetTile(title, left, f"lasts {lasts} at the current rate", warning=warning)


def _lasts_ms(nano: int, pace: int) -> int:
    return nano * DAY // pace if pace else FOREVER


def _notices(tiles: Sequence[BudgetTile | None], total: UsageTotal, title: str) -> list[str]:
    found = [tile.warning for tile in tiles if tile is not None and tile.warning]
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
