"""Sign-in with a token of Privy, which the front end of an application sends."""

from msgspec import Struct

from bluesminds.accounts.audit import Actor
from bluesminds.accounts.federated import invalid_identity, provider_unavailable, require_domain
from bluesminds.accounts.identities import Identities, SignInRequest
from bluesminds.accounts.second_factors import SecondFactors, code_required
from bluesminds.accounts.sessions import NewSession
from bluesminds.accounts.throttle import Throttle
from bluesminds.common.log import Log
from bluesminds.identity.external import IdentityRejected, ProviderUnavailable
from bluesminds.identity.privy import PrivyVerifier
from storage.users import UserRow


class PrivyTokens(Struct, frozen=True):
    """`identity` has the address of the user; None if the application sends none."""

    access: str
    identity: str | None

    def __repr__(self) -> str:
        return "PrivyTokens()"


class PrivySignIn(Struct, frozen=True, kw_only=True):
    verifier: PrivyVerifier
    identities: Identities
    second_factors: SecondFactors
    throttle: Throttle
    log: Log

    async def sign_in(
        self,
        actor: Actor,
        tokens: PrivyTokens,
        *,
        code: str | None,
        session_token: str,
        user_agent: str,
    ) -> tuple[UserRow, NewSession]:
        """A session, instead of the one with `session_token`. `code` is of the second factor.

        Raises Forbidden, Conflict, Unauthenticated, RateLimited, UpstreamFailed.
        """
        policy = self.verifier.policy
        self.throttle.count_sign_in(actor.address)
        try:
            external = await self.verifier.identify(tokens.access, tokens.identity)
        except IdentityRejected as exc:
            self.log.warning("identity_rejected", provider=policy.name, reason=exc.reason)
            raise invalid_identity() from exc
        except ProviderUnavailable as exc:
            raise provider_unavailable(self.log, policy.name, exc) from exc
        self.throttle.release_sign_in(actor.address)
        require_domain(policy, external)
        request = SignInRequest(
            actor=actor, policy=policy, session_token=session_token, user_agent=user_agent
        )
        user, session = await self.identities.enter(request, external)
        if session is not None:
            return user, session
        if code is None:
            raise code_required()
        await self.second_factors.check(Actor(name=user.id, address=actor.address), user.id, code)
        return await self.identities.complete(request, user.id)
