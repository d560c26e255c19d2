"""What every way of running needs: the state directory, the store, the outbound pool and the accounts on
top of them.

The server runs on it, and so does a command that finds no server running; nobody else holds the database
meanwhile.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, get_args

import trio
from msgspec import Struct, structs

from bluesminds.accounts.audit import AuditLog
from bluesminds.accounts.cleanup import ExpiredDataCleanup
from bluesminds.accounts.invitations import Invitations
from bluesminds.accounts.keys import Changed, Keys
from bluesminds.accounts.limits import Limits
from bluesminds.accounts.login import Auth
from bluesminds.accounts.mailboxes import Mailboxes
from bluesminds.accounts.servers import Servers
from bluesminds.accounts.sessions import Sessions
from bluesminds.accounts.throttle import Throttle
from bluesminds.accounts.usage import UsageReports
from bluesminds.accounts.users import Users
from bluesminds.app.secrets import load_secrets
from bluesminds.app.state_dir import StateDir
from bluesminds.common.clock import Calendar, Clock, zone_named
from bluesminds.common.crypto import Vault
from bluesminds.common.log import Log
from bluesminds.common.money import Price, read_usd
from bluesminds.common.networks import Networks
from bluesminds.common.values import LimitSet, Server
from bluesminds.config import ServerSettings, Settings
from bluesminds.config.settings import Tier
from bluesminds.http.client.pool import AddressPolicy, Pool, Timeouts, tls_context
from bluesminds.identity.password import Passwords
from bluesminds.notify.mail import Mailer, OutboxMailer, SmtpAccount, SmtpMailer, verifying
from bluesminds.notify.mail_queue import MailQueue
from bluesminds.notify.mail_templates import MailTemplates
from storage import open_store, sqlite_path
from storage.base import Store

MAIL_SECONDS = 5.0  # the longest an end waits for mail to go out


class BadDatabaseURL(Exception):
    """The database's address cannot be one. The message repeats none of it."""


class Services(Struct, frozen=True):
    settings: Settings
    clock: Clock
    log: Log
    state: StateDir
    pepper: bytes
    store: Store
    pool: Pool
    keys: Keys
    members: Users
    servers: Servers
    usage: UsageReports
    calendar: Calendar
    limits: Limits
    audit: AuditLog
    passwords: Passwords
    sessions: Sessions
    throttle: Throttle
    auth: Auth
    mailboxes: Mailboxes
    invitations: Invitations
    mail_queue: MailQueue
    cleanup: ExpiredDataCleanup


class KeyChangeNotifier:
    """Tells who is interested that keys have changed; set once the walk exists."""

    def __init__(self) -> None:
        self.keys_changed: Changed = lambda *digests: None

    def tell(self, *digests: bytes) -> None:
        self.keys_changed(*digests)


@asynccontextmanager
async def open_services(
    settings: Settings, *, clock: Clock, log: Log, changes: KeyChangeNotifier
) -> AsyncIterator[Services]:
    """Raises StateBusy when another process holds the state directory, BadState, BadDatabaseURL,
    StorageError.
    """
    url = _database_url(settings)
    state = StateDir(settings.state_dir)
    state.prepare()
    with state.locked():
        pool = Pool(
            max_connections=settings.upstream.max_connections,
            max_per_origin=settings.upstream.max_connections_per_server,
            tls=tls_context(settings.upstream.ca_file),
            policy=AddressPolicy(Networks.read(settings.upstream.allowed_networks)),
        )
        async with open_store(url, statement_timeout=settings.storage.settle_timeout) as store:
            pepper, vault = await load_secrets(store, state, settings.keys.pepper)
            async with trio.open_nursery() as nursery:
                await nursery.start(pool.run)
                core = _core(settings, clock, log, state, pepper, vault, store, pool, changes)
                try:
                    yield core
                    await core.mail_queue.flush(MAIL_SECONDS)
                finally:
                    core.mail_queue.close()
                nursery.cancel_scope.cancel()


