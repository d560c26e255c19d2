"""Checks that types cannot express: settings that depend on each other, duplicate names, missing files.

Every finding names the settings it is about, so the caller can show their lines and can skip findings that
only follow from another error. No finding contains an address or a secret.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from bluesminds.common.clock import zone_named
from bluesminds.common.networks import Networks
from bluesminds.common.prices import RATE_FIELDS, read_day
from bluesminds.config.alerts import check_alerts
from bluesminds.config.billing import check_billing
from bluesminds.config.check_values import can_load, check_url, text_of
from bluesminds.config.fields import SERVERS, display
from bluesminds.config.findings import Finding, Source
from bluesminds.config.listener import check_listener, check_websocket
from bluesminds.config.mail import check_mail
from bluesminds.config.routes import check_routes
from bluesminds.config.servers import check_servers
from bluesminds.config.settings import (
    PromptLogSettings,
    Settings,
    VendorKeySettings,
)
from bluesminds.config.sign_in import check_accounts, check_identity

_PEPPER_LENGTH: Final = 16
_DSN: Final = re.compile(r"https?://[0-9A-Za-z]+@[^@/?#\s]+(/[^?#\s]*)?/[0-9A-Za-z]+")


def check(settings: Settings) -> Iterator[Finding]:
    """All findings. Every setting has the right type already."""
    yield from check_listener(settings)
    yield from _check_networks("upstream", settings.upstream.allowed_networks)
    yield from _check_networks("webhooks", settings.webhooks.allowed_networks)
    yield from check_websocket(settings)
    yield from _check_database(settings)
    yield from _check_pepper(settings)
    dsn = text_of(settings.log.sentry_dsn)
    if dsn is not None and not _DSN.fullmatch(dsn):
        yield Finding(
            (("log", "sentry_dsn"),),
            "sentry_dsn in [log] is not a DSN",
            "copy it from the project's settings: https://KEY@host/PROJECT",
        )
    yield from _check_authorities(("upstream", "ca_file"), settings.upstream.ca_file)
    yield from _check_authorities(("mail", "ca_file"), settings.mail.ca_file)
    yield from check_accounts(settings)
    yield from check_identity(settings)
    yield from check_mail(settings)
    yield from _check_limits(settings)
    yield from _check_prompt_log(settings.prompt_log)
    yield from _check_vendor_keys(settings.vendor_keys)
    if settings.tracing.endpoint is not None:
        yield from check_url(("tracing", "endpoint"), "endpoint in [tracing]", settings.tracing.endpoint)
    yield from check_url(("stripe", "url"), "url in [stripe]", settings.stripe.url)
    if settings.creem.url is not None:
        yield from check_url(("creem", "url"), "url in [creem]", settings.creem.url)
    yield from check_billing(settings)
    yield from _check_keyless(settings)
    yield from check_routes(settings)
    yield from check_alerts(settings)
    yield from check_servers(settings.servers)


def _check_networks(section: str, networks: Sequence[str]) -> Iterator[Finding]:
    try:
        Networks.read(networks)
    except ValueError as exc:
        message = f"allowed_networks in [{section}]: {exc}"
        fix = 'write it like allowed_networks = ["127.0.0.0/8", "10.0.0.0/8"]'
        yield Finding(((section, "allowed_networks"),), message, fix)


def _check_prompt_log(settings: PromptLogSettings) -> Iterator[Finding]:
    for pattern in settings.redact_patterns:
        try:
            re.compile(pattern)
        except re.error as exc:
            yield Finding(
                (("prompt_log", "redact_patterns"),),
                f"redact_patterns in [prompt_log]: {pattern!r} is not a regular expression: {exc}",
                'write it like redact_patterns = ["EMP-[0-9]{6}"]',
            )


def _check_vendor_keys(settings: VendorKeySettings) -> Iterator[Finding]:
    source = ("vendor_keys", "urls")
    for vendor, url in settings.urls.items():
        yield from check_url(source, f"urls in [vendor_keys] for {vendor}", url)


def _check_database(settings: Settings) -> Iterator[Finding]:
    url = text_of(settings.storage.url)
    if url and not url.startswith(("sqlite:///", "postgres://", "postgresql://")):
        yield Finding(
            (("storage", "url"),),
            "url in [storage] is not a SQLite or PostgreSQL URL",
            "write sqlite:///absolute/path.db or postgresql://user:password@host/name",
        )


def _check_pepper(settings: Settings) -> Iterator[Finding]:
    pepper = text_of(settings.keys.pepper)
    if pepper and len(pepper) < _PEPPER_LENGTH:
        yield Finding(
            (("keys", "pepper"),),
            f"pepper in [keys] must have at least {_PEPPER_LENGTH} characters",
            "generate one with: openssl rand -hex 32",
        )


def _check_authorities(source: Source, path: Path | None) -> Iterator[Finding]:
    if path and not can_load(lambda context: context.load_verify_locations(path)):
        yield Finding(
            (source,),
            f"ca_file in [{source[0]}] cannot be used: {path}",
            "name a readable PEM file with CA certificates",
        )


def _check_limits(settings: Settings) -> Iterator[Finding]:
    try:
        zone_named(settings.limits.time_zone)
    except (KeyError, ValueError):
        yield Finding(
            (("limits", "time_zone"),),
            "time_zone in [limits] is not a known time zone",
            'use an IANA name such as "Europe/Berlin" or "UTC"',
        )
    keys = Counter(
        (row.model, row.server, row.since, row.service_tier, row.from_tokens) for row in settings.prices
    )
    for model in sorted({key[0] for key, count in keys.items() if count > 1}):
        yield Finding(
            (("prices",),),
            f"{display(model)} has more than one price",
            "keep one [[prices]] table for a model, server, since, service_tier and from_tokens",
        )
    for index, row in enumerate(settings.prices):
        wrong = [name for name in ("since", "until") if not _is_day(getattr(row, name))]
        for name in wrong:
            yield Finding(
                (("prices", index, name),),
                f"{name} in [[prices]] {display(row.model)} is not a day",
                "write it like 2026-02-28",
            )
        if not wrong and row.until is not None and row.until <= (row.since or ""):
            yield Finding(
                (("prices", index, "until"), ("prices", index, "since")),
                f"[[prices]] {display(row.model)} ends before it begins",
                "set until to a day after since; the price ends before this day",
            )
        if not any(getattr(row, name) is not None for name in RATE_FIELDS):
            yield Finding(
                (("prices", index),),
                f"[[prices]] {display(row.model)} has no rate",
                'add a line like input_usd = "1.25"',
            )


def _is_day(text: str | None) -> bool:
    try:
        read_day(text or "2026-02-28")
    except ValueError:
        return False
    return True


def _check_keyless(settings: Settings) -> Iterator[Finding]:
    marked = any(server.keyless and server.mode != "off" for server in settings.servers)
    if settings.keyless.enabled and not marked:
        yield Finding(
            (("keyless", "enabled"),),
            "enabled in [keyless] needs a server with keyless = true",
            "set keyless = true for servers that clients use with their own keys, or remove enabled",
        )
    if not settings.keyless.enabled:
        for index, server in enumerate(settings.servers):
            if server.keyless:
                yield Finding(
                    ((SERVERS, index, "keyless"), ("keyless", "enabled")),
                    f'keyless in [[servers]] "{server.name}" has no effect while [keyless] is not enabled',
                    "set enabled = true in [keyless], or remove keyless",
                    warning=True,
                )
