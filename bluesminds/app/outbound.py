"""The hosts that a configuration lets the gateway connect to. Nothing else is ever contacted."""

import contextlib
import os
from collections.abc import Iterator

from bluesminds.app.services import BadDatabaseURL, database_url
from bluesminds.config import ConfigError, Settings
from bluesminds.gateway.error_reports import SentryAddress
from bluesminds.http.client.pool import UpstreamOrigin
from bluesminds.notify.alert_channels import AlertChannel
from bluesminds.providers.vendors import from_environment
from storage import sqlite_path

_IDENTITY_HOSTS = {"google": "accounts.google.com", "github": "github.com"}


def outbound(settings: Settings) -> Iterator[str]:
    """Each with its purpose in parentheses. What users choose themselves is named without hosts."""
    servers = [(row.name, row.url) for row in settings.servers if row.mode != "off" and row.dialect != "demo"]
    for name, url in servers or [(one.name, one.url) for one in from_environment(os.environ)]:
        yield from _host(url, f"server {name}")
    yield "servers that were added with commands, if there are any"
    if settings.vendor_keys.enabled:
        yield "vendors for which users have stored keys, if there are any"
    if settings.mail.host is not None:
        yield f"{settings.mail.host}:{settings.mail.port} (mail)"
    elif settings.mail.configured:
        yield from _host(settings.mail.url, "mail")
    yield from _host(settings.upstream.entra_url, "tokens of Microsoft Entra ID")
    yield from _host(settings.tracing.endpoint, "tracing")
    with contextlib.suppress(ConfigError, ValueError):
        if settings.log.sentry_dsn is not None:
            origin = SentryAddress.parse(settings.log.sentry_dsn.reveal()).origin
            yield f"{origin.host}:{origin.port} (error reports)"
    for provider in settings.identity.providers:
        if provider.issuer is None:
            yield f"{_IDENTITY_HOSTS.get(provider.kind, provider.kind)} (sign-in {provider.name})"
        yield from _host(provider.issuer, f"sign-in {provider.name}")
    if settings.stripe.api_key is not None:
        yield from _host(settings.stripe.url, "payments")
    if settings.creem.api_key is not None:
        yield from _host(settings.creem.url or "https://api.creem.io", "payments")
    for channel in settings.alerts.channels:
        with contextlib.suppress(ConfigError, ValueError):
            origin, _ = AlertChannel(channel.name, channel.kind, channel.url.reveal()).target()
            yield f"{origin.host}:{origin.port} (alert channel {channel.name})"
    if settings.webhooks.enabled:
        yield "the URLs of webhooks"
    with contextlib.suppress(BadDatabaseURL, ConfigError):
        if sqlite_path(database_url(settings)) is None:
            yield "the host in storage.url (PostgreSQL)"


def _host(url: str | None, purpose: str) -> Iterator[str]:
    if url is not None:
        origin, _ = UpstreamOrigin.parse(url)
        yield f"{origin.host}:{origin.port} ({purpose})"
