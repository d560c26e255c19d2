"""The operator's HTTP API in the process of a command, when no gateway runs."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from msgspec import structs

from bluesminds.accounts.audit import Actor
from bluesminds.app.data_plane import build_routing
from bluesminds.app.prices import PriceLoader
from bluesminds.app.routing import Routing
from bluesminds.app.services import Services, open_services
from bluesminds.app.settings_map import configured_server, file_routes
from bluesminds.common.clock import Clock
from bluesminds.common.errors import Unavailable
from bluesminds.common.log import Log
from bluesminds.common.prompts import LoggedPrompt
from bluesminds.common.routes import ModelRoute
from bluesminds.common.values import InUse, Server
from bluesminds.config import ConfigError, Secret, Settings
from bluesminds.gateway.replay import ReplayResult
from bluesminds.gateway.routing.catalog import ModelCatalog, merge_servers
from bluesminds.gateway.routing.explain import Explanation, RouteQuestion
from bluesminds.gateway.routing.fleet import FleetHealth
from bluesminds.gateway.routing.health import UNKNOWN, ServerStatus
from bluesminds.gateway.routing.server_keys import ServerKeyRegistry
from bluesminds.gateway.server_test import test_server
from bluesminds.gateway.upstream.entra import EntraTokens
from bluesminds.http.asgi import ASGIApp
from bluesminds.providers.vendors import from_environment
from bluesminds.web.api import GatewayControls, api_routes, build_guard, build_handlers
from bluesminds.web.api.doctor import DoctorReport
from bluesminds.web.api.reload import ReloadReport
from bluesminds.web.app import create_app
from bluesminds.web.guard import mark_operator
from storage.prompt_log import PromptRow

MODEL_LIST_SECONDS = 10.0  # how long a command waits for the servers' model lists


@asynccontextmanager
async def open_operator_api(settings: Settings, *, clock: Clock, log: Log) -> AsyncIterator[ASGIApp]:
    """Raises StateBusy when another process holds the state directory, BadState, BadDatabaseURL, ConfigError
    for a deferred secret, and StorageError.
    """
    async with open_services(settings, clock=clock, log=log) as services:
        yield mark_operator(_build_control(services))


def _build_control(services: Services) -> ASGIApp:
    problems: dict[str, str] = {}
    controls = GatewayControls(
        list_servers=partial(_list_servers, services, problems),
        server_status=partial(_server_status, problems),
        key_status=ServerKeyRegistry().statuses,
        servers_changed=_noop,
        test_server=partial(
            test_server,
            services.pool,
            services.clock,
            EntraTokens(services.pool, services.settings.upstream.entra_url),
            seconds=services.settings.upstream.probe_timeout,
        ),
        price_book=PriceLoader(services).load,
        prices_changed=_noop,
        usage_now=_no_usage,
        list_routes=partial(_list_routes, services),
        routes_changed=_noop,
        catalog=partial(_load_catalog, services),
        explain=partial(_explain, services),
        fleet_health=FleetHealth,
        probe_now=_noop,
        requests=None,
        log=None,
        open_backup=services.backups.open,
        run_doctor=_refuse_doctor,
        reload=_refuse_reload,
        replay=_refuse_replay,
    )
    guard = build_guard(services.accounts, public_url=services.settings.server.public_url)
    handlers = build_handlers(services.accounts, controls, services.clock)
    routes = api_routes(services.accounts, controls, handlers, services.clock)
    return create_app(routes, guard, clock=services.clock, log=services.log)


async def _list_servers(services: Services, problems: dict[str, str]) -> list[Server]:
    """All servers. `problems` gets the reason for each one whose API key cannot be read."""
    return merge_servers(_configured(services, problems), await services.accounts.servers.load())


def _configured(services: Services, problems: dict[str, str]) -> list[Server]:
    keyless = services.settings.keyless.enabled
    configured = []
    for row in services.settings.servers:
        if row.mode != "off":
            try:
                server = configured_server(row, demo_url="", keyless=keyless)
            except ConfigError as exc:
                problems[row.name] = str(exc)
                unread = structs.replace(row, api_key=Secret(""), api_keys=(), headers=None)
                server = configured_server(unread, demo_url="", keyless=keyless)
            configured.append(server)
    return configured


async def _list_routes(services: Services) -> Sequence[ModelRoute]:
    return (*file_routes(services.settings), *await services.accounts.routes.load())


async def _load_catalog(services: Services) -> ModelCatalog:
    return (await _load_routing(services)).registry.catalog


async def _explain(services: Services, question: RouteQuestion) -> Explanation:
    return await (await _load_routing(services)).explain(question)


async def _load_routing(services: Services) -> Routing:
    """Reads the models of the servers. The demo server only runs inside a gateway."""
    problems: dict[str, str] = {}
    configured = [one for one in _configured(services, problems) if one.url and one.name not in problems]
    if not services.settings.servers:
        configured = from_environment(os.environ)
    routing = build_routing(services, configured)
    await routing.discover_models(MODEL_LIST_SECONDS)
    return routing


def _server_status(problems: dict[str, str], name: str) -> ServerStatus:
    return ServerStatus("unusable", None, problems[name]) if name in problems else UNKNOWN


def _no_usage(subject: str) -> InUse:
    """Without a running gateway nothing is in use."""
    return InUse()


async def _refuse_doctor() -> DoctorReport:
    raise Unavailable(
        "gateway_not_running", "No gateway is running. Run `bluesminds doctor` instead.", retry=False
    )


async def _refuse_reload(actor: Actor) -> ReloadReport:
    raise Unavailable(
        "gateway_not_running", "No gateway is running. Its next start reads the configuration.", retry=False
    )


async def _refuse_replay(
    kept: PromptRow, prompt: LoggedPrompt, *, path: str, model: str | None, client: str
) -> ReplayResult:
    raise Unavailable("gateway_not_running", "No gateway is running. Start it first.", retry=False)


async def _noop() -> None:
    """Without a running gateway there is nothing to reload."""
