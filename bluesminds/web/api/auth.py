"""/api/auth: signing up and in, one's own account, password and sessions.

A browser gets its session as a cookie that scripts cannot read; a program asks for it as a bearer token, and
then gets no cookie. Answers to what strangers ask about addresses are all the same.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct, structs
from quart import request

from bluesminds.accounts.login import Auth
from bluesminds.accounts.mailboxes import Mailboxes
from bluesminds.accounts.sessions import NewSession
from bluesminds.accounts.users import Users
from bluesminds.common.clock import format_time
from bluesminds.web.api.users import UserView, view
from bluesminds.web.fields import Email, FullName, Password, Token
from bluesminds.web.guard import COOKIE, Access, Principal
from bluesminds.web.routes import Answer, Route, route
from storage.users import UserRow


class SignUp(Struct, forbid_unknown_fields=True):
    email: Email
    password: Password
    full_name: FullName = ""
    invite: Token | None = None


class Login(Struct, forbid_unknown_fields=True):
    email: Email
    password: Password
    bearer: Annotated[bool, Meta(description="true to get the session as a token instead of a cookie")] = (
        False
    )


class ProfilePatch(Struct, forbid_unknown_fields=True):
    full_name: FullName


class PasswordChange(Struct, forbid_unknown_fields=True):
    password: Password
    new_password: Password
    bearer: Annotated[bool, Meta(description="true to get the session as a token instead of a cookie")] = (
        False
    )


class EmailChange(Struct, forbid_unknown_fields=True):
    email: Email
    password: Password


class Address(Struct, forbid_unknown_fields=True):
    email: Email


class Reset(Struct, forbid_unknown_fields=True):
    token: Token
    password: Password


class Confirmation(Struct, forbid_unknown_fields=True):
    token: Token
    password: Password


class AcceptedResponse(Struct, frozen=True):
    message: str
    status: Literal["accepted"] = "accepted"


class LoginResponse(Struct, frozen=True):
    """A session. `token` is there only if it was asked for, and is shown this once."""

    user: UserView
    session_id: str
    csrf_token: str
    expires_at: str
    token: str | None = None


class Me(UserView, frozen=True):
    session_id: str
    csrf_token: str


class AuthHandlers(Struct, frozen=True):
    auth: Auth
    mailboxes: Mailboxes
    members: Users

    async def sign_up(self, who: Principal, body: SignUp) -> AcceptedResponse:
        """Ask for an account. The answer does not tell whether the address has one already: the rest comes by
        mail. With an invitation the account can be used at once.
        """
        await self.mailboxes.sign_up(
            who.actor,
            email=body.email,
            password=body.password,
            full_name=body.full_name,
            invite=body.invite,
        )
        return AcceptedResponse(
            "If the address can have an account, it can be used once the address is confirmed."
        )

    async def login(self, who: Principal, body: Login) -> Answer[LoginResponse]:
        """Sign in. A cookie holds the session, or with `bearer` the answer does."""
        user, opened = await self.auth.login(
            who.actor,
            email=body.email,
            password=body.password,
            user_agent=who.user_agent,
            instead_of=request.cookies.get(who.cookie, ""),
        )
        return _begun(who, user, opened, bearer=body.bearer)

    async def logout(self, who: Principal) -> Answer[None]:
        """End this session."""
        await self.auth.logout(who.actor, who.user_id, who.session_id)
        return Answer(None, headers=(("set-cookie", _cookie(who, "", 0)),))

    async def me(self, who: Principal) -> Me:
        """Show who is signed in, with the token that a page sends along with changes."""
        return _me(who, await self.members.get(who.user_id))

    async def change_me(self, who: Principal, body: ProfilePatch) -> Me:
        """Change one's name."""
        return _me(who, await self.members.rename(who.actor, who.user_id, body.full_name))

    async def change_password(self, who: Principal, body: PasswordChange) -> Answer[LoginResponse]:
        """Change one's password. All sessions end; the answer holds a new one."""
        user, opened = await self.auth.change_password(
            who.actor, who.user_id, current=body.password, new=body.new_password, user_agent=who.user_agent
        )
        return _begun(who, user, opened, bearer=body.bearer)

    async def forgot_password(self, who: Principal, body: Address) -> AcceptedResponse:
        """Ask for a link to choose a new password by."""
        await self.mailboxes.forgot(who.actor, email=body.email)
        return AcceptedResponse("If the address has an account, a link is on its way to it.")

    async def reset_password(self, who: Principal, body: Reset) -> None:
        """Choose a new password with the token of a link. All sessions end; the address counts as
        confirmed.
        """
        await self.mailboxes.reset(who.actor, token=body.token, password=body.password)

    async def change_email(self, who: Principal, body: EmailChange) -> AcceptedResponse:
        """Ask for another address. It counts from the moment it is confirmed."""
        user = await self.auth.prove_again(who.actor, who.user_id, body.password)
        await self.mailboxes.change(who.actor, user, email=body.email)
        return AcceptedResponse("If the address can be used, a link to confirm it is on its way to it.")

    async def verify_email(self, who: Principal, body: Confirmation) -> UserView:
        """Confirm an address with the token of a link and the password of the account."""
        return view(await self.mailboxes.verify(who.actor, token=body.token, password=body.password))

    async def resend(self, who: Principal, body: Address) -> AcceptedResponse:
        """Ask for a new link to confirm an address by."""
        await self.mailboxes.resend(who.actor, email=body.email)
        return AcceptedResponse("If the address waits for its confirmation, a link is on its way to it.")


def routes(handlers: AuthHandlers) -> list[Route]:
    tag = "Accounts"
    anybody, signed_in = Access.PUBLIC, Access.SESSION
    return [
        route("POST", "/api/auth/signup", anybody, handlers.sign_up, tag=tag, status=202),
        route("POST", "/api/auth/login", anybody, handlers.login, tag=tag),
        route("POST", "/api/auth/logout", signed_in, handlers.logout, tag=tag),
        route("GET", "/api/auth/me", signed_in, handlers.me, tag=tag),
        route("PATCH", "/api/auth/me", signed_in, handlers.change_me, tag=tag),
        route("POST", "/api/auth/password", signed_in, handlers.change_password, tag=tag),
        route("POST", "/api/auth/password/forgot", anybody, handlers.forgot_password, tag=tag, status=202),
        route("POST", "/api/auth/password/reset", anybody, handlers.reset_password, tag=tag),
        route("POST", "/api/auth/email", signed_in, handlers.change_email, tag=tag, status=202),
        route("POST", "/api/auth/email/verify", anybody, handlers.verify_email, tag=tag),
        route("POST", "/api/auth/email/resend", anybody, handlers.resend, tag=tag, status=202),
    ]


def _me(who: Principal, user: UserRow) -> Me:
    return Me(**structs.asdict(view(user)), session_id=who.session_id, csrf_token=who.csrf)


def _begun(who: Principal, user: UserRow, opened: NewSession, *, bearer: bool) -> Answer[LoginResponse]:
    row = opened.row
    begun = LoginResponse(
        user=view(user),
        session_id=row.id,
        csrf_token=opened.csrf,
        expires_at=format_time(row.expires_at),
        token=opened.token if bearer else None,
    )
    seconds = (row.expires_at - row.created_at) // 1000
    return Answer(begun, headers=() if bearer else (("set-cookie", _cookie(who, opened.token, seconds)),))


def _cookie(who: Principal, value: str, seconds: int) -> str:
    secure = "; Secure" if who.cookie == COOKIE else ""
    return f"{who.cookie}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"
