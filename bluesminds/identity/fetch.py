"""Requests to providers: bounded in time and size, without redirects.

Addresses are checked when connecting, because a provider names the hosts of its endpoints itself.
"""

from typing import Final
from urllib.parse import urlsplit

import trio
from msgspec import Struct

from bluesminds import __version__
from bluesminds.http.client.pool import Pool, Timeouts, UpstreamError, UpstreamOrigin
from bluesminds.identity.external import ProviderUnavailable

MAX_BYTES: Final = 262_144
TOTAL_SECONDS: Final = 15.0
_TIMEOUTS: Final = Timeouts(connect=5.0, pool=5.0, write=5.0, first_byte=10.0, between_chunks=10.0)
_COMMON: Final = (
    (b"accept", b"application/json"),
    (b"user-agent", f"bluesminds/{__version__}".encode()),
)


class Fetched(Struct, frozen=True):
    """`max_age` is of the Cache-Control header, in seconds; 0 without one."""

    status: int
    body: bytes
    max_age: int


async def fetch(
    pool: Pool, url: str, *, headers: tuple[tuple[bytes, bytes], ...] = (), form: bytes | None = None
) -> Fetched:
    """GET, or POST of a form. Raises ProviderUnavailable."""
    origin, target = split_url(url)
    sent = _COMMON + headers
    if form is not None:
        sent += ((b"content-type", b"application/x-www-form-urlencoded"),)
    try:
        with trio.fail_after(TOTAL_SECONDS):
            response = await pool.request(
                b"GET" if form is None else b"POST", origin, target, sent, form or b"", timeouts=_TIMEOUTS
            )
            try:
                body = await response.read(MAX_BYTES)
            finally:
                response.close()
    except (UpstreamError, trio.TooSlowError) as exc:
        raise ProviderUnavailable(type(exc).__name__) from exc
    return Fetched(response.status, body, _max_age(response.header(b"cache-control") or b""))


def split_url(url: str) -> tuple[UpstreamOrigin, bytes]:
    """Raises ProviderUnavailable for what is not an http or https URL."""
    try:
        parts = urlsplit(url)
        origin, _ = UpstreamOrigin.parse(f"{parts.scheme}://{parts.netloc}", trusted=False)
    except ValueError as exc:
        raise ProviderUnavailable("invalid endpoint") from exc
    if not url.isascii() or not url.isprintable() or " " in url or origin.scheme == "unix":
        raise ProviderUnavailable("invalid endpoint")
    return origin, f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}".encode()


def _max_age(header: bytes) -> int:
    for part in header.lower().split(b","):
        name, _, value = part.strip().partition(b"=")
        if name == b"max-age" and value.isdigit() and len(value) < 10:
            return int(value)
    return 0
