"""Sign-in with GitHub, which has OAuth 2.0 but no OpenID Connect: the API says who the user is.

Sources: https://docs.github.com/apps/oauth-apps/building-oauth-apps/authorizing-oauth-apps and
https://docs.github.com/rest/users/emails. A GitHub Enterprise Server has its API below /api/v3.
"""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from bluesminds.http.client.pool import Pool
from bluesminds.identity.external import (
    ExternalIdentity,
    IdentityRejected,
    ProviderPolicy,
    ProviderUnavailable,
    SignInAttempt,
)
from bluesminds.identity.fetch import fetch
from bluesminds.identity.oidc import error_of, name_of, require_code

GITHUB: Final = "https://github.com"
SCOPES: Final = ("read:user", "user:email")
_VERSION: Final = (b"x-github-api-version", b"2022-11-28")
T = TypeVar("T")


class GitHubRow(Struct, frozen=True, kw_only=True):
    """How to talk to GitHub, or to a GitHub Enterprise Server at `issuer`. `owns_emails`: it answers for the
    addresses of its users. github.com has only verified them once.
    """

    policy: ProviderPolicy
    client_id: str
    client_secret: str
    issuer: str = GITHUB
    owns_emails: bool = False

    @property
    def api(self) -> str:
        return "https://api.github.com" if self.issuer == GITHUB else f"{self.issuer}/api/v3"


class _Granted(Struct, frozen=True):
    access_token: str


class GitHubUser(Struct, frozen=True):
    """`id` never changes; `login` and `name` do."""

    id: int
    login: str
    name: str | None = None


class GitHubEmail(Struct, frozen=True):
    email: str
    primary: bool
    verified: bool


class GitHubClient:
    def __init__(self, pool: Pool, row: GitHubRow) -> None:
        self._pool = pool
        self._row = row

    @property
    def policy(self) -> ProviderPolicy:
        return self._row.policy

    async def authorization_url(self, attempt: SignInAttempt) -> str:
        digest = hashlib.sha256(attempt.verifier.encode()).digest()
        query = {
            "client_id": self._row.client_id,
            "redirect_uri": attempt.redirect_uri,
            "scope": " ".join(SCOPES),
            "state": attempt.state,
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        return f"{self._row.issuer}/login/oauth/authorize?{urlencode(query)}"

    async def identify(self, attempt: SignInAttempt, answer: Mapping[str, str]) -> ExternalIdentity:
        if answer.get("iss", self._row.issuer) != self._row.issuer:
            raise IdentityRejected("answer of another issuer")
        token = await self._exchange(attempt, require_code(answer))
        user = await self._ask("/user", token, GitHubUser)
        emails = await self._ask("/user/emails", token, list[GitHubEmail])
        email = next((one.email for one in emails if one.primary and one.verified), None)
        return ExternalIdentity(
            issuer=self._row.issuer,
            subject=str(user.id),
            email=email,
            domain=None if email is None else email.rpartition("@")[2].lower(),
            owns_email=self._row.owns_emails,
            name=name_of(user.name or user.login),
        )

    async def _exchange(self, attempt: SignInAttempt, code: str) -> str:
        form = {
            "client_id": self._row.client_id,
            "client_secret": self._row.client_secret,
            "code": code,
            "redirect_uri": attempt.redirect_uri,
            "code_verifier": attempt.verifier,
        }
        url = f"{self._row.issuer}/login/oauth/access_token"
        answer = await fetch(self._pool, url, form=urlencode(form).encode())
        if error := error_of(answer.body):  # GitHub sends errors with 200
            raise IdentityRejected(f"token endpoint: {error}")
        granted = _read(answer.status, answer.body, _Granted)
        if not granted.access_token.isascii() or not granted.access_token.isprintable():
            raise ProviderUnavailable("token endpoint: unusable access token")
        return granted.access_token

    async def _ask(self, path: str, token: str, kind: type[T]) -> T:
        authorization = (b"authorization", f"Bearer {token}".encode())
        answer = await fetch(self._pool, f"{self._row.api}{path}", headers=(authorization, _VERSION))
        return _read(answer.status, answer.body, kind)


def _read(status: int, body: bytes, kind: type[T]) -> T:
    """Raises ProviderUnavailable."""
    if status != 200:
        raise ProviderUnavailable(f"GitHub: status {status}")
    try:
        found: Any = msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as exc:
        raise ProviderUnavailable("GitHub: unexpected answer") from exc
    return found  # type: ignore[no-any-return]