def _core(
    settings: Settings,
    clock: Clock,
    log: Log,
    state: StateDir,
    pepper: bytes,
    vault: Vault,
    store: Store,
    pool: Pool,
    changes: KeyChangeNotifier,
) -> Services:
    accounts, calendar = settings.accounts, Calendar(zone_named(settings.limits.time_zone))
    passwords, throttle = Passwords(), Throttle()
    mail_queue, templates = (
        MailQueue(_mailer(settings, state, clock, log), log),
        MailTemplates(_base_url(settings)),
    )
    sessions = Sessions(
        store,
        pepper=pepper,
        clock=clock,
        idle=accounts.session_idle,
        lifetime=accounts.session_lifetime,
        keep=accounts.max_sessions,
    )
    return Services(
        settings=settings,
        clock=clock,
        log=log,
        state=state,
        pepper=pepper,
        store=store,
        pool=pool,
        keys=Keys(store, pepper=pepper, clock=clock, changed=changes.tell),
        members=Users(
            store,
            clock=clock,
            changed=changes.tell,
            tiers=get_args(Tier),
            default_tier=accounts.default_tier,
        ),
        servers=Servers(store, vault=vault, clock=clock, log=log),
        usage=UsageReports(store, clock=clock),
        calendar=calendar,
        limits=Limits(
            store,
            clock=clock,
            calendar=calendar,
            tiers=tiers_of(settings),
            changed=changes.tell,
        ),
        audit=AuditLog(store),
        passwords=passwords,
        sessions=sessions,
        throttle=throttle,
        auth=Auth(
            store,
            clock=clock,
            passwords=passwords,
            sessions=sessions,
            throttle=throttle,
            mail_queue=mail_queue,
            templates=templates,
            log=log,
        ),
        mailboxes=Mailboxes(
            store,
            clock=clock,
            passwords=passwords,
            throttle=throttle,
            mail_queue=mail_queue,
            templates=templates,
            settings=accounts,
        ),
        invitations=Invitations(
            store, clock=clock, mail_queue=mail_queue, templates=templates, settings=accounts
        ),
        mail_queue=mail_queue,
        cleanup=ExpiredDataCleanup(store, sessions, clock=clock),
    )


def _mailer(settings: Settings, state: StateDir, clock: Clock, log: Log) -> Mailer:
    mail = settings.mail
    if mail.host is None or mail.sender is None:
        return OutboxMailer(state.path / "outbox", clock=clock, log=log)
    account = SmtpAccount(
        host=mail.host,
        port=mail.port,
        security=mail.security,
        sender=mail.sender,
        username=mail.username,
        password=None if mail.password is None else mail.password.reveal(),
        timeout=mail.timeout,
    )
    return SmtpMailer(account, tls=verifying(mail.ca_file), clock=clock)


def _base_url(settings: Settings) -> str:
    """Where people reach the gateway, for the links in mail."""
    server = settings.server
    if server.public_url is not None:
        return server.public_url.rstrip("/")
    host = f"[{server.host}]" if ":" in server.host else server.host
    return f"{'https' if server.tls_cert else 'http'}://{host}:{server.port}"


def _database_url(settings: Settings) -> str:
    url = settings.database_url.reveal()
    try:
        sqlite_path(url)
    except ValueError as exc:
        raise BadDatabaseURL(f"url in [storage] cannot be used: {exc}") from exc
    return url


def timeouts(settings: Settings) -> Timeouts:
    upstream = settings.upstream
    return Timeouts(
        connect=upstream.connect_timeout,
        pool=upstream.pool_timeout,
        write=upstream.write_timeout,
        first_byte=upstream.first_byte_timeout,
        between_chunks=upstream.chunk_timeout,
    )


def tiers_of(settings: Settings) -> dict[str, LimitSet]:
    """The limits of each tier."""
    tables = structs.asdict(settings.tiers)
    return {name: _limits_of(structs.asdict(table)) for name, table in tables.items()}


def _limits_of(figures: dict[str, Any]) -> LimitSet:
    money = {name: read_usd(text) for name, text in figures.items() if name.startswith("usd_")}
    return LimitSet(**figures | money)


def prices_of(settings: Settings) -> dict[str, Price]:
    """What each model costs."""
    return {
        row.model: Price(
            input=read_usd(row.input_usd),
            cached_input=read_usd(row.cached_input_usd or row.input_usd),
            output=read_usd(row.output_usd),
            max_output=row.max_output_tokens,
        )
        for row in settings.prices
    }


def keyless_limits(settings: Settings) -> LimitSet | None:
    """The limits of an address whose clients bring keys of their own. None: they are turned away."""
    keyless = settings.keyless
    if not keyless.enabled:
        return None
    return LimitSet(
        rpm=keyless.rpm,
        tpm=keyless.tpm,
        concurrency=keyless.concurrency,
        tokens_per_day=keyless.tokens_per_day,
    )


def configured_server(row: ServerSettings, *, demo_url: str, keyless: bool) -> Server:
    """A [[servers]] entry as the walk knows it."""
    return Server(
        name=row.name,
        dialect=row.dialect,
        url=demo_url if row.dialect == "demo" else row.url or "",
        api_key=None if row.api_key is None else row.api_key.reveal(),
        models=row.models,
        weight=row.weight,
        priority=row.priority,
        origin="file",
        keyless=keyless and row.keyless,
    )
