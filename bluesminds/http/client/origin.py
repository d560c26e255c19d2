"""Upstream addresses: an origin is one connection target; a base URL is an origin plus a path prefix."""

import ssl
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, Self, cast
from urllib.parse import SplitResult, urlsplit

Scheme = Literal["http", "https", "unix"]

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class UpstreamOrigin:
    """One connection target. host: a name, an address without brackets, or a Unix socket's path (port 0).

    Connections to an origin that is not trusted are restricted by the pool's AddressPolicy.
    """

    scheme: Scheme
    host: str
    port: int
    trusted: bool = True

    @classmethod
    def parse(cls, url: str, *, trusted: bool = True) -> tuple[Self, str]:
        """Split a base URL into its origin and path prefix ("" or "/v1", never ending in a slash).

        Accepts `http://host[:port][/path]`, `https://…` and `unix:/socket/path[:/path]` (nginx's form; `unix:///…`
        too). Raises ValueError; its message never contains the URL, which may hold a password.
        """
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("a base URL may hold only printable ASCII characters without spaces")
        if url.startswith("unix:"):
            return cls._parse_unix(url.removeprefix("unix:"), trusted)
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ValueError("the base URL's host or port is malformed") from None
        _refuse_extras(parts)
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise ValueError("a base URL looks like http://host, https://host or unix:/path/to/socket")
        if port == 0:
            raise ValueError("the base URL's port must not be 0")
        scheme = cast(Scheme, parts.scheme)
        return (
            cls(scheme, parts.hostname, port or _DEFAULT_PORTS[scheme], trusted),
            parts.path.rstrip("/"),
        )

    @classmethod
    def _parse_unix(cls, rest: str, trusted: bool) -> tuple[Self, str]:
        path, _, base = rest.partition(":")
        if path.startswith("//"):
            path = path.removeprefix("//")
        if not path.startswith("/") or (base and not base.startswith("/")):
            raise ValueError("a socket URL looks like unix:/path/to/socket or unix:/path/to/socket:/base")
        return cls("unix", path, 0, trusted), base.rstrip("/")

    @property
    def authority(self) -> str:
        """The Host header: without the scheme's default port; `localhost` for a Unix socket."""
        if self.scheme == "unix":
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def _refuse_extras(parts: SplitResult) -> None:
    if "@" in parts.netloc:
        raise ValueError("a base URL must not hold a user name or password")
    if parts.query or parts.fragment:
        raise ValueError("a base URL must not hold a query or fragment")


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """A verifying client context that trusts the system's store, or only `ca_file` (PEM) when given.

    `ssl.create_default_context` is not used, because it writes session keys to the file that SSLKEYLOGFILE
    names. Raises OSError or ssl.SSLError when the file cannot be read.
    """
    if ca_file is None:
        return _system_tls_context()
    context = _base_tls_context()
    context.load_verify_locations(cafile=ca_file)
    return context


@cache
def _system_tls_context() -> ssl.SSLContext:
    """One for the process: to read the system's store takes about 30 ms."""
    context = _base_tls_context()
    context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def _base_tls_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
