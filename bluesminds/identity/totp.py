"""Time-based one-time codes (RFC 6238): SHA-1, 6 digits, 30 seconds, which all authenticator apps support."""

import base64
import hmac
import secrets
import struct
from typing import Final
from urllib.parse import quote, urlencode

STEP_MS: Final = 30_000
DIGITS: Final = 6
SECRET_BYTES: Final = 20  # RFC 4226, section 4, recommends 160 bits
SPREAD: Final = 1  # steps that the clock of a phone may differ
_ISSUER: Final = "BluesMinds"


def new_secret() -> str:
    """In base32, as authenticator apps take it."""
    return base64.b32encode(secrets.token_bytes(SECRET_BYTES)).decode()


def code_at(secret: str, step: int) -> str:
    """The code of a step; `step` is the time in milliseconds since the epoch divided by STEP_MS."""
    digest = hmac.digest(base64.b32decode(secret), struct.pack(">Q", step), "sha1")
    start = digest[-1] & 0x0F
    number = int.from_bytes(digest[start : start + 4], "big") & 0x7FFFFFFF
    return f"{number % 10**DIGITS:0{DIGITS}}"


def step_of(secret: str, code: str, now_ms: int) -> int | None:
    """The step of a code that is right at this time; None for a wrong code."""
    now = now_ms // STEP_MS
    found = None
    for step in range(max(0, now - SPREAD), now + SPREAD + 1):
        if hmac.compare_digest(code_at(secret, step).encode(), code.encode()):
            found = step
    return found


def provisioning_uri(secret: str, account: str) -> str:
    """What an app reads from a QR code.

    Format: https://github.com/google/google-authenticator/wiki/Key-Uri-Format
    """
    label = quote(f"{_ISSUER}:{account}", safe="")
    query = {
        "secret": secret,
        "issuer": _ISSUER,
        "algorithm": "SHA1",
        "digits": DIGITS,
        "period": STEP_MS // 1000,
    }
    return f"otpauth://totp/{label}?{urlencode(query)}"
