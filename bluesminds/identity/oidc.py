"""Sign-in with OpenID Connect: authorization code flow with PKCE and nonce.

Sources: OpenID Connect Core 1.0 and Discovery 1.0, RFC 7636 (PKCE), RFC 9207 (the issuer in the answer,
against mix-up of providers).
"""

import base64
import hashlib
import hmac
from collections.abc import Collection, Mapping
from typing import Any, Final
from urllib.parse import quote_plus, urlencode

import msgspec
import trio
from msgspec import Struct

from bluesminds.common.clock import Clock
from bluesminds.common.errors import Forbidden
from bluesminds.http.client.pool import Pool
from bluesminds.identity.external import (
    CLOCK_SKEW,
    ExternalIdentity,
    IdentityRejected,
    ProviderPolicy,
    ProviderUnavailable,
    SignInAttempt,
)
from bluesminds.identity.fetch import fetch, split_url
from bluesminds.identity.jose import ALGORITHMS, header_of, read_payload
from bluesminds.identity.signing_keys import SigningKeys

GOOGLE_ISSUER: Final = "https://accounts.google.com"
METADATA_AGE: Final = 3600.0  # seconds
MAX_SUBJECT: Final = 255  # characters (OpenID Connect Core 1.0, section 2)
MAX_GROUPS: Final = 1000
_HASHES: Final = {"RS256": "sha256", "PS256": "sha256", "ES256": "sha256", "ES384": "sha384"}


class OidcRow(Struct, frozen=True, kw_only=True):
    """The settings of a provider. `issuers`: allowed in its tokens. `trusted_emails`: all of its addresses
    count as verified. `hosted`: only addresses in its own domains are certain (Google).
    """

    policy: ProviderPolicy
    issuer: str
    client_id: str
    client_secret: str | None
    scopes: tuple[str, ...]
    issuers: frozenset[str] = frozenset()
    algorithms: frozenset[str] = ALGORITHMS
    groups_claim: str = "groups"
    trusted_emails: bool = False
    hosted: bool = False


