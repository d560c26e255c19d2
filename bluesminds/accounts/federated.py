"""Sign-in at a provider: the steps of the browser there and back.

A started sign-in is in a cookie of the browser that started it, encrypted. It is accepted once, for ten
minutes. So is a sign-in that waits for a code: of the second factor, or of a mail.
"""

import hmac
import secrets
from collections.abc import Mapping
from typing import Final, Literal

import msgspec
from msgspec import Struct, structs

from bluesminds.accounts.address_proofs import AddressProofs, PendingProof
from bluesminds.accounts.audit import Actor
from bluesminds.accounts.identities import AddressUnproven, Identities, SignInRequest
from bluesminds.accounts.second_factors import SecondFactors
from bluesminds.accounts.sessions import ActiveSession, NewSession
from bluesminds.accounts.throttle import Throttle
from bluesminds.common.clock import Clock
from bluesminds.common.crypto import Vault, token_digest
from bluesminds.common.errors import Forbidden, NotFound, Unauthenticated, UpstreamFailed
from bluesminds.common.log import Log
from bluesminds.identity.external import (
    ExternalIdentity,
    IdentityRejected,
    ProviderPolicy,
    ProviderUnavailable,
    SignInAttempt,
    SignInClient,
)
from storage.users import UserRow

LIFETIME_MS: Final = 600_000  # of a started sign-in
MAX_USED: Final = 10_000  # states that are remembered as used
Missing = Literal["", "second factor", "mailed code"]


class StartedSignIn(Struct, frozen=True):
    """Where the browser is sent, and the content of its cookie."""

    url: str
    cookie: str


class FinishedSignIn(Struct, frozen=True):
    """`session` is None if the identity was linked to the account that was signed in already, and while a
    code is `missing`: then `pending` is the content of the browser's cookie.
    """

    session: NewSession | None
    next: str
    missing: Missing = ""
    pending: str = ""


class PendingSignIn(Struct, frozen=True, kw_only=True, tag="second factor"):
    """A sign-in that waits for the second factor. The browser keeps it, encrypted."""

    user_id: str
    provider: str
    started_at: int


