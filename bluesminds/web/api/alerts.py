"""/api/admin/alerts: rules about figures of the gateway, and their states."""

from collections.abc import Mapping
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from bluesminds.accounts.alerts import AlertChanges, AlertOrigin, Alerts, RuleStatus
from bluesminds.common.alerts import AlertKind, AlertPhase, AlertRule
from bluesminds.common.clock import format_time
from bluesminds.config.settings import AlertName, AlertSeconds, AlertThreshold, AlertWindow
from bluesminds.web.fields import Name
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import Page, Route, route

ChannelNames = Annotated[tuple[Name, ...], Meta(max_length=10, description="a list of names of channels")]
ServerFilter = Annotated[str, Meta(max_length=64, description="the name of a server, or empty")]


class NewAlert(Struct, frozen=True, forbid_unknown_fields=True):
    """Fires if the figure is above `above` for `hold` seconds; see the guide for the kinds."""

    name: AlertName
    kind: AlertKind
    above: AlertThreshold
    window: AlertWindow = 300.0
    hold: AlertSeconds = 60.0
    quiet: AlertSeconds = 3600.0
    channels: ChannelNames = ("mail",)
    server: ServerFilter = ""


class AlertPatch(Struct, frozen=True, forbid_unknown_fields=True):
    """Omitted fields stay the same. The state stays as well, until the next evaluation."""

    kind: AlertKind | UnsetType = UNSET
    above: AlertThreshold | UnsetType = UNSET
    window: AlertWindow | UnsetType = UNSET
    hold: AlertSeconds | UnsetType = UNSET
    quiet: AlertSeconds | UnsetType = UNSET
    channels: ChannelNames | UnsetType = UNSET
    server: ServerFilter | UnsetType = UNSET


class AlertView(Struct, frozen=True):
    """`value` is the last figure; null before the first evaluation. `unsent`: channels that have not got the
    last message yet.
    """

    name: str
    kind: AlertKind
    above: float
    window: float
    hold: float
    quiet: float
    channels: tuple[str, ...]
    server: str
    origin: AlertOrigin
    state: AlertPhase
    since: str | None
    value: float | None
    notified_at: str | None
    unsent: tuple[str, ...]


class AlertTest(Struct, frozen=True):
    """What is wrong with each channel; "" if it took the test."""

    channels: Mapping[str, str]


class AlertHandlers(Struct, frozen=True):
    alerts: Alerts

    async def list(self) -> Page[AlertView]:
        """List the alerts of the configuration and of administrators, with their states."""
        return Page([_view(status) for status in await self.alerts.list()])

    async def create(self, principal: Principal, body: NewAlert) -> NewAlert:
        """Add an alert. It is evaluated every 15 seconds."""
        rule = AlertRule(
            name=body.name,
            kind=body.kind,
            above=body.above,
            window=body.window,
            hold=body.hold,
            quiet=body.quiet,
            channels=body.channels,
            server=body.server,
        )
        await self.alerts.add(principal.actor, rule)
        return body

    async def change(self, principal: Principal, name: str, body: AlertPatch) -> NewAlert:
        """Change an alert that an administrator added."""
        changes = AlertChanges(**{field: getattr(body, field) for field in body.__struct_fields__})
        rule = await self.alerts.change(principal.actor, name, changes)
        return NewAlert(**{field: getattr(rule, field) for field in rule.__struct_fields__})

    async def remove(self, principal: Principal, name: str) -> None:
        """Delete an alert that an administrator added."""
        await self.alerts.remove(principal.actor, name)

    async def test(self, name: str) -> AlertTest:
        """Send a test message to the channels of an alert."""
        return AlertTest(await self.alerts.test(name))


def routes(alerts: Alerts) -> list[Route]:
    tag, path, handlers = "Alerts", "/api/admin/alerts", AlertHandlers(alerts)
    return [
        route("GET", path, Access.ADMIN, handlers.list, tag=tag),
        route("POST", path, Access.ADMIN, handlers.create, tag=tag, status=201),
        route("PATCH", path + "/{name}", Access.ADMIN, handlers.change, tag=tag),
        route("DELETE", path + "/{name}", Access.ADMIN, handlers.remove, tag=tag),
        route("POST", path + "/{name}/test", Access.ADMIN, handlers.test, tag=tag),
    ]


def _view(status: RuleStatus) -> AlertView:
    rule, state = status.rule, status.state
    return AlertView(
        name=rule.name,
        kind=rule.kind,
        above=rule.above,
        window=rule.window,
        hold=rule.hold,
        quiet=rule.quiet,
        channels=rule.channels,
        server=rule.server,
        origin=status.origin,
        state=state.phase,
        since=format_time(state.since or None),
        value=status.value,
        notified_at=format_time(state.notified_at or None),
        unsent=state.unsent,
    )
