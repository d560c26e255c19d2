"""IDs, API keys, digests and encrypted secrets.

An API key is `bm_`, 30 random base62 characters (178 bits) and 6 base62 characters of CRC-32 over the 30: the
layout that GitHub published for its tokens. The checksum rejects typing errors without a database query; it
is not a security feature. Only HMAC-SHA256(pepper, key) is stored, so a stolen table is useless without the
pepper.
"""

import hashlib
import hmac
import itertools
import os
import re
import secrets
import threading
import zlib
from collections.abc import Iterator, Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
KEY_PREFIX = "bm_"
_RANDOM_CHARS = 30
_CHECK_CHARS = 6
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_KEY_LENGTH = len(KEY_PREFIX) + _RANDOM_CHARS + _CHECK_CHARS
_OWN_PREFIX = re.compile(
    r"(?<![0-9A-Za-z])bms?_", re.ASCII | re.IGNORECASE
).search  # of API keys and session tokens


def new_key() -> str:
    body = "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_CHARS))
    return f"{KEY_PREFIX}{body}{_checksum(body)}"


def is_well_formed(key: str) -> bool:
    """Whether `key` has the format and the checksum of an API key."""
    if len(key) != _KEY_LENGTH or not key.startswith(KEY_PREFIX) or not key.isascii():
        return False
    return _checksum(key[len(KEY_PREFIX) : -_CHECK_CHARS]) == key[-_CHECK_CHARS:]


def resembles_own(credential: str) -> bool:
    """Whether a credential may be an API key or a session token of this gateway with a typing error or a
    prefix. Such a credential is never forwarded to a server.
    """
    if _OWN_PREFIX(credential):
        return True
    ending = credential[len(KEY_PREFIX) - _KEY_LENGTH :]
    return ending.isascii() and _checksum(ending[:-_CHECK_CHARS]) == ending[-_CHECK_CHARS:]


def _checksum(body: str) -> str:
    number = zlib.crc32(body.encode())
    digits = []
    for _ in range(_CHECK_CHARS):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def key_digest(pepper: bytes, key: str) -> bytes:
    """HMAC-SHA256, 32 bytes: the lookup key of the api_keys table."""
    return hmac.digest(pepper, key.encode(), "sha256")


def scoped(owner: str, value: bytes) -> bytes:
    """HMAC-SHA256(owner, value) as 64 hexadecimal digits: equal values of different owners differ."""
    return hmac.digest(owner.encode(), value, "sha256").hex().encode()


def token_digest(token: str) -> bytes:
    """SHA-256, 32 bytes: enough for one-time tokens of 256 random bits."""
    return hashlib.sha256(token.encode()).digest()


def chain_key(pepper: bytes) -> bytes:
    """The key of the audit chain, 32 bytes derived from the pepper."""
    return hmac.digest(pepper, b"bluesminds audit chain", "sha256")


class _IdCounter:
    """Numbers the ids of one millisecond from 0, in all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at = -1
        self._numbers: Iterator[int] = itertools.count()

    def next(self, now_ms: int) -> int:
        with self._lock:
            if now_ms != self._at:
                self._at, self._numbers = now_ms, itertools.count()
            return next(self._numbers)


_id_counter = _IdCounter()


def uuid7(now_ms: int) -> str:
    """A UUID version 7 (RFC 9562, section 5.7): sorts by creation time.

    The ids of one process and millisecond sort by creation too: 12 bits count them (section 6.2, method 1).
    """
    counter = _id_counter.next(now_ms) & 0xFFF
    tail = int.from_bytes(os.urandom(8), "big")
    value = (now_ms & 0xFFFFFFFFFFFF) << 80 | 0x7 << 76 | counter << 64 | tail
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def first_uuid7(at_ms: int) -> str:
    """A text that every UUIDv7 of this time or later is above, and every earlier one below."""
    text = f"{at_ms & 0xFFFFFFFFFFFF:012x}"
    return f"{text[:8]}-{text[8:]}"


def uuid7_time(text: str) -> int:
    """The time of a UUIDv7, in milliseconds since the epoch."""
    return int(text[:8] + text[9:13], 16)


def is_uuid(text: str) -> bool:
    """Whether `text` has the form that uuid7 writes, which every id has."""
    return re.fullmatch(UUID, text) is not None


class Vault:
    """Encrypts API keys of servers and stored responses for the database, with Fernet (AES-128-CBC and
    HMAC-SHA256).

    The first master key encrypts; every one decrypts. To rotate, put a new key first.
    """

    def __init__(self, master_keys: Sequence[bytes]) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in master_keys])

    def seal(self, secret: str) -> bytes:
        return self.seal_bytes(secret.encode())

    def seal_bytes(self, data: bytes) -> bytes:
        return self._fernet.encrypt(data)

    def open(self, sealed: bytes) -> str:
        """Raises ValueError when no master key decrypts it."""
        return self.open_bytes(sealed).decode()

    def open_bytes(self, sealed: bytes) -> bytes:
        """Raises ValueError when no master key decrypts it."""
        try:
            return self._fernet.decrypt(sealed)
        except InvalidToken as exc:
            raise ValueError(
                "this secret was encrypted with another master key; restore that key or set the secret again"
            ) from exc


def new_master_key() -> bytes:
    return Fernet.generate_key()


def new_pepper() -> bytes:
    return secrets.token_urlsafe(32).encode()


def fingerprint(secret: bytes) -> str:
    """16 hexadecimal digits that identify a random secret without revealing it."""
    return hmac.digest(secret, b"bluesminds fingerprint", "sha256").hex()[:16]
