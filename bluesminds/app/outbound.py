"""The hosts that a configuration lets the gateway connect to. Nothing else is ever contacted."""

import contextlib
import os
from collections.abc import Iterator
from typing import Final

from bluesminds.app.database import database_url
from bluesminds.app.errors import BadDatabaseURL
from bluesminds.common.entra import is_entra_app
from bluesminds.config import ConfigError, Settings
from bluesminds.gateway.error_reports import SentryAddress
from bluesminds.http.client.pool import UpstreamOrigin
from bluesminds.identity.privy import KEYS_URL
from bluesminds.notify.alert_channels import AlertChannel
from bluesminds.providers.azure import token_service
from bluesminds.providers.vendors import from_environment
from storage import sqlite_path

_IDENTITY_HOSTS: Final = {
    # The endpoints that its discovery document names.
    "google": ("accounts.google.com", "oauth2.googleapis.com", "www.googleapis.com"),
    "github": ("github.com", "api.github.com"),
}


def outbound(settings: Settings) -> Iterator[str]:
    """Each with its purpose in parentheses. What users choose themselves is named without hosts."""
    servers = [(row.name, row.url) for row in settings.servers if row.mode != "off" and row.dialect != "demo"]
    for name, url in servers or [(one.name, one.url) for one in from_environment(os.environ)]:
        yield from _host(url, f"server {name}")
    yield from _token_services(settings)
    yield "servers in the database, if any"
    if settings.vendor_keys.enabled:
        yield "vendors of stored user keys, if any"
    if settings.mail.host is not None:
        yield f"{settings.mail.host}:{settings.mail.port} (mail)"
    elif settings.mail.configured:
        yield from _host(settings.mail.url, "mail")
    yield from _host(settings.tracing.endpoint, "tracing")
    with contextlib.suppress(ConfigError, ValueError):
        if settings.log.sentry_dsn is not None:
            origin = SentryAddress.parse(settings.log.sentry_dsn.reveal()).origin
            yield f"{origin.host}:{origin.port} (error reports)"
    for provider in settings.identity.providers:
        if provider.kind == "privy":
            if provider.key_file is None:
                yield from _host(provider.keys_url or KEYS_URL, f"sign-in {provider.name}")
        elif provider.issuer is None:
            for host in _IDENTITY_HOSTS.get(provider.kind, ()):
                yield f"{host}:443 (sign-in {provider.name})"
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


def _token_services(settings: Settings) -> Iterator[str]:
    """Of servers whose key names an application."""
    for row in settings.servers:
        keys = (*((row.api_key,) if row.api_key is not None else ()), *row.api_keys)
        with contextlib.suppress(ConfigError):
            if row.url is not None and any(is_entra_app(key.reveal()) for key in keys):
                service = settings.upstream.entra_url or token_service(row.url)[0]
                yield from _host(service, f"tokens for server {row.name}")


def _host(url: str | None, purpose: str) -> Iterator[str]:
    if url is not None:
        origin, _ = UpstreamOrigin.parse(url)
        yield f"{origin.host}:{origin.port} ({purpose})"
