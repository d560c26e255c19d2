"""/api/auth: sign-up, login, and the user's own account and password.

A browser gets its session in a cookie that scripts cannot read. A program requests a bearer token and gets no
cookie. Responses of public forms do not reveal whether an address has an account.
"""

from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, structs
from quart import request

from bluesminds.accounts.services import AccountServices
from bluesminds.accounts.sessions import NewSession
from bluesminds.accounts.usage import MAX_DAYS
from bluesminds.common.clock import format_time
from bluesminds.web.api.key_schemas import KeyDate, KeyView, key_date
from bluesminds.web.api.key_schemas import view as key_view
from bluesminds.web.api.sessions import SessionView, session_view
from bluesminds.web.api.users import UserView, view
from bluesminds.web.api.vendor_keys import VendorKeyView, vendor_key_view
from bluesminds.web.fields import Code, Email, FullName, Password, PromptLogSwitch, Token
from bluesminds.web.guard import COOKIE, Access, Principal
from bluesminds.web.routes import HandlerResponse, Route, route
from storage.users import UserRow

MAX_EXPORTED_KEYS: Final = 10_000
Bearer = Annotated[bool, Meta(description="true to get the session as a token instead of a cookie")]


class SignUpRequest(Struct, forbid_unknown_fields=True):
    email: Email
    password: Password
    full_name: FullName = ""
    invite: Token | None = None


class LoginRequest(Struct, forbid_unknown_fields=True):
    email: Email
    password: Password
    bearer: Bearer = False
    code: Code | None = None


class ProfilePatch(Struct, forbid_unknown_fields=True):
    """Omitted fields stay the same."""

    full_name: FullName | UnsetType = UNSET
    prompt_log: PromptLogSwitch | UnsetType | None = UNSET


class PasswordChangeRequest(Struct, forbid_unknown_fields=True):
    password: Password
    new_password: Password
    bearer: Bearer = False


class EmailChangeRequest(Struct, forbid_unknown_fields=True):
    email: Email
    password: Password


class EmailRequest(Struct, forbid_unknown_fields=True):
    email: Email


class TokenRequest(Struct, forbid_unknown_fields=True):
    """`token` is from the mailed link."""

    token: Token
    password: Password


class SignInLink(Struct, forbid_unknown_fields=True):
    token: Token


class DeleteAccountRequest(Struct, forbid_unknown_fields=True):
    """`password` is required if the account has one. Otherwise the session must be at most 15 minutes old."""

    password: Password | None = None


class AcceptedResponse(Struct, frozen=True):
    message: str
    status: Literal["accepted"] = "accepted"


class LoginResponse(Struct, frozen=True):
    """A new session. `token` is null unless a bearer token was requested; it is shown once."""

    user: UserView
    session_id: str
    csrf_token: str
    expires_at: str
    token: str | None = None


class CurrentUser(UserView, frozen=True):
    """`csrf_token` must be sent with every change in the session of a browser."""

    session_id: str
    csrf_token: str


class LinkedIdentity(Struct, frozen=True):
    """An account at a sign-in service."""

    provider: str
    issuer: str
    subject: str
    email: str | None


class AccountExport(Struct, frozen=True):
    """What is stored about an account, without the single requests. `usage` has each day with requests."""

    user: UserView
    identities: list[LinkedIdentity]
    keys: list[KeyView]
    vendor_keys: list[VendorKeyView]
    sessions: list[SessionView]
    usage: list[KeyDate]


