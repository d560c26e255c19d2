"""Checks that types cannot express: settings that depend on each other, duplicate names, missing files.

Every finding names the settings it is about, so the caller can show their lines and can skip findings that
only follow from another error. No finding contains an address or a secret.
"""

import re
import ssl
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from bluesminds.common.clock import zone_named
from bluesminds.common.emails import read_email
from bluesminds.common.entra import EntraApp, is_entra_app
from bluesminds.common.networks import Networks
from bluesminds.common.origins import read_origin
from bluesminds.common.prices import RATE_FIELDS, read_day
from bluesminds.common.server_headers import check_headers
from bluesminds.common.server_urls import endpoint_in
from bluesminds.config.alerts import check_alerts
from bluesminds.config.billing import check_billing
from bluesminds.config.fields import SERVERS, display
from bluesminds.config.findings import Finding, Source
from bluesminds.config.routes import check_routes
from bluesminds.config.settings import (
    VENDORS_WITHOUT_MODEL_LIST,
    VENDORS_WITHOUT_URL,
    IdentityProviderSettings,
    ListenSettings,
    MailSettings,
    PromptLogSettings,
    ServerSettings,
    Settings,
    VendorKeySettings,
)
from bluesminds.config.values import DeferredSecret, Secret

_PEPPER_LENGTH: Final = 16
# Vendors whose URLs have no path.
_WITHOUT_PATH: Final = re.compile(r"https://(?:[\w.-]+\.azure\.com|api\.deepseek\.com|api\.perplexity\.ai)")
_CERT: Final[Source] = ("server", "tls_cert")
_KEY: Final[Source] = ("server", "tls_key")
_PROXIES: Final[Source] = ("server", "trusted_proxies")
_DSN: Final = re.compile(r"https?://[0-9A-Za-z]+@[^@/?#\s]+(/[^?#\s]*)?/[0-9A-Za-z]+")


def check(settings: Settings) -> Iterator[Finding]:
    """All findings. Every setting has the right type already."""
    yield from _check_listener(settings)
    yield from _check_networks("upstream", settings.upstream.allowed_networks)
    yield from _check_networks("webhooks", settings.webhooks.allowed_networks)
    yield from _check_websocket(settings)
    yield from _check_database(settings)
    yield from _check_pepper(settings)
    dsn = _text(settings.log.sentry_dsn)
    if dsn is not None and not _DSN.fullmatch(dsn):
        yield Finding(
            (("log", "sentry_dsn"),),
            "sentry_dsn in [log] is not a DSN",
            "copy it from the project's settings: https://KEY@host/PROJECT",
        )
    yield from _check_authorities(("upstream", "ca_file"), settings.upstream.ca_file)
    yield from _check_authorities(("mail", "ca_file"), settings.mail.ca_file)
    yield from _check_accounts(settings)
    yield from _check_identity(settings)
    yield from _check_mail(settings)
    yield from _check_limits(settings)
    yield from _check_prompt_log(settings.prompt_log)
    yield from _check_vendor_keys(settings.vendor_keys)
    if settings.tracing.endpoint is not None:
        yield from _check_url(("tracing", "endpoint"), "endpoint in [tracing]", settings.tracing.endpoint)
    yield from _check_url(("stripe", "url"), "url in [stripe]", settings.stripe.url)
    if settings.creem.url is not None:
        yield from _check_url(("creem", "url"), "url in [creem]", settings.creem.url)
    yield from check_billing(settings)
    yield from _check_keyless(settings)
    yield from check_routes(settings)
    yield from check_alerts(settings)
    yield from _check_names(settings.servers)
    for index, server in enumerate(settings.servers):
        yield from _check_server((SERVERS, index), server)


def _check_listener(settings: Settings) -> Iterator[Finding]:
    server = settings.server
    if server.public_url is not None:
        yield from _check_url(("server", "public_url"), "public_url in [server]", server.public_url)
    if server.tls_cert and server.tls_key:
        yield from _check_certificate(server.tls_cert, server.tls_key)
    elif server.tls_cert:
        yield Finding((_CERT, _KEY), "tls_cert in [server] needs tls_key", 'add tls_key = "/path/key.pem"')
    elif server.tls_key:
        yield Finding((_KEY, _CERT), "tls_key in [server] needs tls_cert", 'add tls_cert = "/path/cert.pem"')
    elif server.http2:
        about = (("server", "http2"), _CERT, _KEY)
        yield Finding(about, "http2 in [server] needs TLS", "set tls_cert and tls_key, or remove http2")
    if server.max_spooled_bytes < server.max_upload_bytes:
        yield Finding(
            (("server", "max_spooled_bytes"), ("server", "max_upload_bytes")),
            "max_spooled_bytes in [server] is less than max_upload_bytes",
            "a single upload may need as much; raise max_spooled_bytes",
        )
    yield from _check_proxies(server)
    yield from _check_origins(server)