class FederatedSignIn:
    """`clients` are the providers by name."""

    def __init__(
        self,
        clients: Mapping[str, SignInClient],
        identities: Identities,
        second_factors: SecondFactors,
        proofs: AddressProofs,
        *,
        clock: Clock,
        vault: Vault,
        throttle: Throttle,
        log: Log,
    ) -> None:
        self._clients = clients
        self._identities = identities
        self._second_factors = second_factors
        self._proofs = proofs
        self._clock = clock
        self._vault = vault
        self._throttle = throttle
        self._log = log
        self._used: dict[bytes, int] = {}  # digests of states, and when they expire; the oldest first

    @property
    def providers(self) -> list[ProviderPolicy]:
        """In the order of the settings."""
        return [client.policy for client in self._clients.values()]

    async def start(
        self,
        provider: str,
        *,
        redirect_uri: str,
        next_page: str = "",
        user_id: str = "",
        session_id: str = "",
    ) -> StartedSignIn:
        """With `user_id`, the identity is linked to the account of this session. Raises NotFound,
        UpstreamFailed.
        """
        client = self._client(provider)
        attempt = SignInAttempt(
            provider=provider,
            state=secrets.token_urlsafe(32),
            nonce=secrets.token_urlsafe(32),
            verifier=secrets.token_urlsafe(48),
            redirect_uri=redirect_uri,
            started_at=self._clock.now_ms(),
            next=next_page,
            user_id=user_id,
            session_id=session_id,
        )
        try:
            url = await client.authorization_url(attempt)
        except ProviderUnavailable as exc:
            raise provider_unavailable(self._log, provider, exc) from exc
        return StartedSignIn(url, self._vault.seal_bytes(msgspec.json.encode(attempt)).decode())

    async def finish(
        self,
        actor: Actor,
        provider: str,
        answer: Mapping[str, str],
        *,
        cookie: str,
        session: ActiveSession | None,
        session_token: str,
        user_agent: str,
    ) -> FinishedSignIn:
        """`answer` is the query that the browser came back with, `session` the one of its cookie.

        Raises Forbidden, Conflict, Unauthenticated for a disabled account, RateLimited, UpstreamFailed.
        """
        client = self._client(provider)
        attempt = self._use(provider, answer.get("state", ""), cookie)
        self._throttle.count_sign_in(actor.address)
        try:
            external = await client.identify(attempt, answer)
        except IdentityRejected as exc:
            self._log.warning("identity_rejected", provider=provider, reason=exc.reason)
            raise invalid_identity() from exc
        except ProviderUnavailable as exc:
            raise provider_unavailable(self._log, provider, exc) from exc
        require_domain(client.policy, external)
        self._throttle.release_sign_in(actor.address)
        if attempt.user_id:
            if session is None or (session.user_id, session.session_id) != (
                attempt.user_id,
                attempt.session_id,
            ):
                raise sign_in_expired()
            await self._identities.link(actor, session.user_id, client.policy, external)
            return FinishedSignIn(None, attempt.next)
        request = SignInRequest(
            actor=actor, policy=client.policy, session_token=session_token, user_agent=user_agent
        )
        now = self._clock.now_ms()
        try:
            user, new = await self._identities.enter(request, external)
        except AddressUnproven:
            proof = await self._proofs.begin(external, provider, client.policy.title, now)
            return FinishedSignIn(None, attempt.next, "mailed code", self._seal(proof))
        if new is None:
            waits = PendingSignIn(user_id=user.id, provider=provider, started_at=now)
            return FinishedSignIn(None, attempt.next, "second factor", self._seal(waits))
        return FinishedSignIn(new, attempt.next)

    async def complete(
        self, actor: Actor, code: str, *, cookie: str, session_token: str, user_agent: str
    ) -> tuple[UserRow, NewSession]:
        """A session for a sign-in that waits for a code. Raises Forbidden, Unauthenticated, Conflict,
        RateLimited.
        """
        try:
            opened = self._vault.open_bytes(cookie.encode())
            waits = msgspec.json.decode(opened, type=PendingSignIn | PendingProof)
        except (ValueError, msgspec.DecodeError) as exc:
            raise sign_in_expired() from exc
        client = self._clients.get(waits.provider)
        if client is None or not self._is_recent(waits.started_at):
            raise sign_in_expired()
        request = SignInRequest(
            actor=actor, policy=client.policy, session_token=session_token, user_agent=user_agent
        )
        if isinstance(waits, PendingProof):
            return await self._prove(request, waits, code)
        as_user = Actor(name=waits.user_id, address=actor.address)
        await self._second_factors.check(as_user, waits.user_id, code)
        return await self._identities.complete(request, waits.user_id)

    async def _prove(
        self, request: SignInRequest, waits: PendingProof, code: str
    ) -> tuple[UserRow, NewSession]:
        digest = token_digest(waits.state)
        if digest in self._used:
            raise sign_in_expired()
        self._proofs.check(request.actor, waits, code)
        self._remember(digest)
        proven = structs.replace(waits.external, owns_email=True)
        user, session = await self._identities.enter(request, proven)
        if session is None:  # the identity is linked now
            raise Unauthenticated(
                "second_factor_required",
                "Your address is confirmed. Sign in again, with a code from your authenticator app.",
            )
        return user, session

    def _seal(self, waits: PendingSignIn | PendingProof) -> str:
        return self._vault.seal_bytes(msgspec.json.encode(waits)).decode()

    def _is_recent(self, started_at: int) -> bool:
        return -LIFETIME_MS < self._clock.now_ms() - started_at < LIFETIME_MS

    def _remember(self, digest: bytes) -> None:
        """Of a state that was used."""
        now = self._clock.now_ms()
        while self._used and (len(self._used) >= MAX_USED or next(iter(self._used.values())) < now):
            del self._used[next(iter(self._used))]
        self._used[digest] = now + 2 * LIFETIME_MS

    def _client(self, provider: str) -> SignInClient:
        client = self._clients.get(provider)
        if client is None:
            raise NotFound("identity_provider_not_found", "There is no sign-in service with this name.")
        return client

    def _use(self, provider: str, state: str, cookie: str) -> SignInAttempt:
        """The attempt that this browser started with this provider. It works once. Raises Forbidden."""
        try:
            attempt = msgspec.json.decode(self._vault.open_bytes(cookie.encode()), type=SignInAttempt)
        except (ValueError, msgspec.DecodeError) as exc:
            raise sign_in_expired() from exc
        digest = token_digest(attempt.state)
        if (
            attempt.provider != provider
            or not hmac.compare_digest(attempt.state.encode(), state.encode())
            or not self._is_recent(attempt.started_at)
            or digest in self._used
        ):
            raise sign_in_expired()
        self._remember(digest)
        return attempt


def require_domain(policy: ProviderPolicy, external: ExternalIdentity) -> None:
    """Raises Forbidden."""
    if policy.allowed_domains and external.domain not in policy.allowed_domains:
        raise Forbidden(
            "identity_not_allowed",
            f"Your account at {policy.title} is not allowed here. Use an account of your organisation.",
        )


def provider_unavailable(log: Log, provider: str, exc: ProviderUnavailable) -> UpstreamFailed:
    """The error for the client; the reason is logged."""
    log.warning("identity_provider_failed", provider=provider, reason=exc.reason)
    message = "The sign-in service failed. Try again later."
    return UpstreamFailed(502, "identity_provider_failed", message)


def invalid_identity() -> Forbidden:
    return Forbidden(
        "invalid_identity",
        "The response of the sign-in service is invalid. Sign in again. If it fails again, ask the operator.",
    )


def sign_in_expired() -> Forbidden:
    return Forbidden(
        "sign_in_expired",
        "This sign-in has expired, was used already, or was started in another browser. Start again.",
    )
