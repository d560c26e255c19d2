"""Checks that several sections share."""

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from bluesminds.config.findings import Finding, Source
from bluesminds.config.values import DeferredSecret, Secret


def check_url(source: Source, name: str, url: str) -> Iterator[Finding]:
    """`name` says in the messages where the URL is."""
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


def text_of(secret: Secret | None) -> str | None:
    """The text of a secret, unless it is read later."""
    return None if secret is None or isinstance(secret, DeferredSecret) else secret.reveal()


def is_readable(path: Path) -> bool:
    """Whether this process can read the file."""
    try:
        with path.open("rb"):
            return True
    except OSError:
        return False


def can_load(load: Callable[[ssl.SSLContext], None]) -> bool:
    """Whether `load` can load its files into a context."""
    try:
        load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    except (OSError, ValueError):
        return False
    return True