def _check_origins(server: ListenSettings) -> Iterator[Finding]:
    try:
        for origin in server.cors_origins:
            if origin != "*":
                read_origin(origin)
    except ValueError as exc:
        message = f"cors_origins in [server]: {exc}"
        fix = 'write it like cors_origins = ["https://app.example.com"], or ["*"] for every origin'
        yield Finding((("server", "cors_origins"),), message, fix)


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
                f"redact_patterns in [prompt_log]: {pattern!r} is no regular expression: {exc}",
                'write it like redact_patterns = ["EMP-[0-9]{6}"]',
            )


def _check_vendor_keys(settings: VendorKeySettings) -> Iterator[Finding]:
    source = ("vendor_keys", "urls")
    for vendor, url in settings.urls.items():
        yield from _check_url(source, f"urls in [vendor_keys] for {vendor}", url)


def _check_websocket(settings: Settings) -> Iterator[Finding]:
    websocket = settings.websocket
    if websocket.max_message_bytes > settings.server.max_buffered_bytes:
        yield Finding(
            (("websocket", "max_message_bytes"), ("server", "max_buffered_bytes")),
            "max_message_bytes in [websocket] is larger than max_buffered_bytes in [server]",
            "lower it, because no message of that size can be held",
        )
    if websocket.idle_timeout >= websocket.session_timeout:
        yield Finding(
            (("websocket", "idle_timeout"), ("websocket", "session_timeout")),
            "idle_timeout in [websocket] has no effect, because it is not shorter than session_timeout",
            "lower it, or raise session_timeout",
            warning=True,
        )


def _check_proxies(server: ListenSettings) -> Iterator[Finding]:
    try:
        trusted = Networks.read(server.trusted_proxies)
    except ValueError as exc:
        message = f"trusted_proxies in [server]: {exc}"
        yield Finding((_PROXIES,), message, 'write it like trusted_proxies = ["127.0.0.1", "10.0.0.0/8"]')
    else:
        if any(network.prefixlen == 0 for network in trusted.members):
            message = (
                "trusted_proxies in [server] contains every address, so any client can forge its address"
            )
            yield Finding((_PROXIES,), message, "list only the addresses of your own proxies", warning=True)
    if server.proxy_protocol and not server.trusted_proxies:
        yield Finding(
            (("server", "proxy_protocol"), _PROXIES),
            "proxy_protocol in [server] needs trusted_proxies",
            "list the addresses your proxies connect from; other connections are refused",
        )


def _check_certificate(cert: Path, key: Path) -> Iterator[Finding]:
    missing = [
        Finding(
            (source,),
            f"{source[-1]} in [server] cannot be read: {path}",
            "name a readable PEM file",
        )
        for source, path in ((_CERT, cert), (_KEY, key))
        if not _readable(path)
    ]
    yield from missing
    if not missing and not _loads(lambda context: context.load_cert_chain(cert, key, password=_no_password)):
        yield Finding(
            (_CERT, _KEY),
            "tls_cert and tls_key in [server] cannot be used together",
            "both must be PEM files; the key must belong to the certificate and have no password",
        )


def _check_database(settings: Settings) -> Iterator[Finding]:
    url = _text(settings.storage.url)
    if url and not url.startswith(("sqlite:///", "postgres://", "postgresql://")):
        yield Finding(
            (("storage", "url"),),
            "url in [storage] is not a SQLite or PostgreSQL URL",
            "write sqlite:///absolute/path.db or postgresql://user:password@host/name",
        )


def _check_pepper(settings: Settings) -> Iterator[Finding]:
    pepper = _text(settings.keys.pepper)
    if pepper and len(pepper) < _PEPPER_LENGTH:
        yield Finding(
            (("keys", "pepper"),),
            f"pepper in [keys] must have at least {_PEPPER_LENGTH} characters",
            "generate one with: openssl rand -hex 32",
        )


