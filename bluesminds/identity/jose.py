"""Signed tokens (JWS, RFC 7515) with joserfc. Only signatures are checked here; claims are the caller's.

joserfc is imported when it is first used: it takes longer to import than the gateway may take to start.
"""

import base64
import warnings
from collections.abc import Collection, Mapping
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from bluesminds.identity.external import IdentityRejected

ALGORITHMS: Final = frozenset(("RS256", "PS256", "ES256", "ES384", "EdDSA"))
"""All that are ever accepted: signatures with a public key."""
_KEY_TYPES: Final[dict[str, Literal["RSA", "EC", "OKP"]]] = {
    "RS256": "RSA",
    "PS256": "RSA",
    "ES256": "EC",
    "ES384": "EC",
    "EdDSA": "OKP",
}
_RSA_BYTES: Final = (256, 1024)
_MAX_EXPONENT: Final = 8  # characters of base64: larger ones only make signatures slow to check
MAX_TOKEN: Final = 65_536  # characters


class TokenHeader(Struct, frozen=True):
    """The parts of the header that select the key."""

    alg: str
    kid: str | None = None
    crit: object = None


def header_of(token: str, allowed: Collection[str]) -> TokenHeader:
    """Raises IdentityRejected, also for an algorithm that is not in `allowed` and ALGORITHMS."""
    try:
        if len(token) > MAX_TOKEN or not token.isascii():
            raise ValueError
        first = token.partition(".")[0]
        header = msgspec.json.decode(
            base64.urlsafe_b64decode(first + "=" * (-len(first) % 4)), type=TokenHeader
        )
    except (ValueError, msgspec.DecodeError) as exc:
        raise IdentityRejected("malformed token") from exc
    if header.alg not in ALGORITHMS or header.alg not in allowed:
        raise IdentityRejected("algorithm not allowed")
    if header.crit is not None:
        raise IdentityRejected("critical header")
    return header


def fits(jwk: Mapping[str, Any], header: TokenHeader) -> bool:
    """Whether a key of a provider may have signed a token with this header. All can sign with a key whose
    private part is published.
    """
    return (
        jwk.get("kty") == _KEY_TYPES[header.alg]
        and "d" not in jwk
        and jwk.get("use", "sig") == "sig"
        and jwk.get("alg", header.alg) == header.alg
        and (header.kid is None or jwk.get("kid") == header.kid)
    )


def read_payload(token: str, key: Mapping[str, Any] | bytes, header: TokenHeader) -> dict[str, Any]:
    """The claims of a token that `key`, a JWK or a PEM, has signed. Raises IdentityRejected."""
    from joserfc import jwk, jws
    from joserfc.errors import JoseError, SecurityWarning

    try:
        if isinstance(key, bytes):
            found: jwk.Key = jwk.import_key(key, _KEY_TYPES[header.alg])
        else:
            if key.get("kty") == "RSA":
                _check_rsa_size(str(key.get("n", "")), str(key.get("e", "")))
            found = jwk.import_key({name: value for name, value in key.items() if name not in _UNREAD})
        registry = jws.JWSRegistry(algorithms=[header.alg], strict_check_header=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)  # about the name EdDSA, which providers use
            signed = jws.deserialize_compact(token, found, algorithms=[header.alg], registry=registry)
        return msgspec.json.decode(signed.payload or b"", type=dict[str, Any])
    except (JoseError, ValueError, TypeError, KeyError, msgspec.DecodeError) as exc:
        raise IdentityRejected("invalid signature") from exc


def _check_rsa_size(modulus: str, exponent: str) -> None:
    """Raises IdentityRejected."""
    least, most = _RSA_BYTES
    if not least <= len(modulus) * 3 // 4 <= most or len(exponent) > _MAX_EXPONENT:
        raise IdentityRejected("key of an unusual size")


# Certificates and usages of keys are not used, and libraries differ in what they accept there.
_UNREAD: Final = frozenset(("x5c", "x5t", "x5t#S256", "x5u", "key_ops", "kid"))
