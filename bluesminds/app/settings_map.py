"""Translates settings into the values that the services, the gateway and the listener are built from."""

from functools import partial
from typing import Any, Final

from msgspec import structs

from bluesminds.accounts.billing.context import BillingPolicy
from bluesminds.accounts.billing.plans import BillingPlan, PlanBook
from bluesminds.accounts.billing.states import DunningPolicy
from bluesminds.accounts.billing.work import CENT, BillingRules
from bluesminds.accounts.notices import NoticePolicy
from bluesminds.common.alerts import AlertRule
from bluesminds.common.clock import Clock
from bluesminds.common.money import read_usd
from bluesminds.common.origins import read_origin
from bluesminds.common.prices import PriceLine, rates_from, read_day
from bluesminds.common.routes import ModelRoute
from bluesminds.common.values import DEFAULT_SERVER_OPTIONS, LimitSet, Server, ServerOptions
from bluesminds.config import (
    ConfigError,
    ListenSettings,
    Secret,
    ServerSettings,
    Settings,
    configured_routes,
)
from bluesminds.config.settings import MailSettings
from bluesminds.gateway.browser_origins import ANY_ORIGIN
from bluesminds.gateway.sockets.realtime import SocketSettings
from bluesminds.gateway.sockets.session import SessionSettings
from bluesminds.http.client.pool import Pool, Timeouts, UpstreamOrigin
from bluesminds.http.server.serve import ListenerLimits
from bluesminds.http.websocket import WebSocketLimits
from bluesminds.notify.alert_channels import AlertChannel
from bluesminds.notify.mail import MailFailed, SmtpAccount, SmtpMailer, smtp_tls_context
from bluesminds.notify.resend import ResendAccount, ResendMailer
from bluesminds.providers.vendors import resolve

MAX_DRAIN_SHARE: Final = 0.8  # of the drain; the rest is for closing sessions


def upstream_timeouts(settings: Settings) -> Timeouts:
    upstream = settings.upstream
    return Timeouts(
        connect=upstream.connect_timeout,
        pool=upstream.pool_timeout,
        write=upstream.write_timeout,
        first_byte=upstream.first_byte_timeout,
        between_chunks=upstream.chunk_timeout,
    )


def socket_settings(settings: Settings) -> SocketSettings:
    websocket = settings.websocket
    session = SessionSettings(
        idle_timeout=websocket.idle_timeout,
        session_timeout=websocket.session_timeout,
        drain_grace=min(websocket.drain_grace, MAX_DRAIN_SHARE * settings.server.drain_timeout),
    )
    client = WebSocketLimits(
        message_bytes=websocket.max_message_bytes,
        ping_seconds=websocket.ping_interval,
        write_seconds=settings.server.write_timeout,
    )
    upstream = structs.replace(client, write_seconds=settings.upstream.write_timeout)
    return SocketSettings(session, client, upstream, websocket.handshake_timeout)


def listener_limits(server: ListenSettings) -> ListenerLimits:
    return ListenerLimits(
        max_connections=server.max_connections,
        max_connections_per_ip=server.max_connections_per_ip,
        header_bytes=server.max_header_bytes,
        header_lines=server.max_header_lines,
        url_bytes=server.max_url_bytes,
        body_bytes=server.max_body_bytes,
        form_bytes=server.max_upload_bytes,
        body_chunks=server.max_body_chunks,
        header_timeout=server.header_timeout,
        body_timeout=server.body_timeout,
        write_timeout=server.write_timeout,
        idle_timeout=server.idle_timeout,
        handshake_timeout=server.handshake_timeout,
        drain_timeout=server.drain_timeout,
    )


def cors_origins(server: ListenSettings) -> list[str]:
    return [origin if origin == ANY_ORIGIN else read_origin(origin) for origin in server.cors_origins]


def tier_limits(settings: Settings) -> dict[str, LimitSet]:
    """The limits of each tier, by its name."""
    tables = structs.asdict(settings.tiers)
    return {name: _limit_set(structs.asdict(table)) for name, table in tables.items()}


def tier_markups(settings: Settings) -> dict[str, int]:
    """The markup of each tier on prices, in hundredths of a percent."""
    return {name: table.markup_percent * 100 for name, table in structs.asdict(settings.tiers).items()}


