"""The audit log, the tiers, and the state and settings of the gateway."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct, structs

from bluesminds import __version__
from bluesminds.accounts.audit import AuditLog
from bluesminds.accounts.limits import AccountLimits, SharedBudget
from bluesminds.accounts.usage import UsageReports
from bluesminds.accounts.users import Users
from bluesminds.common.clock import Clock
from bluesminds.common.crypto import is_uuid
from bluesminds.common.emails import read_email
from bluesminds.common.values import LimitSet
from bluesminds.config import SettingOrigin, Settings
from bluesminds.dashboard import words
from bluesminds.dashboard.frame import HOME, HTML, Frame, link
from bluesminds.dashboard.keys import LIMIT_FIELDS
from bluesminds.dashboard.series import TimeSlots, UsageTotal
from bluesminds.gateway.supervision import TaskSupervisor
from bluesminds.web.browser_request import BrowserRequest
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, RawBody, Route, route
from storage.audit import AuditQuery, ChainedAuditRow

ROWS: Final = 50
_NEWEST: Final = 2**62
_HIDDEN: Final = frozenset(("servers", "prices", "routes", "routes_short", "tiers"))  # have own pages

FilterText = Annotated[str, Meta(max_length=200, description="at most 200 characters")]


class AuditPageQuery(Struct, frozen=True, forbid_unknown_fields=True):
    actor: FilterText = ""
    action: FilterText = ""
    subject: FilterText = ""
    after: Annotated[str, Meta(pattern=r"^[0-9]{0,18}\Z", description="the number of an entry")] = ""


class AuditChange(Struct, frozen=True):
    """One field of a change, written out."""

    name: str
    before: str
    after: str


class AuditLine(Struct, frozen=True):
    entry: ChainedAuditRow
    changes: list[AuditChange]


class TaskLine(Struct, frozen=True):
    """A background task. `restarts`: how often it has failed. `error`: why it waits for its restart, if it
    does.
    """

    name: str
    restarts: int
    error: str


class SettingLine(Struct, frozen=True):
    """`origin` is empty for a default."""

    name: str
    value: str
    origin: str


class SystemPages(Struct, frozen=True):
    """`checks` are those of /ready. `gauges` are figures of the running gateway by name. `database_files`:
    the sizes of files in bytes by name. `origins`: where each setting comes from, by names like server.port.
    """

    frame: Frame
    audit: AuditLog
    limits: AccountLimits
    usage: UsageReports
    users: Users
    settings: Settings
    engine: str
    clock: Clock
    started_ms: int
    checks: Callable[[], Awaitable[Mapping[str, str]]]
    gauges: Callable[[], Mapping[str, int]]
    tasks: TaskSupervisor
    database_files: Callable[[], Mapping[str, int]]
    origins: Mapping[str, SettingOrigin]

    async def show_audit(
        self, principal: Principal, browser: BrowserRequest, query: AuditPageQuery
    ) -> HandlerResponse[RawBody]:
        """The audit log, newest first."""
        before = int(query.after) if query.after else _NEWEST
        actor, subject = await self._id_of(query.actor), await self._id_of(query.subject)
        rows = await self.audit.page(
            AuditQuery(before, ROWS + 1, actor or None, query.action or None, subject or None)
        )
        ids = {one for row in rows for one in (row.row.actor, row.row.subject) if is_uuid(one)}
        filters = {"actor": query.actor, "action": query.action, "subject": query.subject}
        more = ""
        if len(rows) > ROWS:
            more = link("/admin/audit", **filters, after=str(rows[ROWS - 1].position.seq))
        return self.frame.page(
            "audit.html",
            browser,
            principal,
            lines=[AuditLine(row, _changes(row.row.detail)) for row in rows[:ROWS]],
            names=await self.users.names(ids),
            query=query,
            is_filtered=any(filters.values()),
            more=more,
            first=link("/admin/audit", **filters),
        )

    async def _id_of(self, text: str) -> str:
        """The id of the user with this e-mail address; any other text as it is."""
        email = read_email(text) if "@" in text else None
        found = await self.users.list(email=email, after="", limit=1) if email else []
        return found[0].id if found else text

    async def show_tiers(self, principal: Principal, browser: BrowserRequest) -> HandlerResponse[RawBody]:
        """The tiers with their limits, and what their accounts may use together."""
        shared = await self.limits.shared_budgets()
        return self.frame.page(
            "tiers.html",
            browser,
            principal,
            limit_names=[label for _, label in LIMIT_FIELDS],
            tiers=[(name, _limits(limits)) for name, limits in self.limits.tiers.items()],
            default=self.settings.accounts.default_tier,
            shared=[line for name, found in shared.items() for line in _shared(name, found)],
        )

    async def show_system(self, principal: Principal, browser: BrowserRequest) -> HandlerResponse[RawBody]:
        """The state and the settings of the gateway."""
        now = self.clock.now_ms()
        slots = TimeSlots.until_now("24h", now)
        found = await self.usage.figures(slots.query("none", None))
        return self.frame.page(
            "system.html",
            browser,
            principal,
            version=__version__,
            engine={"sqlite": "SQLite", "postgres": "PostgreSQL"}[self.engine],
            uptime=words.long_span((now - self.started_ms) / 1000),
            checks=await self.checks(),
            gauges=self.gauges(),
            tasks=[
                TaskLine(name, count, self.tasks.down.get(name, ""))
                for name, count in sorted(self.tasks.restarts.items())
            ],
            state_dir=str(self.settings.state_dir),
            files=self.database_files(),
            total=UsageTotal.of(found.rows),
            sections=_sections(self.settings, self.origins),
        )


def _changes(detail: str) -> list[AuditChange]:
    found: dict[str, dict[str, Any]] = msgspec.json.decode(detail)
    before, after = found.get("before", {}), found.get("after", {})
    return [
        AuditChange(name, _written(before.get(name)), _written(after.get(name)))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def _written(value: object) -> str:
    if value is None:
        return words.NO_VALUE
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


class SharedLine(Struct, frozen=True):
    """What all accounts of a tier used of what they may use together, in nano-USD."""

    tier: str
    period: str
    used: int
    limit: int


def _shared(tier: str, found: SharedBudget) -> list[SharedLine]:
    lines = (
        SharedLine(tier, "today", found.used_today, found.per_day),
        SharedLine(tier, "this month", found.used_this_month, found.per_month),
    )
    return [line for line in lines if line.limit]


def _limits(limits: LimitSet) -> list[str]:
    values = structs.asdict(limits)
    return [
        (words.usd if name.startswith("usd") else words.count)(values[name]) if values[name] else "no limit"
        for name, _ in LIMIT_FIELDS
    ]


def _sections(
    settings: Settings, origins: Mapping[str, SettingOrigin]
) -> list[tuple[str, int, list[SettingLine]]]:
    """The sections with the number of settings that are not defaults. Secrets are masked by their type."""
    sections = []
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        if isinstance(value, Struct) and name not in _HIDDEN:
            lines = [
                SettingLine(one, _setting(getattr(value, one)), _origin(origins.get(f"{name}.{one}")))
                for one in value.__struct_fields__
            ]
            sections.append((name, sum(bool(line.origin) for line in lines), lines))
    return sections


def _origin(origin: SettingOrigin | None) -> str:
    return "" if origin is None or origin.kind == "default" else str(origin)


def _setting(value: object) -> str:
    match value:
        case None:
            return "not set"
        case bool():
            return "true" if value else "false"
        case tuple() | list():
            return ", ".join(map(str, value)) or "none"
    return str(value)


def routes(pages: SystemPages) -> list[Route]:
    admin = f"{HOME}/admin"
    return [
        route("GET", f"{admin}/audit", Access.ADMIN, pages.show_audit, tag="Pages", media=HTML),
        route("GET", f"{admin}/tiers", Access.ADMIN, pages.show_tiers, tag="Pages", media=HTML),
        route("GET", f"{admin}/system", Access.ADMIN, pages.show_system, tag="Pages", media=HTML),
    ]
