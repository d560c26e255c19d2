"""/api/auth/second-factor: one-time codes of an authenticator app for the user's account, and their reset."""

from typing import Annotated

from msgspec import Meta, Struct
from quart import request

from bluesminds.accounts.second_factors import FactorStatus
from bluesminds.accounts.services import AccountServices
from bluesminds.common.errors import Conflict, NotFound
from bluesminds.identity.qr_code import qr_svg
from bluesminds.web.api.auth import LoginResponse, login_response
from bluesminds.web.fields import Code, Password
from bluesminds.web.guard import COOKIE, Access, Principal
from bluesminds.web.routes import HandlerResponse, RawBody, Route, route

SVG = "image/svg+xml"


class FactorBegin(Struct, forbid_unknown_fields=True):
    """`password` is required if the account has one. Otherwise the session must be at most 15 minutes old."""

    password: Password | None = None


class FactorCode(Struct, forbid_unknown_fields=True):
    code: Code


class FactorDisable(Struct, forbid_unknown_fields=True):
    """One of the two."""

    code: Code | None = None
    password: Password | None = None


class FactorSetupView(Struct, frozen=True):
    """`secret` is in base32. `uri` is what the QR code contains."""

    secret: str
    uri: str


class FactorView(Struct, frozen=True):
    """`recovery_codes`: how many are left."""

    enabled: bool
    recovery_codes: int


class RecoveryCodes(Struct, frozen=True):
    """Each works once. They are not shown again."""

    recovery_codes: Annotated[list[str], Meta(description="ten codes")]


class SecondFactorHandlers(Struct, frozen=True):
    accounts: AccountServices

    async def show(self, principal: Principal) -> FactorView:
        """Show whether your account has a second factor."""
        status = await self._status(principal)
        return FactorView(status.enabled, status.recovery_codes)

    async def begin(self, principal: Principal, body: FactorBegin) -> FactorSetupView:
        """Get a secret for your authenticator app. Its first code turns the second factor on."""
        user = await self.accounts.login.confirm(
            principal.actor, principal.user_id, principal.session_id, body.password
        )
        found = await self.accounts.second_factors.begin(principal.actor, user)
        return FactorSetupView(found.secret, found.uri)

    async def qr_code(self, principal: Principal) -> HandlerResponse[RawBody]:
        """The QR code of a secret that waits for its first code."""
        setup = (await self._status(principal)).setup
        if setup is None:
            raise NotFound(
                "second_factor_not_begun",
                "There is no secret to confirm. Send POST /api/auth/second-factor first.",
            )
        return HandlerResponse(RawBody(qr_svg(setup.uri), SVG))

    async def confirm(self, principal: Principal, body: FactorCode) -> RecoveryCodes:
        """Turn the second factor on with the first code. The response has recovery codes, shown once. All
        other sessions end.
        """
        codes = await self.accounts.second_factors.confirm(
            principal.actor, principal.user_id, body.code, session_id=principal.session_id
        )
        return RecoveryCodes(list(codes))

    async def new_codes(self, principal: Principal, body: FactorCode) -> RecoveryCodes:
        """Replace your recovery codes."""
        factors = self.accounts.second_factors
        return RecoveryCodes(
            list(await factors.new_recovery_codes(principal.actor, principal.user_id, body.code))
        )

    async def disable(self, principal: Principal, body: FactorDisable) -> None:
        """Turn the second factor off, with a code or with your password."""
        if (body.code is None) == (body.password is None):
            raise Conflict("code_or_password", "Send either a code or your password.")
        if body.password is not None:
            await self.accounts.login.reauthenticate(principal.actor, principal.user_id, body.password)
        await self.accounts.second_factors.disable(principal.actor, principal.user_id, code=body.code)

    async def sign_in(self, principal: Principal, body: FactorCode) -> HandlerResponse[LoginResponse]:
        """Finish a sign-in at another service with the code of your second factor, or of the mail."""
        federated = self.accounts.federated
        assert federated is not None  # noqa: S101 - otherwise there is no route
        user, session = await federated.complete(
            principal.actor,
            body.code,
            cookie=request.cookies.get(_pending_name(principal), ""),
            session_token=request.cookies.get(principal.cookie, ""),
            user_agent=principal.user_agent,
        )
        done = login_response(principal, user, session, bearer=False)
        ended = ("set-cookie", pending_cookie(principal, "", 0))
        return HandlerResponse(done.body, headers=(*done.headers, ended))

    async def reset(self, principal: Principal, user_id: str) -> None:
        """Remove the second factor of a user who has lost it. All sessions of the user end."""
        await self.accounts.second_factors.reset(principal.actor, user_id)

    async def _status(self, principal: Principal) -> FactorStatus:
        return await self.accounts.second_factors.status(await self.accounts.users.get(principal.user_id))


def routes(handlers: SecondFactorHandlers) -> list[Route]:
    path, session = "/api/auth/second-factor", Access.SESSION
    waiting = route("POST", f"{path}/sign-in", Access.PUBLIC, handlers.sign_in, tag="Accounts")
    return [
        *([] if handlers.accounts.federated is None else [waiting]),
        route("GET", path, session, handlers.show, tag="Accounts"),
        route("POST", path, session, handlers.begin, tag="Accounts"),
        route("GET", f"{path}/qr", session, handlers.qr_code, tag="Accounts", media=SVG),
        route("POST", f"{path}/confirm", session, handlers.confirm, tag="Accounts"),
        route("POST", f"{path}/recovery-codes", session, handlers.new_codes, tag="Accounts"),
        route("POST", f"{path}/disable", session, handlers.disable, tag="Accounts"),
        route(
            "DELETE", "/api/admin/users/{user_id}/second-factor", Access.ADMIN, handlers.reset, tag="Users"
        ),
    ]


def pending_cookie(principal: Principal, value: str, seconds: int) -> str:
    """The cookie of a sign-in that waits for the second factor."""
    secure = "; Secure" if principal.cookie == COOKIE else ""
    return f"{_pending_name(principal)}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"


def _pending_name(principal: Principal) -> str:
    return f"{principal.cookie}-second-factor"
