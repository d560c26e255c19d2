"""Builds the dashboard from the services and the running gateway."""

from collections.abc import Awaitable, Callable, Mapping

from msgspec import Struct

from bluesminds.app.routing import Routing
from bluesminds.app.services import Services
from bluesminds.app.settings_map import mail_backend
from bluesminds.config import SettingOrigin
from bluesminds.dashboard import (
    billing,
    credit,
    keys,
    models,
    overview,
    playground,
    prompts,
    receipts,
    requests,
    settings,
    statements,
    usage,
    webhooks,
)
from bluesminds.dashboard.admin import alerts, codes, drift, mail, prices, servers, system, users
from bluesminds.dashboard.admin import routes as model_routes
from bluesminds.dashboard.assets import PageAssets
from bluesminds.dashboard.frame import HOME, Frame
from bluesminds.gateway.supervision import TaskSupervisor
from bluesminds.web.api import GatewayControls, SharedHandlers
from bluesminds.web.app import BrowserPages
from bluesminds.web.routes import Route


class Dashboard(Struct, frozen=True):
    """`pages` redirects browsers to the dashboard and writes its errors."""

    routes: list[Route]
    pages: BrowserPages


class SystemState(Struct, frozen=True):
    """`checks` are those of /ready, `gauges` figures of the running gateway by name. `database_files`: the
    sizes of the files of the database in bytes by name, empty if it is elsewhere. `origins`: where each
    setting comes from.
    """

    checks: Callable[[], Awaitable[Mapping[str, str]]]
    gauges: Callable[[], Mapping[str, int]]
    tasks: TaskSupervisor
    database_files: Callable[[], Mapping[str, int]]
    origins: Mapping[str, SettingOrigin]


def build_dashboard(
    services: Services,
    routing: Routing,
    controls: GatewayControls,
    handlers: SharedHandlers,
    state: SystemState,
) -> Dashboard | None:
    """None if the settings turn it off."""
    if not services.settings.dashboard.enabled:
        return None
    assets = PageAssets()
    frame = Frame(
        assets,
        public_url=services.settings.server.public_url,
        servers_down=lambda: routing.states()["down"],
        expose_servers=services.settings.server.expose_server,
        left_out=_left_out(services),
        clock=services.clock,
    )
    routes = [
        *assets.routes(),
        *_activity_pages(services, frame, routing, controls, handlers),
        *_account_pages(services, frame, routing, controls),
        *_server_pages(services, frame, controls, handlers),
        *_admin_pages(services, frame, controls, state),
        *_webhook_pages(services, frame),
        *([] if services.accounts.alerts is None else alerts.routes(frame, services.accounts.alerts)),
        *_billing_pages(services, frame),
    ]
    return Dashboard(routes, BrowserPages(HOME, frame.error))


def _billing_pages(services: Services, frame: Frame) -> list[Route]:
    found = services.accounts.billing
    return (
        [] if found is None else billing.routes(billing.BillingPages(frame, found, services.accounts.users))
    )


def _webhook_pages(services: Services, frame: Frame) -> list[Route]:
    found = services.accounts.webhooks
    return [] if found is None else webhooks.routes(frame, found)


def _left_out(services: Services) -> frozenset[str]:
    """Icons of the pages that the settings do not enable."""
    enabled = {
        "prompts": services.settings.prompt_log.retention_days > 0,
        "webhooks": services.accounts.webhooks is not None,
        "alerts": services.accounts.alerts is not None,
        "subscription": services.accounts.billing is not None,
        "sales": services.accounts.billing is not None,
        "mail": services.settings.mail.configured,
    }
    return frozenset(icon for icon, is_enabled in enabled.items() if not is_enabled)


def _activity_pages(
    services: Services,
    frame: Frame,
    routing: Routing,
    controls: GatewayControls,
    handlers: SharedHandlers,
) -> list[Route]:
    """What a user does with models."""
    accounts = services.accounts
    return [
        *overview.routes(
            overview.OverviewPage(
                frame=frame,
                usage=accounts.usage,
                keys=accounts.keys,
                limits=accounts.limits,
                ledger=accounts.ledger,
                calendar=services.calendar,
                clock=services.clock,
                usage_now=controls.usage_now,
                example_model=routing.example_model,
            )
        ),
        *playground.routes(
            playground.PlaygroundPages(
                frame=frame,
                chats=accounts.chats,
                keys=accounts.keys,
                clock=services.clock,
                catalog=controls.catalog,
            )
        ),
        *requests.routes(requests.RequestsPage(frame, accounts.usage, accounts.users, controls.requests)),
        *receipts.routes(
            receipts.ReceiptPage(
                frame,
                accounts.usage,
                accounts.users,
                handlers.requests,
                accounts.prompts if services.settings.prompt_log.retention_days else None,
            )
        ),
        *models.routes(
            models.OwnModelsPage(
                frame=frame,
                models=handlers.models,
                usage=accounts.usage,
                clock=services.clock,
                example_model=routing.example_model,
            )
        ),
        *usage.routes(usage.UsagePages(frame, accounts.usage, accounts.users, services.clock)),
        *_prompt_pages(services, frame),
    ]


