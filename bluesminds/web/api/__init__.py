"""The control plane's HTTP API, one module per subject, and its complete route list."""

from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from bluesminds.accounts.services import AccountServices
from bluesminds.common.broadcast import Broadcast
from bluesminds.common.clock import Clock
from bluesminds.common.log import Log
from bluesminds.common.routes import ModelRoute
from bluesminds.common.values import InUse, Server
from bluesminds.gateway.prices.book import PriceBook
from bluesminds.gateway.routing.catalog import ModelCatalog
from bluesminds.gateway.routing.explain import Explanation, RouteQuestion
from bluesminds.gateway.routing.fleet import FleetHealth
from bluesminds.gateway.routing.health import ServerStatus
from bluesminds.gateway.routing.server_keys import ServerKeyStatus
from bluesminds.gateway.server_test import ServerTest
from bluesminds.web.api import (
    alerts,
    audit,
    auth,
    backup,
    billing,
    billing_admin,
    chats,
    doctor,
    drift,
    explain,
    health,
    invites,
    invoices,
    keys,
    ledger,
    limits,
    live,
    mail,
    model_routes,
    models,
    payment_events,
    prices,
    prompt_log,
    redeem_codes,
    replay,
    reprice,
    requests,
    second_factors,
    servers,
    sessions,
    setup,
    statements,
    trials,
    usage,
    users,
    vendor_keys,
    webhooks,
)
from bluesminds.web.api import reload as config_reload
from bluesminds.web.guard import Guard
from bluesminds.web.routes import Route
from storage.usage import UsageRow


class GatewayControls(Struct, frozen=True):
    """What the API reads from the running gateway and changes in it; a command without a server passes its
    own functions.
    """

    list_servers: Callable[[], Awaitable[list[Server]]]
    """All servers: those of the configuration and those of the database."""
    server_status: Callable[[str], ServerStatus]
    """The status of the server with this name."""
    key_status: Callable[[Server], Sequence[ServerKeyStatus]]
    """The state of each API key of a server."""
    servers_changed: Callable[[], Awaitable[None]]
    """Called after a change of the servers in the database."""
    test_server: Callable[[Server, str | None], Awaitable[ServerTest]]
    """Tests a server with this model, or with one of the server's models."""
    price_book: Callable[[], Awaitable[PriceBook]]
    """The prices in use."""
    prices_changed: Callable[[], Awaitable[None]]
    """Called after a change of the prices in the database."""
    usage_now: Callable[[str], InUse]
    """The current usage of a limited account, "key:ID" or "user:ID"."""
    list_routes: Callable[[], Awaitable[Sequence[ModelRoute]]]
    """All routes: those of the configuration and those of the database."""
    routes_changed: Callable[[], Awaitable[None]]
    """Called after a change of the routes in the database."""
    catalog: Callable[[], Awaitable[ModelCatalog]]
    """The current servers by model."""
    explain: Callable[[RouteQuestion], Awaitable[Explanation]]
    """Where a request would be sent now."""
    fleet_health: Callable[[], FleetHealth]
    """The health of all servers."""
    probe_now: Callable[[], Awaitable[None]]
    """Check all servers."""
    requests: Broadcast[UsageRow] | None
    """Requests as they end; None without a running gateway."""
    log: Log | None
    """The log of the running gateway."""
    open_backup: backup.OpenBackup
    """Writes a backup."""
    run_doctor: doctor.RunDoctor
    """Runs the checks of `bluesminds doctor`."""
    reload: config_reload.Reload
    """Reads the configuration again."""
    replay: replay.SendReplay
    """Sends a request of the prompt log again."""


class SharedHandlers(Struct, frozen=True):
    """Handlers that the pages of the dashboard call as well."""

    servers: servers.ServerHandlers
    models: models.ModelHandlers
    routes: model_routes.RouteHandlers
    explain: explain.ExplainHandlers
    prices: prices.PriceHandlers
    requests: requests.RequestHandlers