def _check_authorities(source: Source, path: Path | None) -> Iterator[Finding]:
    if path and not _loads(lambda context: context.load_verify_locations(path)):
        yield Finding(
            (source,),
            f"ca_file in [{source[0]}] cannot be used: {path}",
            "name a readable PEM file with CA certificates",
        )


def _check_accounts(settings: Settings) -> Iterator[Finding]:
    accounts = settings.accounts
    if any(read_email(email) is None for email in accounts.admin_emails):
        yield Finding(
            (("accounts", "admin_emails"),),
            "admin_emails in [accounts] contains an invalid e-mail address",
            'write it like admin_emails = ["ada@example.com"]',
        )
    if accounts.signup != "closed" and not settings.mail.configured:
        yield Finding(
            (("accounts", "signup"), ("mail", "host")),
            f'signup in [accounts] is "{accounts.signup}", but no mail server is configured',
            "set host and sender in [mail]; without them mail is written to state_dir/outbox",
            warning=True,
        )


def _check_identity(settings: Settings) -> Iterator[Finding]:
    source = ("identity", "providers")
    names = Counter(row.name for row in settings.identity.providers)
    for name in sorted(name for name, count in names.items() if count > 1):
        message = f'two [[identity.providers]] are named "{name}"'
        yield Finding((source,), message, "give each provider a unique name")
    for index, row in enumerate(settings.identity.providers):
        yield from _check_provider((*source, index), row)
    if settings.identity.providers and settings.server.public_url is None:
        yield Finding(
            (source, ("server", "public_url")),
            "[[identity.providers]] is set, but public_url in [server] is not",
            "set it to the URL users open in a browser; providers return users to it",
            warning=True,
        )


def _check_provider(path: Source, row: IdentityProviderSettings) -> Iterator[Finding]:
    title = f'in [[identity.providers]] "{row.name}"'
    issuer = (*path, "issuer")
    if row.kind == "oidc" and row.issuer is None:
        message = f"issuer {title} is missing"
        yield Finding((path,), message, 'add issuer = "https://login.example.com"')
    elif row.kind in ("google", "privy") and row.issuer is not None:
        yield Finding((issuer,), f"issuer {title} is not used with this kind", "remove issuer")
    elif row.issuer is not None:
        yield from _check_url(issuer, f"issuer {title}", row.issuer)
        if row.issuer.startswith("http://"):
            message = f"issuer {title} is not encrypted"
            yield Finding((issuer,), message, "use https, except for tests", warning=True)
    for kind in ("google", "github", "privy"):
        if (row.name == kind) != (row.kind == kind):
            about = ((*path, "name"), (*path, "kind"))
            message = f'name {title}: "{kind}" is the name of the one provider of this kind'
            yield Finding(about, message, f'set name and kind to "{kind}", or neither')
    if row.key_file is not None and not _readable(row.key_file):
        message = f"key_file {title} cannot be read: {row.key_file}"
        yield Finding(((*path, "key_file"),), message, "name a readable PEM file with the verification key")
    if row.keys_url is not None:
        yield from _check_url((*path, "keys_url"), f"keys_url {title}", row.keys_url)
    if row.kind in ("google", "github") and row.client_secret is None:
        yield Finding((path,), f"client_secret {title} is missing", 'add client_secret = {env="NAME"}')
    if row.kind == "oidc" and "openid" not in row.scopes:
        yield Finding(((*path, "scopes"),), f'scopes {title} must contain "openid"', 'add "openid"')


def _check_mail(settings: Settings) -> Iterator[Finding]:
    mail = settings.mail
    host, sender = ("mail", "host"), ("mail", "sender")
    yield from _check_resend(mail)
    if mail.configured and mail.sender is None:
        name = "host" if mail.backend == "smtp" else "backend"
        about = (("mail", name), sender)
        yield Finding(about, f"{name} in [mail] needs sender", 'add sender = "gateway@example.com"')
    elif mail.configured and settings.server.public_url is None:
        yield Finding(
            (("server", "public_url"), host),
            "[mail] is configured, but public_url in [server] is not set",
            "set it to the URL users open in a browser; links in mail use it",
            warning=True,
        )
    elif not mail.configured and (mail.sender is not None or mail.username is not None):
        about = (("mail", "sender"), host) if mail.sender is not None else (("mail", "username"), host)
        text = f"{about[0][1]} in [mail] has no effect without host"
        yield Finding(about, text, 'add host = "smtp.example.com", or set backend = "resend"', warning=True)
    if mail.sender is not None and read_email(mail.sender) is None:
        yield Finding(
            (sender,), "sender in [mail] is not an e-mail address", "write only the address, without a name"
        )
    if (mail.username is None) != (mail.password is None):
        about = (("mail", "username"), ("mail", "password"))
        yield Finding(about, "username and password in [mail] must be set together", "set both, or neither")
    if mail.password is not None and mail.security == "none":
        about = (("mail", "security"), ("mail", "password"))
        yield Finding(about, "password in [mail] would be sent unencrypted", 'set security = "starttls"')


