"""POST /auth/privy: a session for a user of an application that signs its users in with Privy."""

from msgspec import Struct
from quart import request

from bluesminds.accounts.privy_sign_in import PrivySignIn, PrivyTokens
from bluesminds.common.errors import Unauthenticated
from bluesminds.web.api.auth import Bearer, LoginResponse, login_response
from bluesminds.web.fields import Code
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, Route, route


class PrivyRequest(Struct, forbid_unknown_fields=True):
    """`code` is of the second factor, if the account has one."""

    bearer: Bearer = False
    code: Code | None = None


class PrivyHandlers(Struct, frozen=True):
    privy: PrivySignIn

    async def sign_in(self, principal: Principal, body: PrivyRequest) -> HandlerResponse[LoginResponse]:
        """Sign in with a token of Privy, in the Authorization header or the cookie privy-token. The header or
        cookie privy-id-token has the address of the user.
        """
        user, session = await self.privy.sign_in(
            principal.actor,
            _tokens(),
            code=body.code,
            session_token=request.cookies.get(principal.cookie, ""),
            user_agent=principal.user_agent,
        )
        return login_response(principal, user, session, bearer=body.bearer)


def routes(handlers: PrivyHandlers) -> list[Route]:
    return [route("POST", "/auth/privy", Access.PUBLIC, handlers.sign_in, tag="Accounts")]


def _tokens() -> PrivyTokens:
    """Raises Unauthenticated."""
    scheme, _, sent = request.headers.get("authorization", "").partition(" ")
    access = sent.strip() if scheme.lower() == "bearer" else request.cookies.get("privy-token", "")
    if not access:
        raise Unauthenticated(
            "missing_privy_token", "Send the access token of Privy: Authorization: Bearer TOKEN."
        )
    identity = request.headers.get("privy-id-token") or request.cookies.get("privy-id-token")
    return PrivyTokens(access, identity or None)