def tier_budgets(settings: Settings) -> dict[str, LimitSet]:
    """What all accounts of a tier may use together, by the name of the tier, for tiers with such a budget."""
    found = {}
    for name, table in structs.asdict(settings.tiers).items():
        day, month = read_usd(table.shared_usd_per_day), read_usd(table.shared_usd_per_month)
        if day or month:
            found[name] = LimitSet(usd_per_day=day, usd_per_month=month)
    return found


def _limit_set(fields: dict[str, Any]) -> LimitSet:
    """`fields` are the settings of a tier; amounts in USD are text."""
    for name in ("markup_percent", "shared_usd_per_day", "shared_usd_per_month"):
        del fields[name]
    money = {name: read_usd(text) for name, text in fields.items() if name.startswith("usd_")}
    return LimitSet(**fields | money)


DEFAULT_PLANS: Final = (
    BillingPlan("free", "Free", "free", 0),
    BillingPlan("starter", "Starter", "starter", 29_00),
    BillingPlan("pro", "Pro", "pro", 99_00),
    BillingPlan("enterprise", "Enterprise", "enterprise", 299_00),
)


def configured_plans(settings: Settings) -> list[BillingPlan]:
    """The [[plans]] entries, else the default ones."""
    return [
        BillingPlan(
            name=row.name,
            title=row.title or row.name.capitalize(),
            tier=row.tier,
            price_cents=_cents(row.price_usd),
            period=row.period,
            included_nano=read_usd(row.included_usd),
            overage=row.overage,
            products={
                name: product
                for name, product in (("stripe", row.stripe_price), ("creem", row.creem_product))
                if product is not None
            },
        )
        for row in settings.plans
    ] or list(DEFAULT_PLANS)


def billing_rules(settings: Settings) -> BillingRules:
    billing = settings.billing
    dunning = DunningPolicy(int(billing.grace * 1000), int(billing.reminder_interval * 1000))
    plans, free = PlanBook(configured_plans(settings)), settings.accounts.default_tier
    return BillingRules(
        plans,
        dunning,
        free,
        billing.seller,
        billing.invoice_prefix,
        referrer_nano=read_usd(billing.referrer_usd),
        referred_nano=read_usd(billing.referred_usd),
        referral_min_cents=read_usd(billing.referral_min_usd) // CENT,
    )


def billing_policy(settings: Settings) -> BillingPolicy:
    billing = settings.billing
    return BillingPolicy(
        topup_min=_cents(billing.topup_min_usd),
        topup_max=_cents(billing.topup_max_usd),
        return_url=f"{public_url(settings.server)}/dashboard/billing",
        manual=billing.manual,
        instructions=billing.instructions or "",
        order_lifetime=int(billing.order_lifetime * 1000),
        sync_interval=billing.sync_interval,
    )


def _cents(usd: str) -> int:
    return read_usd(usd) // CENT


def keyless_limits(settings: Settings) -> LimitSet | None:
    """The limits of one client address in keyless mode; None when keyless mode is off."""
    keyless = settings.keyless
    if not keyless.enabled:
        return None
    return LimitSet(
        rpm=keyless.rpm,
        tpm=keyless.tpm,
        concurrency=keyless.concurrency,
        tokens_per_day=keyless.tokens_per_day,
    )


def configured_prices(settings: Settings) -> list[PriceLine]:
    """The [[prices]] entries."""
    return [
        PriceLine(
            model=row.model,
            rates=rates_from(structs.asdict(row)),
            server=row.server or "",
            since=read_day(row.since) if row.since else 0,
            service_tier=row.service_tier or "",
            from_tokens=row.from_tokens or 0,
            max_output=row.max_output_tokens,
            until=read_day(row.until) if row.until else None,
        )
        for row in settings.prices
    ]


def file_routes(settings: Settings) -> list[ModelRoute]:
    """The routes of the configuration. Their ids are valid until the configuration changes."""
    return [
        structs.replace(route, id=f"file-{number}")
        for number, route in enumerate(configured_routes(settings), 1)
    ]


