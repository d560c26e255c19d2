"""An OpenID Connect provider on a real socket. Its answers are right until a test changes them.

provider = await nursery.start(identity_server.serve)
callback = provider.authorize(location)     # what a browser does there: sign in, and come back
"""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlencode, urlsplit

import trio
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.fakes import raw_upstream
from tests.fakes.raw_upstream import Peer, Received, Upstream

CLIENT_ID, CLIENT_SECRET = "gateway", "s3cret:with/signs"
USER = {"sub": "user-1", "email": "ada@example.com", "email_verified": True, "name": "Ada Lovelace"}


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value: int) -> str:
    return base64url(value.to_bytes((value.bit_length() + 7) // 8, "big"))


@dataclass
class RsaSigner:
    """A key with the id `kid`."""

    kid: str
    bits: int = 2048
    key: rsa.RSAPrivateKey = field(init=False)

    def __post_init__(self) -> None:
        self.key = rsa.generate_private_key(65537, self.bits)

    @property
    def jwk(self) -> dict[str, Any]:
        public = self.key.public_key().public_numbers()
        names = {"kty": "RSA", "kid": self.kid, "use": "sig", "alg": "RS256"}
        return names | {"n": number(public.n), "e": number(public.e)}

    @property
    def pem(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        head = {"alg": "RS256", "kid": self.kid, "typ": "JWT"} | header
        signed = unsigned(head, claims)
        signature = self.key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{base64url(signature)}"


@dataclass
class EcSigner:
    """A key on the curve P-256 with the id `kid`."""

    kid: str
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def jwk(self) -> dict[str, Any]:
        public = self.key.public_key().public_numbers()
        point = {
            name: base64url(value.to_bytes(32, "big")) for name, value in (("x", public.x), ("y", public.y))
        }
        return {"kty": "EC", "crv": "P-256", "kid": self.kid, "use": "sig", "alg": "ES256"} | point

    @property
    def pem(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        signed = unsigned({"alg": "ES256", "kid": self.kid, "typ": "JWT"} | header, claims)
        r, s = decode_dss_signature(self.key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{base64url(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def unsigned(header: dict[str, Any], claims: dict[str, Any]) -> str:
    return f"{base64url(json.dumps(header).encode())}.{base64url(json.dumps(claims).encode())}"


def sign_hs256(secret: bytes, claims: dict[str, Any], **header: Any) -> str:
    signed = unsigned({"alg": "HS256"} | header, claims)
    return f"{signed}.{base64url(hmac.digest(secret, signed.encode(), 'sha256'))}"


@dataclass
class IdentityServer:
    """`user` are the claims of the user. `claims` are added to the ID token, and None removes one.
    `make_token` replaces the signature. `keys` are published; the first one signs. `metadata` is added to the
    discovery document. `answer` is added to the query of the callback.
    """

    upstream: Upstream = field(default_factory=lambda: Upstream(0))
    user: dict[str, Any] = field(default_factory=lambda: dict(USER))
    claims: dict[str, Any] = field(default_factory=dict)
    answer: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    keys: list[Any] = field(default_factory=lambda: [RsaSigner("first")])
    make_token: Callable[[dict[str, Any]], str] | None = None
    token_claims: tuple[str, ...] | None = None
    token_status: bytes = b"200 OK"
    is_down: bool = False
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.upstream.port}"

    def reset(self) -> None:
        """Give right answers again."""
        self.claims, self.answer, self.metadata, self.make_token = {}, {}, {}, None

    def authorize(self, location: str, **changed: str) -> str:
        """The address that the browser returns to, after a sign-in at `location`."""
        assert location.startswith(f"{self.url}/authorize?")
        query = dict(parse_qsl(urlsplit(location).query))
        assert query["response_type"] == "code"
        assert query["client_id"] == CLIENT_ID
        assert query["code_challenge_method"] == "S256"
        code = f"code-{len(self.codes)}"
        self.codes[code] = query
        answer = {"code": code, "state": query["state"]} | self.answer | changed
        return f"{query['redirect_uri']}?{urlencode(answer)}"

    async def play(self, peer: Peer) -> None:
        while True:
            received = await peer.request()
            path = received.line.split(b" ")[1].decode()
            self.paths.append(path)
            if self.is_down:
                await peer.answer(b"{}", status=b"503 Service Unavailable")
                continue
            status, body = self._respond(path, received)
            await peer.answer(json.dumps(body).encode(), b"Content-Type: application/json", status=status)

    def _respond(self, path: str, received: Received) -> tuple[bytes, dict[str, Any]]:
        match path:
            case "/.well-known/openid-configuration":
                return b"200 OK", self._discovery() | self.metadata
            case "/jwks":
                return b"200 OK", {"keys": [key.jwk for key in self.keys]}
            case "/token":
                return self._token(received)
            case "/userinfo":
                return b"200 OK", self.user
        return b"404 Not Found", {}

    def _discovery(self) -> dict[str, Any]:
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/jwks",
            "userinfo_endpoint": f"{self.url}/userinfo",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256", "ES256"],
        }

    def _token(self, received: Received) -> tuple[bytes, dict[str, Any]]:
        """Checks everything that a provider checks."""
        form = {name: values[0] for name, values in parse_qs(received.body.decode()).items()}
        query = self.codes.pop(form.get("code", ""), None)
        if self.token_status != b"200 OK":
            return self.token_status, {"error": "temporarily_unavailable"}
        challenge = base64url(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if (
            query is None
            or query["code_challenge"] != challenge
            or query["redirect_uri"] != form.get("redirect_uri")
            or form.get("grant_type") != "authorization_code"
        ):
            return b"400 Bad Request", {"error": "invalid_grant"}
        if self._client(received, form) != (CLIENT_ID, CLIENT_SECRET):
            return b"401 Unauthorized", {"error": "invalid_client"}
        access_token = "at-1"
        claims = self._claims(query["nonce"]) | self.claims
        claims = {name: value for name, value in claims.items() if value is not None}
        token = self.make_token(claims) if self.make_token else self.keys[0].sign(claims)
        return b"200 OK", {"access_token": access_token, "token_type": "Bearer", "id_token": token}

    def _claims(self, nonce: str) -> dict[str, Any]:
        now = int(time.time())
        user = {name: self.user[name] for name in self.token_claims or self.user if name in self.user}
        times = {"iat": now, "exp": now + 600}
        return user | times | {"iss": self.url, "aud": CLIENT_ID, "nonce": nonce}

    @staticmethod
    def _client(received: Received, form: dict[str, str]) -> tuple[str | None, str | None]:
        if headers := received.values(b"authorization"):
            name, _, secret = base64.b64decode(headers[0].removeprefix(b"Basic ")).decode().partition(":")
            return unquote(name), unquote(secret)
        return form.get("client_id"), form.get("client_secret")


async def serve(*, task_status: trio.TaskStatus[IdentityServer]) -> None:
    """Serve on a free loopback port until cancelled."""
    server = IdentityServer()
    async with trio.open_nursery() as nursery:
        server.upstream = await nursery.start(raw_upstream.serve, server.play)
        task_status.started(server)
