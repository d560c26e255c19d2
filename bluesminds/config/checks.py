"""What a type cannot say: settings that need each other, names that repeat, files that must be there.

Every check names the settings it is about, so that the caller can point at their lines and can leave out what
only follows from a value that is wrong already. No finding repeats an address or a secret.
"""

import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from bluesminds.config.fields import SERVERS
from bluesminds.config.settings import ServerSettings, Settings

Place = tuple[str | int, ...]
_PEPPER_LENGTH: Final = 16
_CERT: Final[Place] = ("server", "tls_cert")
_KEY: Final[Place] = ("server", "tls_key")


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem with the settings at `about`; the first of them is where it is to be put right."""

    about: tuple[Place, ...]
    message: str
    help: str
    warning: bool = False


def check(settings: Settings) -> Iterator[Finding]:
    """Everything wrong with settings that are each of the right type."""
    yield from _check_listener(settings)
    yield from _check_database(settings)
    yield from _check_pepper(settings)
    yield from _check_authorities(settings)
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


def _check_certificate(cert: Path, key: Path) -> Iterator[Finding]:
    missing = [
        Finding(
            (place,),
            f"{place[-1]} in [server] cannot be read: {path}",
            "name a readable PEM file",
        )
        for place, path in ((_CERT, cert), (_KEY, key))
        if not _readable(path)
    ]
    yield from missing
    if not missing and not _loads(lambda context: context.load_cert_chain(cert, key, password=_no_password)):
        yield Finding(
            (_CERT, _KEY),
            "tls_cert and tls_key in [server] cannot be used together",
            "both must be PEM files, the key without a password and made for this certificate",
        )


def _check_database(settings: Settings) -> Iterator[Finding]:
    url = settings.storage.url
    if url and not url.reveal().startswith(("sqlite:///", "postgres://", "postgresql://")):
        yield Finding(
            (("storage", "url"),),
            "url in [storage] names no known database",
            "write sqlite:///absolute/path.db or postgresql://user:password@host/name",
        )


def _check_pepper(settings: Settings) -> Iterator[Finding]:
    pepper = settings.keys.pepper
    if pepper and len(pepper.reveal()) < _PEPPER_LENGTH:
        yield Finding(
            (("keys", "pepper"),),
            f"pepper in [keys] must have at least {_PEPPER_LENGTH} characters",
            "make one with: openssl rand -hex 32",
        )


def _check_authorities(settings: Settings) -> Iterator[Finding]:
    path = settings.upstream.ca_file
    if path and not _loads(lambda context: context.load_verify_locations(path)):
        yield Finding(
            (("upstream", "ca_file"),),
            f"ca_file in [upstream] cannot be used: {path}",
            "name a PEM file of certificates the gateway may read",
        )


def _check_names(servers: tuple[ServerSettings, ...]) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for index, server in enumerate(servers):
        first = seen.setdefault(server.name, index)
        if first != index:
            about: tuple[Place, ...] = ((SERVERS, index, "name"), (SERVERS, first, "name"))
            yield Finding(
                about, f'two [[servers]] are called "{server.name}"', "give each server a name of its own"
            )


def _check_server(path: Place, server: ServerSettings) -> Iterator[Finding]:
    title = f'in [[servers]] "{server.name}"'
    url, dialect, key = (*path, "url"), (*path, "dialect"), (*path, "api_key")
    if server.url is not None:
        yield from _check_url(url, f"url {title}", server.url)
        if server.dialect == "demo":
            message = f"url {title} is not used: the demo dialect answers by itself"
            yield Finding((url, dialect), message, 'remove url, or set dialect = "openai"', warning=True)
    elif server.dialect != "demo":
        message = f"url {title} is missing"
        remedy = 'give it a url like "http://127.0.0.1:4000/v1", or correct its name'
        yield Finding(((*path, "name"), url, dialect), message, remedy)
    if server.api_key and not server.api_key.reveal().isascii():
        yield Finding(
            (key,), f"api_key {title} must be ASCII", "copy the key again, without quotes around it"
        )


def _check_url(place: Place, name: str, url: str) -> Iterator[Finding]:
    try:
        parts = urlsplit(url)
        usable = bool(parts.scheme in ("http", "https") and parts.hostname and parts.port != 0)
    except ValueError:
        usable = False
    if not usable or not url.isascii() or not url.isprintable() or " " in url:
        yield Finding(
            (place,), f"{name} is not an http or https address", "write it like https://host:port/path"
        )
    elif parts.username is not None or parts.password is not None:
        yield Finding((place,), f"{name} must not hold a user or password", 'leave out the part before "@"')
    elif parts.query or parts.fragment:
        yield Finding((place,), f'{name} must end before "?" and "#"', "keep the part up to the path")


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