def _account_pages(
    services: Services, frame: Frame, routing: Routing, controls: GatewayControls
) -> list[Route]:
    """The money, the settings and the keys of a user."""
    accounts = services.accounts
    return [
        *credit.routes(credit.CreditPages(frame, accounts.ledger, accounts.users, accounts.redeem_codes)),
        *statements.routes(statements.StatementPages(frame, accounts.statements, accounts.users)),
        *settings.routes(
            settings.SettingsPage(
                frame,
                accounts.users,
                accounts.sessions,
                accounts.vendor_keys,
                accounts.second_factors,
                accounts.identities,
                accounts.federated,
                accounts.mail_preferences,
            )
        ),
        *keys.routes(
            keys.KeysPages(
                frame=frame,
                keys=accounts.keys,
                reports=accounts.key_reports,
                limits=accounts.limits,
                usage=accounts.usage,
                calendar=services.calendar,
                clock=services.clock,
                usage_now=controls.usage_now,
                example_model=routing.example_model,
            )
        ),
    ]


def _prompt_pages(services: Services, frame: Frame) -> list[Route]:
    """Without pages if the settings keep no prompts."""
    kept, accounts = services.settings.prompt_log, services.accounts
    if not kept.retention_days:
        return []
    return prompts.routes(
        prompts.PromptsPages(
            frame,
            accounts.prompts,
            accounts.users,
            kept.default,
            kept.retention_days,
            accounts.usage,
            services.settings.server.expose_server,
        )
    )


def _server_pages(
    services: Services, frame: Frame, controls: GatewayControls, handlers: SharedHandlers
) -> list[Route]:
    """Servers, routes and prices, for administrators."""
    accounts = services.accounts
    return [
        *servers.routes(
            servers.ServersPages(
                frame=frame,
                servers=handlers.servers,
                models=handlers.models,
                usage=accounts.usage,
                clock=services.clock,
                health=controls.fleet_health,
            )
        ),
        *model_routes.routes(
            model_routes.RoutesPages(
                frame=frame,
                routes=handlers.routes,
                explain=handlers.explain,
                list_servers=controls.list_servers,
            )
        ),
        *prices.routes(
            prices.ModelPricesPages(
                frame=frame,
                models=handlers.models,
                handlers=handlers.prices,
                prices=accounts.prices,
                usage=accounts.usage,
                clock=services.clock,
                list_servers=controls.list_servers,
            )
        ),
    ]


def _admin_pages(
    services: Services, frame: Frame, controls: GatewayControls, state: SystemState
) -> list[Route]:
    """Users, mail, credit codes and the system."""
    accounts = services.accounts
    return [
        *users.routes(
            users.UsersPages(
                frame=frame,
                users=accounts.users,
                invitations=accounts.invitations,
                sessions=accounts.sessions,
                second_factors=accounts.second_factors,
                keys=accounts.key_reports,
                limits=accounts.limits,
                usage=accounts.usage,
                clock=services.clock,
                usage_now=controls.usage_now,
                ledger=accounts.ledger,
                vendor_keys=accounts.vendor_keys,
                has_billing=accounts.billing is not None,
                webhooks=accounts.webhooks,
            )
        ),
        *mail.routes(
            mail.MailPages(
                frame, services.templates, mail_backend(services.settings.mail), accounts.mail_suppressions
            )
        ),
        *codes.routes(codes.CodesPages(frame, accounts.redeem_codes, accounts.users, services.clock)),
        *drift.routes(drift.DriftPage(frame, accounts.usage)),
        *system.routes(
            system.SystemPages(
                frame=frame,
                audit=accounts.audit,
                limits=accounts.limits,
                usage=accounts.usage,
                users=accounts.users,
                settings=services.settings,
                engine=services.store.engine,
                clock=services.clock,
                started_ms=services.clock.now_ms(),
                checks=state.checks,
                gauges=state.gauges,
                tasks=state.tasks,
                database_files=state.database_files,
                origins=state.origins,
            )
        ),
    ]