def build_handlers(
    accounts: AccountServices, controls: GatewayControls, clock: Clock, *, expose_server: bool = True
) -> SharedHandlers:
    """`expose_server`: users see the names of servers."""
    return SharedHandlers(
        servers.ServerHandlers(
            accounts.servers,
            controls.list_servers,
            controls.servers_changed,
            controls.test_server,
            controls.server_status,
            controls.key_status,
        ),
        models.ModelHandlers(controls.catalog),
        model_routes.RouteHandlers(
            accounts.routes,
            controls.list_routes,
            controls.routes_changed,
            controls.list_servers,
            lambda: accounts.servers.locked,
        ),
        explain.ExplainHandlers(
            accounts.keys, accounts.users, accounts.vendor_keys, controls.explain, controls.key_status
        ),
        prices.PriceHandlers(
            accounts.prices, controls.price_book, controls.prices_changed, controls.list_servers, clock
        ),
        requests.RequestHandlers(accounts.usage, expose_server),
    )


def api_routes(
    accounts: AccountServices, controls: GatewayControls, handlers: SharedHandlers, clock: Clock
) -> list[Route]:
    return [
        *setup.routes(setup.SetupHandlers(accounts.users, accounts.passwords, accounts.throttle)),
        *keys.routes(accounts.keys, accounts.users),
        *auth.routes(auth.AuthHandlers(accounts)),
        *second_factors.routes(second_factors.SecondFactorHandlers(accounts)),
        *sessions.routes(sessions.SessionHandlers(accounts.sessions, accounts.users)),
        *users.routes(users.UserHandlers(accounts.users, accounts.passwords, accounts.password_reset)),
        *invites.routes(invites.InviteHandlers(accounts.invitations)),
        *servers.routes(handlers.servers),
        *prices.routes(handlers.prices),
        *model_routes.routes(handlers.routes),
        *explain.routes(handlers.explain),
        *health.routes(health.FleetHealthHandlers(controls.fleet_health, controls.probe_now)),
        *models.routes(handlers.models),
        *ledger.routes(ledger.LedgerHandlers(accounts.ledger)),
        *statements.routes(statements.StatementHandlers(accounts.statements)),
        *reprice.routes(
            reprice.RepriceHandlers(accounts.repricing, controls.price_book, controls.list_servers, clock)
        ),
        *redeem_codes.routes(redeem_codes.RedeemHandlers(accounts.redeem_codes, clock)),
        *_billing_routes(accounts),
        *requests.routes(handlers.requests),
        *replay.routes(
            replay.ReplayHandlers(
                accounts.prompts, accounts.usage, controls.replay, handlers.requests.expose_server
            )
        ),
        *usage.routes(usage.UsageHandlers(accounts.usage)),
        *live.routes(live.LiveHandlers(controls.requests, controls.log)),
        *drift.routes(drift.DriftHandlers(accounts.usage)),
        *limits.routes(limits.LimitHandlers(accounts.limits, controls.usage_now)),
        *chats.routes(chats.ChatHandlers(accounts.chats)),
        *backup.routes(backup.BackupHandlers(controls.open_backup, accounts.audit, clock)),
        *prompt_log.routes(prompt_log.PromptHandlers(accounts.prompts)),
        *vendor_keys.routes(
            vendor_keys.VendorKeyHandlers(accounts.vendor_keys, accounts.throttle, controls.test_server)
        ),
        *doctor.routes(doctor.DoctorHandlers(controls.run_doctor)),
        *([] if accounts.webhooks is None else webhooks.routes(accounts.webhooks)),
        *([] if accounts.alerts is None else alerts.routes(accounts.alerts)),
        *config_reload.routes(config_reload.ReloadHandlers(controls.reload)),
        *mail.routes(
            mail.MailHandlers(accounts.mail_tests, accounts.mail_preferences, accounts.mail_suppressions)
        ),
        *audit.routes(audit.AuditHandlers(accounts.audit)),
    ]


def _billing_routes(accounts: AccountServices) -> list[Route]:
    if accounts.billing is None:
        return []
    return [
        *payment_events.routes(payment_events.PaymentEventHandlers(accounts.billing)),
        *billing.routes(billing.BillingHandlers(accounts.billing)),
        *billing_admin.routes(billing_admin.BillingAdminHandlers(accounts.billing)),
        *invoices.routes(invoices.InvoiceHandlers(accounts.billing.invoices)),
        *trials.routes(trials.TrialHandlers(accounts.billing)),
    ]


def build_guard(
    accounts: AccountServices, *, public_url: str | None, admin_second_factor: bool = False
) -> Guard:
    return Guard(
        accounts.sessions,
        accounts.throttle,
        public_url=public_url,
        admin_second_factor=admin_second_factor,
    )