def _check_resend(mail: MailSettings) -> Iterator[Finding]:
    backend, api_key = ("mail", "backend"), ("mail", "api_key")
    if mail.backend == "resend" and mail.api_key is None:
        text = 'backend = "resend" in [mail] needs api_key'
        yield Finding((backend, api_key), text, 'add api_key = {env="RESEND_API_KEY"}')
    if mail.backend == "smtp" and mail.api_key is not None:
        text = "api_key in [mail] is only for Resend"
        yield Finding((api_key, backend), text, 'set backend = "resend", or remove api_key')
    if mail.backend == "resend" and mail.webhook_secret is None:
        about = (("mail", "webhook_secret"), backend)
        text = "webhook_secret in [mail] is not set, so mail is still sent to addresses that bounced"
        yield Finding(about, text, "add a webhook at Resend, and its secret here", warning=True)
    if isinstance(mail.webhook_secret, Secret) and not isinstance(mail.webhook_secret, DeferredSecret):
        yield from _check_webhook_secret(mail.webhook_secret)
    if mail.backend == "resend" and mail.host is not None:
        text = 'host in [mail] is not used with backend = "resend"'
        yield Finding((("mail", "host"), backend), text, "remove host, or set another backend")
    yield from _check_url(("mail", "url"), "url in [mail]", mail.url)


def _check_webhook_secret(secret: Secret) -> Iterator[Finding]:
    if not re.fullmatch(r"whsec_[A-Za-z0-9+/]{22,}={0,2}", secret.reveal()):
        text = "webhook_secret in [mail] is not a secret of Resend"
        yield Finding((("mail", "webhook_secret"),), text, "copy it from the webhook at Resend: whsec_...")


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
                "set until to a day after since; the price does not count on this day any more",
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
                    "set enabled = true in [keyless], or remove it",
                    warning=True,
                )


def _check_names(servers: tuple[ServerSettings, ...]) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for index, server in enumerate(servers):
        first = seen.setdefault(server.name, index)
        if first != index:
            about: tuple[Source, ...] = ((SERVERS, index, "name"), (SERVERS, first, "name"))
            yield Finding(
                about, f'two [[servers]] are named "{server.name}"', "give each server a unique name"
            )


def _check_server(path: Source, server: ServerSettings) -> Iterator[Finding]:
    title = f'in [[servers]] "{server.name}"'
    url, dialect, key = (*path, "url"), (*path, "dialect"), (*path, "api_key")
    if server.url is not None:
        yield from _check_url(url, f"url {title}", server.url)
        yield from _check_base_url(url, f"url {title}", server)
        if server.dialect == "demo":
            message = f"url {title} is ignored: the demo server is built in"
            yield Finding((url, dialect), message, 'remove url, or set dialect = "openai"', warning=True)
    elif server.vendor in VENDORS_WITHOUT_URL:
        message = f"url {title} is missing: every account of the vendor has its own"
        yield Finding(((*path, "vendor"), url), message, 'add url = "https://NAME.openai.azure.com"')
    elif server.dialect != "demo" and server.vendor is None:
        message = f"url {title} is missing"
        remedy = 'add url = "http://127.0.0.1:4000/v1" or a vendor, or correct the name'
        yield Finding(((*path, "name"), (*path, "vendor"), url, dialect), message, remedy)
    if server.vendor is not None and server.dialect == "demo":
        message = f"vendor {title} does not fit the demo server, which is built in"
        yield Finding(((*path, "vendor"), dialect), message, "remove vendor or dialect")
    if not (_text(server.api_key) or "").isascii():
        yield Finding(
            (key,), f"api_key {title} must be ASCII", "copy the key again, without quotes around it"
        )
    if server.on_disconnect == "cancel" and (server.drain_seconds or server.drain_tokens):
        about = ((*path, "on_disconnect"), (*path, "drain_seconds"), (*path, "drain_tokens"))
        message = f"drain_seconds and drain_tokens {title} have no effect"
        yield Finding(about, message, 'set on_disconnect = "drain", or remove them', warning=True)
    yield from _check_keys((*path, "api_keys"), key, title, server)
    yield from _check_models(path, title, server)
    yield from _check_headers((*path, "headers"), title, server)


