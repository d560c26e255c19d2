"""API keys: the list, and one key with its limits and use."""

from collections.abc import Callable, Sequence
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from bluesminds.accounts.key_reports import KeyReport, KeyReports
from bluesminds.accounts.keys import Keys
from bluesminds.accounts.limits import AccountLimits
from bluesminds.accounts.usage import UsageReports
from bluesminds.common.clock import Calendar, Clock
from bluesminds.common.crypto import UUID
from bluesminds.common.money import write_usd
from bluesminds.common.values import InUse, LimitSet, read_limits
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
from storage.keys import KeyRow

ROWS: Final = 50
LIMIT_FIELDS: Final = (
    ("usd_per_month", "Budget per month, USD"),
    ("usd_per_day", "Budget per day, USD"),
    ("usd_total", "Budget in total, USD"),
    ("rpm", "Requests per minute"),
    ("tpm", "Tokens per minute"),
    ("concurrency", "Requests at once"),
    ("tokens_per_day", "Tokens per day"),
    ("tokens_per_month", "Tokens per month"),
)

BUDGETS: Final = frozenset(
    ("usd_per_month", "usd_per_day", "usd_total", "tokens_per_day", "tokens_per_month")
)


class KeysQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """`new` opens the form for a new key."""

    show: Annotated[Literal["active", "all"], Meta(description="active or all")] = "active"
    after: Annotated[str, Meta(pattern=rf"^({UUID})?\Z", description="the id of a key")] = ""
    new: Annotated[Literal["", "1"], Meta(description="1 or empty")] = ""


class KeyQueryOfPage(Struct, frozen=True, forbid_unknown_fields=True):
    range: TimeRange = "30d"
    show: Measure = "spend"


class KeyLine(Struct, frozen=True):
    """A key in the list. `note` is its state, "" for an ordinary one."""

    report: KeyReport
    budget: int
    note: str


class KeyLimitField(Struct, frozen=True):
    """A field of the limits: its own value, and `hint`, what applies if it is empty."""

    name: str
    label: str
    value: str
    hint: str
    kind: str
    used: str
    is_used_up: bool = False


class KeysPages(Struct, frozen=True):
    """`usage_now` is what "key:ID" or "user:ID" uses at this moment."""

    frame: Frame
    keys: Keys
    reports: KeyReports
    limits: AccountLimits
    usage: UsageReports
    calendar: Calendar
    clock: Clock
    usage_now: Callable[[str], InUse]
    example_model: Callable[[], str | None]

    async def list(
        self, principal: Principal, browser: BrowserRequest, query: KeysQuery
    ) -> HandlerResponse[RawBody]:
        """The keys of an account."""
        active = True if query.show == "active" else None
        found = await self.reports.list(principal.user_id, active=active, after=query.after, limit=ROWS + 1)
        now = self.clock.now_ms()
        times = words.Times(browser.zone, now)
        return self.frame.page(
            "keys.html",
            browser,
            principal,
            lines=[_line(report, now, times) for report in found[:ROWS]],
            more=link("/keys", show=query.show, after=found[ROWS - 1].key.id) if len(found) > ROWS else "",
            is_first_page=not query.after,
            show=query.show,
            opens=query.new == "1",
            limit_fields=[(name, label, limit_kind(name)) for name, label in LIMIT_FIELDS],
            month=words.month_name(self.calendar.date(now).month),
            examples=examples(self.frame.base_url(browser), self.example_model()),
        )

    async def one(
        self, principal: Principal, browser: BrowserRequest, query: KeyQueryOfPage, key_id: str
    ) -> HandlerResponse[RawBody]:
        """One key."""
        key = await self.keys.get(principal.user_id, key_id)
        now = self.clock.now_ms()
        slots = TimeSlots.until_now(query.range, now)
        found = await self.usage.figures(slots.query("model", key.user_id, key_id=key.id), latest=6)
        groups = groups_of(found.rows, query.show, {})
        path = f"/keys/{key.id}"
        fields = await self._limit_fields(key, principal.user_id)
        return self.frame.page(
            "key.html",
            browser,
            principal,
            key=key,
            note=_note(key, now, words.Times(browser.zone, now)),
            is_active=_is_active(key, now),
            has_previous=(key.previous_until or 0) > now,
            fields=fields,
            used_up=[one.label.removesuffix(", USD").lower() for one in fields if one.is_used_up],
            slots=slots,
            show=query.show,
            title=measure_title(query.show),
            total=UsageTotal.of(found.rows),
            chart=chart_of(slots, found.rows, groups, query.show) if found.rows else None,
            latest=found.latest,
            examples=examples(self.frame.base_url(browser), self.example_model()),
            ranges=[(name, name, link(path, range=name, show=query.show)) for name in RANGES],
            measures=[
                (name, name.capitalize(), link(path, range=query.range, show=name))
                for name in ("spend", "requests", "tokens")
            ],
        )

    async def _limit_fields(self, key: KeyRow, owner: str) -> Sequence[KeyLimitField]:
        own, report = read_limits(key.limits), await self.limits.of_key(key.id, owner, self.usage_now)
        fields = []
        for name, label in LIMIT_FIELDS:
            found, write = report.limits[name], words.usd if name.startswith("usd") else words.count
            effective = f"{write(found.limit)}, as your account" if found.limit else "no limit"
            fields.append(
                KeyLimitField(
                    name=name,
                    label=label,
                    value=written_limit(own, name),
                    hint=effective,
                    kind=limit_kind(name),
                    used=f"{write(found.used)} used" if found.limit and found.used else "",
                    is_used_up=bool(found.limit) and found.used >= found.limit and name in BUDGETS,
                )
            )
        return fields


def limit_kind(name: str) -> str:
    return "usd" if name.startswith("usd") else "int"


def written_limit(limits: LimitSet, name: str) -> str:
    value: int = getattr(limits, name)
    if not value:
        return ""
    return write_usd(value) if name.startswith("usd") else str(value)


def _line(report: KeyReport, now: int, times: words.Times) -> KeyLine:
    return KeyLine(report, read_limits(report.key.limits).usd_per_month, _note(report.key, now, times))


def _is_active(key: KeyRow, now: int) -> bool:
    return key.revoked_at is None and (key.expires_at is None or key.expires_at > now)


def _note(key: KeyRow, now: int, times: words.Times) -> str:
    if key.revoked_at is not None:
        return "revoked"
    if key.expires_at is not None:
        return f"{'expired' if key.expires_at <= now else 'expires'} {times.day(key.expires_at)}"
    if key.previous_until is not None and key.previous_until > now:
        return f"old secret until {times.minute(key.previous_until)}"
    return ""


def routes(pages: KeysPages) -> list[Route]:
    return [
        route("GET", f"{HOME}/keys", Access.SESSION, pages.list, tag="Pages", media=HTML),
        route("GET", f"{HOME}/keys/{{key_id}}", Access.SESSION, pages.one, tag="Pages", media=HTML),
    ]
