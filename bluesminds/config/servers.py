"""Checks of [[servers]]."""

import re
from collections.abc import Iterator
from typing import Final

from bluesminds.common.entra import EntraApp, is_entra_app
from bluesminds.common.server_headers import check_headers
from bluesminds.common.server_urls import endpoint_in
from bluesminds.config.check_values import check_url, text_of
from bluesminds.config.fields import SERVERS
from bluesminds.config.findings import Finding, Source
from bluesminds.config.settings import (
    VENDORS_WITHOUT_MODEL_LIST,
    VENDORS_WITHOUT_URL,
    ServerSettings,
)

# Vendors whose URLs have no path.
_WITHOUT_PATH: Final = re.compile(r"https://(?:[\w.-]+\.azure\.com|api\.deepseek\.com|api\.perplexity\.ai)")


def check_servers(servers: tuple[ServerSettings, ...]) -> Iterator[Finding]:
    """All findings. Every setting has the right type already."""
    yield from _check_names(servers)
    for index, server in enumerate(servers):
        yield from _check_server((SERVERS, index), server)


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
        yield from check_url(url, f"url {title}", server.url)
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
        message = f"vendor {title} cannot be used with the demo server, which is built in"
        yield Finding(((*path, "vendor"), dialect), message, "remove vendor or dialect")
    if not (text_of(server.api_key) or "").isascii():
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
    keys = [text for key in server.api_keys if (text := text_of(key)) is not None]
    if not all(key.isascii() for key in keys):
        message = f"api_keys {title} must be ASCII"
        yield Finding((source,), message, "copy the keys again, without quotes around them")
    try:
        for text in filter(is_entra_app, [*keys, text_of(server.api_key)]):
            EntraApp.read(text or "")
    except ValueError as exc:
        yield Finding(
            (single, source), f"the key {title} is not an application of Microsoft Entra ID", str(exc)
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
    headers = {name: text_of(value) or "-" for name, value in (server.headers or {}).items()}
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