def _check_keys(source: Source, single: Source, title: str, server: ServerSettings) -> Iterator[Finding]:
    if server.api_keys and server.api_key is not None:
        message = f"api_key and api_keys {title} are both set"
        yield Finding((source, single), message, "move the key of api_key to api_keys")
    keys = [text for key in server.api_keys if (text := _text(key)) is not None]
    if not all(key.isascii() for key in keys):
        message = f"api_keys {title} must be ASCII"
        yield Finding((source,), message, "copy the keys again, without quotes around them")
    try:
        for text in filter(is_entra_app, [*keys, _text(server.api_key)]):
            EntraApp.read(text or "")
    except ValueError as exc:
        yield Finding(
            (single, source), f"the key {title} names no application of Microsoft Entra ID", str(exc)
        )
    if len(set(keys)) < len(keys):
        message = f"api_keys {title} has the same key twice"
        yield Finding((source,), message, "remove one of the two")


def _check_models(path: Source, title: str, server: ServerSettings) -> Iterator[Finding]:
    lists_none = server.vendor in VENDORS_WITHOUT_MODEL_LIST or server.dialect == "azure"
    if lists_none and not server.models:
        about = ((*path, "models"), (*path, "vendor"), (*path, "dialect"))
        message = f"models {title} is missing: the server does not list its models"
        yield Finding(about, message, 'name them, on Azure by their deployments: models = ["NAME"]')


def _check_headers(source: Source, title: str, server: ServerSettings) -> Iterator[Finding]:
    headers = {name: _text(value) or "-" for name, value in (server.headers or {}).items()}
    try:
        check_headers(headers)
    except ValueError as exc:
        yield Finding((source,), f"headers {title}: {exc}", 'write it like headers = {X-Title = "Our app"}')


def _check_base_url(source: Source, name: str, server: ServerSettings) -> Iterator[Finding]:
    """Warnings about URLs that are valid but probably not the base URL of an API."""
    url = (server.url or "").rstrip("/")
    if endpoint := endpoint_in(url):
        message = f"{name} ends in {endpoint}, but the gateway adds the endpoint itself"
        yield Finding((source,), message, f"remove {endpoint} from it", warning=True)
    elif (
        server.dialect in (None, "openai", "anthropic", "gemini")
        and not server.vendor
        and re.fullmatch(r"https?://[^/]+", url)
        and not _WITHOUT_PATH.fullmatch(url)
    ):
        usual = "/v1beta" if server.dialect == "gemini" else "/v1"
        message = f"{name} has no path, but most servers have their API under {usual}"
        yield Finding((source,), message, f"add {usual} if the server needs it", warning=True)


def _check_url(source: Source, name: str, url: str) -> Iterator[Finding]:
    try:
        parts = urlsplit(url)
        usable = bool(parts.scheme in ("http", "https") and parts.hostname and parts.port != 0)
    except ValueError:
        usable = False
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        yield Finding((source,), f"{name} is not an http or https URL", "write https://host:port/path")
    elif parts.username is not None or parts.password is not None:
        yield Finding((source,), f"{name} must not contain a user or password", 'remove the part before "@"')
    elif parts.query or parts.fragment:
        yield Finding((source,), f'{name} must not contain "?" or "#"', "keep only the part up to the path")


def _text(secret: Secret | None) -> str | None:
    """The text of a secret, unless it is read later."""
    return None if secret is None or isinstance(secret, DeferredSecret) else secret.reveal()


def _readable(path: Path) -> bool:
    try:
        with path.open("rb"):
            return True
    except OSError:
        return False


def _no_password() -> str:
    return ""


def _loads(load: Callable[[ssl.SSLContext], None]) -> bool:
    try:
        load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    except (OSError, ValueError):
        return False
    return True