def configured_server(row: ServerSettings, *, demo_url: str, keyless: bool) -> Server:
    """A [[servers]] entry. `keyless`: whether keyless mode is on. Raises ConfigError for a bad secret."""
    url, dialect = resolve(row.vendor or "", row.url or "", row.dialect or "")
    keys = [key.reveal() for key in ((row.api_key,) if row.api_key is not None else row.api_keys)]
    options = ServerOptions(**{name: getattr(row, name) for name in ServerOptions.__struct_fields__})
    return Server(
        name=row.name,
        dialect=dialect,
        url=demo_url if dialect == "demo" else url,
        api_key=keys[0] if keys else None,
        more_keys=tuple(keys[1:]),
        models=row.models,
        weight=row.weight,
        priority=row.priority,
        origin="file",
        keyless=keyless and row.keyless,
        vendor=row.vendor or "",
        api_version=row.api_version or "",
        headers=tuple((name, value.reveal()) for name, value in (row.headers or {}).items()),
        passthrough=row.passthrough,
        passthrough_paths=row.passthrough_paths,
        region=row.region or "",
        tags=row.tags,
        mode=row.mode,
        max_concurrency=row.max_concurrency,
        rpm=row.rpm,
        options=None if options == DEFAULT_SERVER_OPTIONS else options,
    )


def configured_mailer(mail: MailSettings, pool: Pool, clock: Clock) -> SmtpMailer | ResendMailer | None:
    """None when mail is not configured."""
    if mail.backend == "resend" and mail.api_key is not None and mail.sender is not None:
        origin, path = UpstreamOrigin.parse(mail.url)
        api_key = partial(_mail_secret, mail.api_key)
        return ResendMailer(ResendAccount(origin, path, mail.sender, api_key, mail.timeout), pool)
    account = _smtp_account(mail)
    if account is None:
        return None
    return SmtpMailer(account, tls=smtp_tls_context(mail.ca_file), clock=clock)


def mail_backend(mail: MailSettings) -> str:
    """What sends mail, in words."""
    if mail.backend == "resend":
        return "Resend"
    return mail.host or "writing files to state_dir/outbox"


def _smtp_account(mail: MailSettings) -> SmtpAccount | None:
    if mail.host is None or mail.sender is None:
        return None
    return SmtpAccount(
        host=mail.host,
        port=mail.port,
        security=mail.security,
        sender=mail.sender,
        username=mail.username,
        password=None if mail.password is None else partial(_mail_secret, mail.password),
        timeout=mail.timeout,
    )


def _mail_secret(secret: Secret) -> str:
    """Raises MailFailed."""
    try:
        return secret.reveal()
    except ConfigError as exc:
        raise MailFailed(str(exc)) from None


def public_url(server: ListenSettings) -> str:
    """The base URL for links in mail, without a slash at its end."""
    if server.public_url is not None:
        return server.public_url.rstrip("/")
    host = f"[{server.host}]" if ":" in server.host else server.host
    return f"{'https' if server.tls_cert else 'http'}://{host}:{server.port}"


def has_event_consumers(settings: Settings) -> bool:
    """Whether anything does something with events that only tell about use and health."""
    alerts = settings.alerts
    has_alerts = bool(alerts.rules or alerts.channels)
    return settings.webhooks.enabled or sends_notifications(settings) or has_alerts


def alert_rules(settings: Settings) -> list[AlertRule]:
    return [
        AlertRule(
            name=rule.name,
            kind=rule.kind,
            above=rule.above,
            window=rule.window,
            hold=rule.hold,
            quiet=rule.quiet,
            channels=rule.channels,
            server=rule.server,
        )
        for rule in settings.alerts.rules
    ]


def alert_channels(settings: Settings) -> list[AlertChannel]:
    return [AlertChannel(one.name, one.kind, one.url.reveal()) for one in settings.alerts.channels]


def sends_notifications(settings: Settings) -> bool:
    """Whether events cause mails."""
    return settings.mail.configured and settings.mail.notifications


def notice_policy(settings: Settings) -> NoticePolicy:
    notices = settings.notices
    return NoticePolicy(notices.budget_shares, read_usd(notices.credit_low_usd), notices.key_expiry)
