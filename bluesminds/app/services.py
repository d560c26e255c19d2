"""The control-plane services and what they need: the state directory, the store and the outbound pool.

The server runs on them. A command runs on them too when no server is running: the state directory's lock
makes sure that only one process uses the store.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from argon2 import PasswordHasher
from msgspec import structs

from bluesminds.accounts.billing.invoice_files import InvoiceFiles
from bluesminds.accounts.billing.invoices import Invoices
from bluesminds.accounts.cleanup import ExpiredDataCleanup, PromptRetention, UsageRetention
from bluesminds.accounts.services import AccountServices
from bluesminds.app.accounts import build_accounts, opt_out_links, webhook_addresses
from bluesminds.app.backup import Backups
from bluesminds.app.database import database_url
from bluesminds.app.resources import KeyChangeNotifier, Resources
from bluesminds.app.secrets import load_secrets
from bluesminds.app.settings_map import (
    configured_mailer,
    public_url,
    sends_notifications,
)
from bluesminds.app.state_dir import StateDir
from bluesminds.common.clock import Calendar, Clock, zone_named
from bluesminds.common.log import Log
from bluesminds.common.networks import Networks
from bluesminds.config import Settings
from bluesminds.http.client.pool import AddressPolicy, Pool, tls_context
from bluesminds.identity.password import PASSWORD_HASHER
from bluesminds.notify.event_mails import EventMails
from bluesminds.notify.events import EventDispatcher
from bluesminds.notify.mail import FileMailer, Mailer
from bluesminds.notify.mail_templates import MailTemplates
from bluesminds.notify.outbox import MailOutbox, ReadFile
from bluesminds.notify.webhooks import WebhookQueue, WebhookSender
from storage.base import Store
from storage.store import open_store

MAIL_FLUSH_SECONDS = 3.0  # how long the end waits for mail that can be sent at once
WEBHOOK_CONNECTIONS = 400
WEBHOOK_CONNECTIONS_PER_HOST = 20


class Services(Resources, frozen=True, kw_only=True):
    accounts: AccountServices
    cleanup: ExpiredDataCleanup
    backups: Backups


@asynccontextmanager
async def open_services(
    settings: Settings, *, clock: Clock, log: Log, password_hasher: PasswordHasher = PASSWORD_HASHER
) -> AsyncIterator[Services]:
    """Raises StateBusy when another process holds the state directory, BadState, BadDatabaseURL and
    StorageError.
    """
    url = database_url(settings)
    state = StateDir(settings.state_dir)
    state.create()
    with state.locked():
        pool = Pool(
            max_connections=settings.upstream.max_connections,
            max_per_origin=settings.upstream.max_connections_per_server,
            tls=tls_context(settings.upstream.ca_file),
            policy=AddressPolicy(Networks.read(settings.upstream.allowed_networks)),
        )
        async with open_store(url, statement_timeout=settings.storage.settle_timeout) as store:
            pepper, vault = await load_secrets(store, state, settings.keys.pepper)
            mailer = _mailer(settings, state, pool, clock, log)
            hooks = _webhook_pool(settings)
            resources = Resources(
                settings=settings,
                clock=clock,
                calendar=Calendar(zone_named(settings.limits.time_zone)),
                log=log,
                state=state,
                store=store,
                pool=pool,
                pepper=pepper,
                vault=vault,
                key_changes=KeyChangeNotifier(),
                mailer=mailer,
                templates=MailTemplates(public_url(settings.server)),
                outbox=MailOutbox(
                    store,
                    vault=vault,
                    mailer=mailer,
                    clock=clock,
                    log=log,
                    read_file=_read_file(settings, store),
                ),
                events=EventDispatcher(store, clock=clock, log=log),
                webhook_sender=None
                if hooks is None
                else WebhookSender(
                    store, hooks, vault=vault, clock=clock, log=log, allow_http=settings.webhooks.allow_http
                ),
            )
            async with trio.open_nursery() as nursery:
                await nursery.start(pool.run)
                if hooks is not None:
                    await nursery.start(hooks.run)
                yield _build_services(resources, password_hasher)
                await resources.outbox.flush(MAIL_FLUSH_SECONDS)
                nursery.cancel_scope.cancel()


def _webhook_pool(settings: Settings) -> Pool | None:
    """A separate pool: URLs of users get fewer connections and another address policy than servers."""
    if not settings.webhooks.enabled:
        return None
    return Pool(
        max_connections=WEBHOOK_CONNECTIONS,
        max_per_origin=WEBHOOK_CONNECTIONS_PER_HOST,
        tls=tls_context(settings.upstream.ca_file),
        policy=webhook_addresses(settings),
    )


def _mailer(settings: Settings, state: StateDir, pool: Pool, clock: Clock, log: Log) -> Mailer:
    mailer = configured_mailer(settings.mail, pool, clock)
    return mailer or FileMailer(state.path / "outbox", clock=clock, log=log)


def _read_file(settings: Settings, store: Store) -> ReadFile | None:
    if not settings.billing.enabled:
        return None
    return InvoiceFiles(Invoices(store, prefix=settings.billing.invoice_prefix)).read


def _event_mails(resources: Resources) -> EventMails:
    zone = resources.settings.limits.time_zone
    return EventMails(resources.outbox, resources.templates, opt_out_links(resources), zone=zone)


def _build_services(resources: Resources, password_hasher: PasswordHasher) -> Services:
    if (sender := resources.webhook_sender) is not None:
        resources.events.subscribe(WebhookQueue(resources.log).consume, dispatched=sender.notify)
    if sends_notifications(resources.settings):
        resources.events.subscribe(_event_mails(resources).consume, dispatched=resources.outbox.wake)
    accounts = build_accounts(resources, password_hasher)
    cleanup = ExpiredDataCleanup(
        resources.store,
        accounts.sessions,
        account_bytes=resources.settings.responses.account_bytes,
        receipt_days=resources.settings.receipts.retention_days,
        usage=_usage_retention(resources.settings),
        prompts=_prompt_retention(resources.settings),
        clock=resources.clock,
    )
    backups = Backups(
        resources.settings.backup,
        database_url(resources.settings),
        resources.state,
        resources.pepper,
        clock=resources.clock,
        log=resources.log,
    )
    return Services(**structs.asdict(resources), accounts=accounts, cleanup=cleanup, backups=backups)


def _usage_retention(settings: Settings) -> UsageRetention:
    usage = settings.usage
    return UsageRetention(usage.log_days, usage.hour_days, usage.day_days)


def _prompt_retention(settings: Settings) -> PromptRetention:
    return PromptRetention(settings.prompt_log.retention_days, settings.prompt_log.account_bytes)