class OidcMetadata(Struct, frozen=True):
    """The discovery document, as far as it is used."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None = None
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    id_token_signing_alg_values_supported: tuple[str, ...] = ("RS256",)
    authorization_response_iss_parameter_supported: bool = False


class _Tokens(Struct, frozen=True):
    id_token: str
    access_token: str | None = None


class IdTokenClaims(Struct, frozen=True):
    """Of an ID token. Times are seconds since the epoch."""

    iss: str
    sub: str
    aud: str | list[str]
    exp: float
    iat: float
    nonce: str | None = None
    azp: str | None = None
    at_hash: str | None = None
    nbf: float | None = None


class OidcClient:
    def __init__(self, pool: Pool, clock: Clock, row: OidcRow) -> None:
        self._pool = pool
        self._clock = clock
        self._row = row
        self._keys = SigningKeys(pool)
        self._known: tuple[float, OidcMetadata] | None = None

    @property
    def policy(self) -> ProviderPolicy:
        return self._row.policy

    async def authorization_url(self, attempt: SignInAttempt) -> str:
        metadata = await self._metadata()
        digest = hashlib.sha256(attempt.verifier.encode()).digest()
        query = {
            "response_type": "code",
            "client_id": self._row.client_id,
            "redirect_uri": attempt.redirect_uri,
            "scope": " ".join(self._row.scopes),
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": _base64url(digest),
            "code_challenge_method": "S256",
        }
        if self._row.hosted and len(self._row.policy.allowed_domains) == 1:
            (query["hd"],) = self._row.policy.allowed_domains  # a hint; the claim is checked
        endpoint = metadata.authorization_endpoint
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}"

    async def identify(self, attempt: SignInAttempt, answer: Mapping[str, str]) -> ExternalIdentity:
        metadata = await self._metadata()
        said = answer.get("iss")
        if said != metadata.issuer and (
            said is not None or metadata.authorization_response_iss_parameter_supported
        ):
            raise IdentityRejected("answer of another issuer")
        tokens = await self._exchange(metadata, attempt, require_code(answer))
        raw = await self._verify(metadata, tokens, attempt.nonce)
        return await self._read(metadata, tokens, raw)

    async def _metadata(self) -> OidcMetadata:
        if self._known is not None and trio.current_time() < self._known[0]:
            return self._known[1]
        answer = await fetch(self._pool, f"{self._row.issuer.rstrip('/')}/.well-known/openid-configuration")
        try:
            if answer.status != 200:
                raise ProviderUnavailable(f"discovery: status {answer.status}")
            found = msgspec.json.decode(answer.body, type=OidcMetadata)
        except msgspec.DecodeError as exc:
            raise ProviderUnavailable("discovery: not a provider") from exc
        if found.issuer != self._row.issuer:
            raise ProviderUnavailable("discovery: another issuer")
        required = (found.authorization_endpoint, found.token_endpoint, found.jwks_uri)
        for endpoint in (*required, *filter(None, (found.userinfo_endpoint,))):
            origin, _ = split_url(endpoint)
            if origin.scheme != "https" and not self._row.issuer.startswith("http:"):
                raise ProviderUnavailable("discovery: endpoint without https")
        self._known = trio.current_time() + METADATA_AGE, found
        return found

    async def _exchange(self, metadata: OidcMetadata, attempt: SignInAttempt, code: str) -> _Tokens:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": attempt.redirect_uri,
            "code_verifier": attempt.verifier,
        }
        headers: tuple[tuple[bytes, bytes], ...] = ()
        secret = self._row.client_secret
        methods = metadata.token_endpoint_auth_methods_supported
        if secret is None:
            form["client_id"] = self._row.client_id
        elif "client_secret_basic" in methods or "client_secret_post" not in methods:
            headers = (basic_authorization(self._row.client_id, secret),)
        else:
            form |= {"client_id": self._row.client_id, "client_secret": secret}
        answer = await fetch(
            self._pool, metadata.token_endpoint, headers=headers, form=urlencode(form).encode()
        )
        if answer.status in (400, 401, 403):
            raise IdentityRejected(f"token endpoint: {error_of(answer.body)}")
        try:
            if answer.status != 200:
                raise ProviderUnavailable(f"token endpoint: status {answer.status}")
            return msgspec.json.decode(answer.body, type=_Tokens)
        except msgspec.DecodeError as exc:
            raise ProviderUnavailable("token endpoint: no ID token") from exc

    async def _verify(self, metadata: OidcMetadata, tokens: _Tokens, nonce: str) -> dict[str, Any]:
        """The claims of the ID token. Raises IdentityRejected."""
        allowed = self._row.algorithms & frozenset(metadata.id_token_signing_alg_values_supported)
        header = header_of(tokens.id_token, allowed)
        key = await self._keys.find(metadata.jwks_uri, header)
        raw = read_payload(tokens.id_token, key, header)
        claims = check_claims(
            raw,
            issuers=self._row.issuers or {self._row.issuer},
            audience=self._row.client_id,
            now=self._clock.now_ms() / 1000,
        )
        if claims.nonce is None or not hmac.compare_digest(claims.nonce.encode(), nonce.encode()):
            raise IdentityRejected("wrong nonce")
        if claims.at_hash is not None and tokens.access_token is not None and header.alg in _HASHES:
            digest = hashlib.new(_HASHES[header.alg], tokens.access_token.encode()).digest()
            if claims.at_hash.rstrip("=") != _base64url(digest[: len(digest) // 2]):
                raise IdentityRejected("wrong at_hash")
        return raw

    async def _read(self, metadata: OidcMetadata, tokens: _Tokens, raw: dict[str, Any]) -> ExternalIdentity:
        """The identity in the claims. What the ID token leaves out is asked for."""
        subject = str(raw["sub"])
        wants_groups = bool(self._row.policy.admin_groups) and self._row.groups_claim not in raw
        if ("email" not in raw or wants_groups) and metadata.userinfo_endpoint and tokens.access_token:
            info = await self._userinfo(metadata.userinfo_endpoint, tokens.access_token, subject)
            # An address and whether it is verified come from the same source.
            raw = info | {name: raw[name] for name in raw if "email" in raw or name != "email_verified"}
        email, verified = raw.get("email"), raw.get("email_verified")
        said_so = verified is True or verified == "true"  # some providers write it as text
        is_verified = said_so or (verified is None and self._row.trusted_emails)
        domain = raw.get("hd") if self._row.hosted else str(email).rpartition("@")[2].lower()
        has_domain = isinstance(domain, str) and (self._row.hosted or is_verified)
        groups = raw.get(self._row.groups_claim)
        listed = [groups] if isinstance(groups, str) else groups if isinstance(groups, list) else []
        return ExternalIdentity(
            issuer=self._row.issuer,
            subject=subject,
            email=email if isinstance(email, str) and is_verified else None,
            domain=str(domain) if has_domain else None,
            owns_email=not self._row.hosted or _google_owns(email, raw.get("hd")),
            name=name_of(raw.get("name")),
            groups=frozenset(group for group in listed[:MAX_GROUPS] if isinstance(group, str)),
        )

    async def _userinfo(self, url: str, access_token: str, subject: str) -> dict[str, Any]:
        header = (b"authorization", f"Bearer {access_token}".encode())
        if not access_token.isascii() or not access_token.isprintable():
            raise ProviderUnavailable("token endpoint: unusable access token")
        answer = await fetch(self._pool, url, headers=(header,))
        try:
            if answer.status != 200:
                raise ProviderUnavailable(f"userinfo: status {answer.status}")
            found = msgspec.json.decode(answer.body, type=dict[str, Any])
        except msgspec.DecodeError as exc:
            raise ProviderUnavailable("userinfo: not JSON") from exc
        if found.get("sub") != subject:
            raise IdentityRejected("userinfo of another user")
        return found


def check_claims(
    raw: Mapping[str, Any], *, issuers: Collection[str], audience: str, now: float
) -> IdTokenClaims:
    """The claims that every token needs. `now`: seconds since the epoch. Raises IdentityRejected."""
    try:
        claims = msgspec.convert(raw, IdTokenClaims)
    except msgspec.ValidationError as exc:
        raise IdentityRejected("missing claim") from exc
    audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
    if claims.iss not in issuers:
        raise IdentityRejected("other issuer")
    if audience not in audiences or (claims.azp or audience) != audience:
        raise IdentityRejected("other audience")
    if len(audiences) > 1 and claims.azp is None:
        raise IdentityRejected("several audiences")
    if claims.exp <= now - CLOCK_SKEW:
        raise IdentityRejected("expired")
    if claims.iat > now + CLOCK_SKEW or (claims.nbf or 0) > now + CLOCK_SKEW:
        raise IdentityRejected("not valid yet")
    if not 1 <= len(claims.sub) <= MAX_SUBJECT or not claims.sub.isprintable():
        raise IdentityRejected("unusable subject")
    return claims


def require_code(answer: Mapping[str, str]) -> str:
    """The code in the query that the browser came back with. Raises Forbidden."""
    if error := answer.get("error"):
        said = "You did not allow the sign-in." if error == "access_denied" else "The service refused it."
        raise Forbidden("sign_in_refused", f"{said} Sign in again, or choose another way.")
    if not (code := answer.get("code")):
        raise IdentityRejected("no code")
    return code


def basic_authorization(name: str, secret: str) -> tuple[bytes, bytes]:
    """The header of RFC 6749, section 2.3.1."""
    both = f"{quote_plus(name)}:{quote_plus(secret)}".encode()
    return b"authorization", b"Basic " + base64.b64encode(both)


def error_of(body: bytes) -> str:
    """The error code in an answer of RFC 6749, section 5.2; "" for any other text."""
    try:
        code = msgspec.json.decode(body, type=dict[str, Any]).get("error")
    except msgspec.DecodeError:
        return ""
    return code if isinstance(code, str) and len(code) < 40 and code.replace("_", "").isalnum() else ""


def name_of(said: object) -> str:
    """A name that a provider sent, for the account: at most 100 printable characters."""
    return "".join(filter(str.isprintable, said))[:100].strip() if isinstance(said, str) else ""


def _google_owns(email: object, hosted_domain: object) -> bool:
    """Google only guarantees the addresses of its own mail and of its customers
    (https://developers.google.com/identity/gsi/web/guides/verify-google-id-token).
    """
    return isinstance(hosted_domain, str) or str(email).lower().endswith("@gmail.com")


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
