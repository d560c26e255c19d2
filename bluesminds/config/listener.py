"""Checks of [server] and [websocket]."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bluesminds.common.networks import Networks
from bluesminds.common.origins import read_origin
from bluesminds.config.check_values import can_load, check_url, is_readable
from bluesminds.config.findings import Finding, Source
from bluesminds.config.settings import (
    ListenSettings,
    Settings,
)

_CERT: Final[Source] = ("server", "tls_cert")
_KEY: Final[Source] = ("server", "tls_key")
_PROXIES: Final[Source] = ("server", "trusted_proxies")


def check_listener(settings: Settings) -> Iterator[Finding]:
    """All findings. Every setting has the right type already."""
    server = settings.server
    if server.public_url is not None:
        yield from check_url(("server", "public_url"), "public_url in [server]", server.public_url)
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
            "raise max_spooled_bytes to at least max_upload_bytes",
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


def check_websocket(settings: Settings) -> Iterator[Finding]:
    """All findings. Every setting has the right type already."""
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
        if not is_readable(path)
    ]
    yield from missing
    if not missing and not can_load(
        lambda context: context.load_cert_chain(cert, key, password=_no_password)
    ):
        yield Finding(
            (_CERT, _KEY),
            "tls_cert and tls_key in [server] cannot be used together",
            "both must be PEM files; the key must belong to the certificate and have no password",
        )


def _no_password() -> str:
    return ""