class AuthHandlers(Struct, frozen=True):
    accounts: AccountServices

    async def sign_up(self, principal: Principal, body: SignUpRequest) -> AcceptedResponse:
        """Request an account.

        The response does not reveal whether the address already has one. The account can be used when the
        address is confirmed, or immediately with an invitation.
        """
        await self.accounts.signup.sign_up(
            principal.actor,
            email=body.email,
            password=body.password,
            full_name=body.full_name,
            invite=body.invite,
        )
        if body.invite is not None:
            return AcceptedResponse("The account is ready. You can sign in now.")
        return AcceptedResponse("Check your mail to confirm the address.")

    async def login(self, principal: Principal, body: LoginRequest) -> HandlerResponse[LoginResponse]:
        """Sign in. The session is in a cookie, or in the response if `bearer` is true. If the account has a
        second factor, `code` is required.
        """
        user, session = await self.accounts.login.login(
            principal.actor,
            email=body.email,
            password=body.password,
            user_agent=principal.user_agent,
            code=body.code,
            instead_of=request.cookies.get(principal.cookie, ""),
        )
        return login_response(principal, user, session, bearer=body.bearer)

    async def login_locally(self, principal: Principal, body: SignInLink) -> HandlerResponse[LoginResponse]:
        """Sign in with the token of the link that the demo prints at its start. It works once."""
        self.accounts.throttle.check_public_form(principal.address)
        user, session = await self.accounts.local_sign_in.sign_in(
            principal.actor, body.token, user_agent=principal.user_agent
        )
        return login_response(principal, user, session, bearer=False)

    async def logout(self, principal: Principal) -> HandlerResponse[None]:
        """Sign out: end the current session."""
        await self.accounts.login.logout(principal.actor, principal.user_id, principal.session_id)
        return HandlerResponse(None, headers=(("set-cookie", session_cookie(principal, "", 0)),))

    async def me(self, principal: Principal) -> CurrentUser:
        """Show the current user."""
        return _current_user(principal, await self.accounts.users.get(principal.user_id))

    async def change_me(self, principal: Principal, body: ProfilePatch) -> CurrentUser:
        """Change your name, and whether the prompt log keeps your requests."""
        user = await self.accounts.users.change_own(
            principal.actor, principal.user_id, body.full_name, body.prompt_log
        )
        return _current_user(principal, user)

    async def delete_me(self, principal: Principal, body: DeleteAccountRequest) -> HandlerResponse[None]:
        """Delete your account with its keys and sessions. Usage and audit log are kept."""
        await self.accounts.login.confirm(
            principal.actor, principal.user_id, principal.session_id, body.password
        )
        await self.accounts.users.delete(principal.actor, principal.user_id)
        return HandlerResponse(None, headers=(("set-cookie", session_cookie(principal, "", 0)),))

    async def export_me(self, principal: Principal) -> AccountExport:
        """Export your account: profile, keys without secrets, sessions, and usage by day."""
        vendor_keys = self.accounts.vendor_keys
        user = await self.accounts.users.get(principal.user_id)
        keys = await self.accounts.keys.list(user.id, limit=MAX_EXPORTED_KEYS)
        days = await self.accounts.usage.totals_of_user(user.id, days=MAX_DAYS)
        sessions = await self.accounts.sessions.list(user.id)
        identities = await self.accounts.identities.list(user.id)
        return AccountExport(
            user=view(user),
            identities=[
                LinkedIdentity(row.provider, row.issuer, row.subject, row.email) for row in identities
            ],
            keys=[key_view(row) for row in keys],
            vendor_keys=[vendor_key_view(vendor_keys, row) for row in await vendor_keys.list(user.id)],
            sessions=[session_view(row, principal) for row in sessions],
            usage=[key_date(row) for row in days],
        )

    async def change_password(
        self, principal: Principal, body: PasswordChangeRequest
    ) -> HandlerResponse[LoginResponse]:
        """Change your password. All sessions end; the response contains a new one."""
        user, session = await self.accounts.login.change_password(
            principal.actor,
            principal.user_id,
            current=body.password,
            new=body.new_password,
            user_agent=principal.user_agent,
        )
        return login_response(principal, user, session, bearer=body.bearer)

    async def forgot_password(self, principal: Principal, body: EmailRequest) -> AcceptedResponse:
        """Request a password reset. If the address has an account, a link is mailed to it."""
        await self.accounts.password_reset.request(principal.actor, email=body.email)
        return AcceptedResponse("If the address has an account, a link was sent to it.")

    async def reset_password(self, principal: Principal, body: TokenRequest) -> None:
        """Set a new password with the token of a reset link. All sessions end. The address is confirmed
        as well.
        """
        await self.accounts.password_reset.reset(principal.actor, token=body.token, password=body.password)

    async def change_email(self, principal: Principal, body: EmailChangeRequest) -> AcceptedResponse:
        """Request a change of your e-mail address. It takes effect when the new address is confirmed."""
        user = await self.accounts.login.reauthenticate(principal.actor, principal.user_id, body.password)
        await self.accounts.email_change.request(principal.actor, user, email=body.email)
        return AcceptedResponse("If the address can be used, a confirmation link was sent to it.")

    async def verify_email(self, principal: Principal, body: TokenRequest) -> UserView:
        """Confirm an e-mail address with the token of a link and the password of the account."""
        verification = self.accounts.email_verification
        return view(await verification.verify(principal.actor, token=body.token, password=body.password))

    async def resend(self, principal: Principal, body: EmailRequest) -> AcceptedResponse:
        """Request a new confirmation link."""
        await self.accounts.email_verification.resend(principal.actor, email=body.email)
        return AcceptedResponse("If the address is waiting for confirmation, a link was sent to it.")


def routes(handlers: AuthHandlers) -> list[Route]:
    tag = "Accounts"
    public, session = Access.PUBLIC, Access.SESSION
    return [
        route("POST", "/api/auth/signup", public, handlers.sign_up, tag=tag, status=202),
        route("POST", "/api/auth/login", public, handlers.login, tag=tag),
        route("POST", "/api/auth/local", public, handlers.login_locally, tag=tag),
        route("POST", "/api/auth/logout", session, handlers.logout, tag=tag),
        route("GET", "/api/auth/me", session, handlers.me, tag=tag),
        route("PATCH", "/api/auth/me", session, handlers.change_me, tag=tag),
        route("GET", "/api/auth/me/export", session, handlers.export_me, tag=tag),
        route("POST", "/api/auth/me/delete", session, handlers.delete_me, tag=tag),
        route("POST", "/api/auth/password", session, handlers.change_password, tag=tag),
        route("POST", "/api/auth/password/forgot", public, handlers.forgot_password, tag=tag, status=202),
        route("POST", "/api/auth/password/reset", public, handlers.reset_password, tag=tag),
        route("POST", "/api/auth/email", session, handlers.change_email, tag=tag, status=202),
        route("POST", "/api/auth/email/verify", public, handlers.verify_email, tag=tag),
        route("POST", "/api/auth/email/resend", public, handlers.resend, tag=tag, status=202),
    ]


def _current_user(principal: Principal, user: UserRow) -> CurrentUser:
    return CurrentUser(
        **structs.asdict(view(user)), session_id=principal.session_id, csrf_token=principal.csrf
    )


def login_response(
    principal: Principal, user: UserRow, session: NewSession, *, bearer: bool
) -> HandlerResponse[LoginResponse]:
    row = session.row
    body = LoginResponse(
        user=view(user),
        session_id=row.id,
        csrf_token=session.csrf,
        expires_at=format_time(row.expires_at),
        token=session.token if bearer else None,
    )
    seconds = (row.expires_at - row.created_at) // 1000
    return HandlerResponse(
        body, headers=() if bearer else (("set-cookie", session_cookie(principal, session.token, seconds)),)
    )


def session_cookie(principal: Principal, value: str, seconds: int) -> str:
    """The header that stores a session in a browser; `seconds` 0 deletes it."""
    secure = "; Secure" if principal.cookie == COOKIE else ""
    return f"{principal.cookie}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"
