"""Reads the configuration again while the gateway runs.

The new configuration is checked completely and then replaces servers, routes, prices, limits of tiers, alerts
and the level of the log in one step without an `await`. The files of the certificate are read too. A
configuration with a problem changes nothing. All other settings only change at a restart.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import trio
from msgspec import Struct, structs

from bluesminds.accounts.audit import OPERATOR, Actor
from bluesminds.app.discovery import configured_servers
from bluesminds.app.errors import BadCertificate
from bluesminds.app.routing import Routing
from bluesminds.app.services import Services
from bluesminds.app.settings_map import (
    alert_channels,
    alert_rules,
    configured_prices,
    file_routes,
    tier_limits,
    tier_markups,
)
from bluesminds.common.values import LimitSet, Server
from bluesminds.config import ConfigError, Problem, SettingOrigin, Settings
from bluesminds.gateway.metrics import Metrics
from bluesminds.gateway.probe import probe
from bluesminds.http.client.pool import UpstreamOrigin
from bluesminds.web.api.reload import ConfigProblem, ReloadReport
from bluesminds.wire.models import ModelRow
from storage.base import StorageError

LIVE: Final = ("servers", "routes", "routes_short", "prices", "tiers", "alerts")
"""The tables that a reload applies."""
_LIVE_SETTING: Final = "log.level"
# Counters for these exist only if they were set at the start.
_SHARED: Final = ("shared_usd_per_day", "shared_usd_per_month")
WATCH_SECONDS: Final = 2.0
DISCOVERY_SECONDS: Final = 2.0  # how long a reload waits for the models of new servers


class ConfigSource(Struct, frozen=True):
    """Where the settings come from. `load` raises ConfigError and blocks. `path`: None without a file.
    `demo_url`: of the running demo server, or "". `origins`: where each setting came from at the start.
    `load_certificate` reads the listener's certificate again, and raises BadCertificate.
    """

    load: Callable[[], Settings]
    path: Path | None
    environ: Mapping[str, str]
    demo_url: str
    origins: Mapping[str, SettingOrigin]
    load_certificate: Callable[[], None]


class ConfigReloader:
    """One reload runs at a time. `accepted`: whether the last one was accepted."""

    def __init__(
        self,
        services: Services,
        routing: Routing,
        source: ConfigSource,
        metrics: Metrics,
        use_tiers: Callable[[Mapping[str, LimitSet], Mapping[str, int]], None],
    ) -> None:
        self._use_tiers = use_tiers
        self._services = services
        self._routing = routing
        self._prices = routing.price_loader
        self._source = source
        self._settings = services.settings
        self._lock = trio.Lock()
        self._loaded_ms = services.clock.now_ms()
        self.accepted = True
        metrics.gauge(
            "bluesminds_config_accepted",
            "1 if the last reload of the configuration was accepted.",
            lambda: float(self.accepted),
        )
        metrics.gauge(
            "bluesminds_config_loaded_seconds",
            "Unix time at which the configuration in force was loaded.",
            lambda: self._loaded_ms / 1000,
        )

    async def reload(self, actor: Actor) -> ReloadReport:
        """Never raises for what is wrong with the configuration or the database."""
        async with self._lock:
            try:
                settings = await trio.to_thread.run_sync(self._source.load)
                restart = tuple(self._needs_restart(settings))
                await self._apply(_live(self._services.settings, settings))
            except ConfigError as exc:
                return self._reject(exc.problems)
            except BadCertificate as exc:
                return self._reject([Problem("", str(exc), "check both files, and reload again")])
            except StorageError as exc:
                return self._reject([Problem("", str(exc), "check that the database runs")])
            self.accepted = True
            self._loaded_ms = self._services.clock.now_ms()
            await self._record(actor)
        self._services.log.info("config_reloaded", restart=list(restart))
        return self._report((), restart)

    def state(self) -> str:
        """For /ready, which all callers can read."""
        return "ok" if self.accepted else "rejected; the earlier configuration is in force"

    async def watch(self) -> None:
        """Reload when the file has changed, until cancelled."""
        path = self._source.path
        if path is None or not self._services.settings.server.watch_config:
            return
        seen = await trio.to_thread.run_sync(_version, path)
        while True:
            await trio.sleep(WATCH_SECONDS)
            now = await trio.to_thread.run_sync(_version, path)
            if now != seen:
                seen = now
                await self.reload(OPERATOR)

    async def _apply(self, settings: Settings) -> None:
        """Raises ConfigError, BadCertificate and StorageError; then nothing has changed."""
        problems = list(self._check(settings))
        if problems:
            raise ConfigError(problems)
        source, pool = self._source, self._services.pool
        servers = await configured_servers(settings, pool, source.environ, source.demo_url)
        discovered = await self._discover(servers)
        lines = configured_prices(settings)
        book = await self._prices.read(lines)
        source.load_certificate()
        await self._routing.registry.configure(servers, file_routes(settings), discovered)
        # No await follows, so that a request sees servers, routes and prices of one configuration.
        self._prices.configured = lines
        self._routing.prices.book = book
        self._routing.registry.rebuild()
        self._use_tiers(tier_limits(settings), tier_markups(settings))
        if (alerts := self._services.accounts.alerts) is not None:
            alerts.configure(alert_rules(settings), alert_channels(settings))
        self._services.log.set_level(settings.log.level)
        self._settings = settings

    def _check(self, settings: Settings) -> Iterator[Problem]:
        for row in settings.servers:
            if row.dialect == "demo" and row.mode != "off" and not self._source.demo_url:
                message = f'[[servers]] "{row.name}" is a demo server, which only starts with the gateway'
                yield Problem("", message, "restart the gateway")
            elif row.url is not None:
                try:
                    UpstreamOrigin.parse(row.url)
                except ValueError as exc:
                    message = f'url in [[servers]] "{row.name}" cannot be used: {exc}'
                    yield Problem("", message, "write it like https://host:port/path")

    async def _discover(self, servers: Sequence[Server]) -> dict[str, list[ModelRow]]:
        """The models of servers that are new or have changed, and do not name them."""
        known = {server.name: server for server in self._routing.registry.servers}
        found: dict[str, list[ModelRow]] = {}

        async def ask(server: Server) -> None:
            result = await probe(self._services.pool, server, seconds=DISCOVERY_SECONDS, list_models=True)
            found[server.name] = result.models or []

        async with trio.open_nursery() as nursery:
            for server in servers:
                if not server.models and known.get(server.name) != server:
                    nursery.start_soon(ask, server)
        return found

    async def _record(self, actor: Actor) -> None:
        try:
            await self._services.accounts.audit.add(
                self._services.clock, actor, "config.reload", "configuration"
            )
        except StorageError as exc:
            self._services.log.warning("config_reload_not_recorded", reason=str(exc))

    def _needs_restart(self, settings: Settings) -> Iterator[str]:
        for name in Settings.__struct_fields__:
            before, after = getattr(self._services.settings, name), getattr(settings, name)
            if before == after:
                continue
            for changed in _changed(name, before, after):
                # Without mail, webhooks and alerts at the start, nothing evaluates rules.
                unused = name == "alerts" and self._services.accounts.alerts is None
                if unused or not is_live(changed):
                    yield changed

    def _reject(self, problems: Sequence[Problem]) -> ReloadReport:
        self.accepted = False
        self._services.log.error("config_rejected", problems=[str(one) for one in problems])
        return self._report(tuple(ConfigProblem(one.where, one.message, one.help) for one in problems), ())

    def _report(self, problems: tuple[ConfigProblem, ...], restart: tuple[str, ...]) -> ReloadReport:
        settings = self._settings
        return ReloadReport(
            accepted=not problems,
            problems=problems,
            restart=restart,
            servers=len(self._routing.registry.catalog.servers),
            routes=len(self._routing.registry.routes),
            prices=len(settings.prices),
        )


def is_live(setting: str) -> bool:
    """Whether a reload applies a setting, such as "server.port"."""
    return setting == _LIVE_SETTING or (setting.partition(".")[0] in LIVE and not setting.endswith(_SHARED))


def _live(before: Settings, after: Settings) -> Settings:
    """The earlier settings with those of `after` that a reload applies."""
    log = structs.replace(before.log, level=after.log.level)
    return structs.replace(before, log=log, **{name: getattr(after, name) for name in LIVE})


def _changed(name: str, before: object, after: object) -> Iterator[str]:
    """The names of the settings that differ, such as "server.port"."""
    if not isinstance(before, Struct) or not isinstance(after, Struct):
        yield name
        return
    for field in before.__struct_fields__:
        one, other = getattr(before, field), getattr(after, field)
        if one != other:
            yield from _changed(f"{name}.{field}", one, other)


def _version(path: Path) -> tuple[int, int, int] | None:
    """What differs after a change of the file. None: it cannot be read."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
