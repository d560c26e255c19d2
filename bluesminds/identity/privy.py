"""Sign-in with tokens of Privy: the front end of an application signs its users in, and sends the token here.

Access and identity tokens are JWTs, signed with ES256 by the key of the application
(https://docs.privy.io/authentication/user-authentication/access-tokens and .../identity-tokens). An identity
token also has the linked accounts, as JSON in a text.
"""

from typing import Any, Final

import msgspec
from msgspec import Struct

from bluesminds.common.clock import Clock
from bluesminds.http.client.pool import Pool
from bluesminds.identity.external import ExternalIdentity, IdentityRejected, ProviderPolicy
from bluesminds.identity.jose import header_of, read_payload
from bluesminds.identity.oidc import check_claims, name_of
from bluesminds.identity.signing_keys import SigningKeys

ISSUER: Final = "privy.io"
KEYS_URL: Final = "https://api.privy.io/v1/apps/{app_id}/jwks.json"
_ALGORITHMS: Final = ("ES256",)


class PrivyRow(Struct, frozen=True, kw_only=True):
    """`key`: the verification key of the application, a PEM; None to read keys from `keys_url`."""

    policy: ProviderPolicy
    app_id: str
    key: bytes | None
    keys_url: str


class LinkedAccount(Struct, frozen=True):
    """`address` is an e-mail address for type "email". `lv`: when it was last verified."""

    type: str
    address: str | None = None
    name: str | None = None
    lv: float | None = None


class PrivyVerifier:
    def __init__(self, pool: Pool, clock: Clock, row: PrivyRow) -> None:
        self._clock = clock
        self._row = row
        self._keys = SigningKeys(pool)

    @property
    def policy(self) -> ProviderPolicy:
        return self._row.policy

    async def identify(self, access_token: str, identity_token: str | None) -> ExternalIdentity:
        """The user of an access token. The address is in the identity token, if there is one. Raises
        IdentityRejected, ProviderUnavailable.
        """
        subject = str((await self._claims(access_token))["sub"])
        accounts: list[LinkedAccount] = []
        if identity_token is not None:
            claims = await self._claims(identity_token)
            if claims["sub"] != subject:
                raise IdentityRejected("tokens of two users")
            accounts = _accounts(claims.get("linked_accounts"))
        email = next(
            (one.address for one in accounts if one.type == "email" and one.address and one.lv), None
        )
        return ExternalIdentity(
            issuer=f"{ISSUER}/{self._row.app_id}",
            subject=subject,
            email=email,
            domain=None if email is None else email.rpartition("@")[2].lower(),
            name=next((name for one in accounts if (name := name_of(one.name))), ""),
        )

    async def _claims(self, token: str) -> dict[str, Any]:
        header = header_of(token, _ALGORITHMS)
        key = self._row.key
        found = await self._keys.find(self._row.keys_url, header) if key is None else key
        raw = read_payload(token, found, header)
        now = self._clock.now_ms() / 1000
        check_claims(raw, issuers=(ISSUER,), audience=self._row.app_id, now=now)
        return raw


def _accounts(text: object) -> list[LinkedAccount]:
    """Raises IdentityRejected."""
    if text is None:
        return []
    try:
        if not isinstance(text, str):
            raise IdentityRejected("linked accounts that are not text")
        return msgspec.json.decode(text, type=list[LinkedAccount])
    except msgspec.DecodeError as exc:
        raise IdentityRejected("unreadable linked accounts") from exc
