"""The format of webhooks: Standard Webhooks (https://www.standardwebhooks.com), with HMAC-SHA256.

The signature is over `ID.TIMESTAMP.BODY`. The key is what follows `whsec_` in the secret, in base64.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from bluesminds.common.clock import format_time
from bluesminds.http.client.pool import UpstreamOrigin
from storage.events import EventRow

PREFIX: Final = "whsec_"
KEY_BYTES: Final = 32
TOLERANCE: Final = 300  # seconds that a receiver accepts between the timestamp and its own clock
MAX_URL: Final = 2000  # characters


class BadSignature(Exception):
    """The message says what is wrong, without the secret."""


class WebhookTarget(Struct, frozen=True):
    """Where an endpoint is: `target` is path and query."""

    origin: UpstreamOrigin
    target: bytes

    @classmethod
    def parse(cls, url: str, *, allow_http: bool) -> "WebhookTarget":
        """Raises ValueError with a sentence that does not contain the URL."""
        if len(url) > MAX_URL:
            raise ValueError(f"a URL has at most {MAX_URL} characters")
        if url.partition("://")[0].lower() not in (("https", "http") if allow_http else ("https",)):
            raise ValueError("the URL must begin with https://")
        base, has_query, query = url.partition("?")
        origin, _ = UpstreamOrigin.parse(base, trusted=False)
        if "#" in url or not query.isascii() or not query.isprintable() or " " in query:
            raise ValueError("a URL holds only printable ASCII characters without spaces and #")
        path = urlsplit(base).path or "/"
        return cls(origin, f"{path}{has_query}{query}".encode())


def new_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


def write_body(event: EventRow) -> str:
    """The body of a webhook: type, timestamp, account and data of an event."""
    return msgspec.json.encode(
        {
            "type": event.kind,
            "timestamp": format_time(event.at),
            "account_id": event.account_id,
            "data": msgspec.Raw(event.data.encode()),
        }
    ).decode()


def sign(webhook_id: str, timestamp: int, body: bytes, keys: Iterable[str]) -> str:
    """The value of `webhook-signature`: one signature for each secret. `timestamp` is in seconds."""
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return " ".join(
        "v1," + base64.b64encode(hmac.digest(_key(secret), signed, hashlib.sha256)).decode()
        for secret in keys
    )


def signed_headers(
    webhook_id: str, timestamp: int, body: bytes, keys: Sequence[str]
) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"content-type", b"application/json"),
        (b"webhook-id", webhook_id.encode()),
        (b"webhook-timestamp", str(timestamp).encode()),
        (b"webhook-signature", sign(webhook_id, timestamp, body, keys).encode()),
    )


def verify(secret: str, webhook_id: str, timestamp: str, signature: str, body: bytes, *, now: int) -> None:
    """What a receiver does. `now` is in seconds. Raises BadSignature; ValueError for an invalid secret."""
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        raise BadSignature("webhook-timestamp is missing or is not a number")
    if abs(now - int(timestamp)) > TOLERANCE:
        raise BadSignature(f"webhook-timestamp differs from this clock by more than {TOLERANCE} seconds")
    expected = sign(webhook_id, int(timestamp), body, (secret,)).encode()
    if not any(hmac.compare_digest(expected, one.encode()) for one in signature.split(" ")):
        raise BadSignature("no signature in webhook-signature belongs to this secret")


def _key(secret: str) -> bytes:
    """Raises ValueError; an empty key would accept forged messages."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if len(key) < 16:
        raise ValueError("a secret of a webhook looks like whsec_ and at least 24 characters of base64")
    return key


def wants(patterns: Sequence[str], kind: str) -> bool:
    """Whether an endpoint with these events gets events of a kind."""
    group = kind.partition(".")[0] + ".*"
    return any(one in ("*", kind, group) for one in patterns)
