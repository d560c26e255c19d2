"""POST /api/setup: the bootstrap token becomes the first administrator."""

from msgspec import Struct

from bluesminds.accounts.throttle import Throttle
from bluesminds.accounts.users import Users
from bluesminds.common.emails import require_email
from bluesminds.identity.password import Passwords
from bluesminds.web.api.users import UserView, view
from bluesminds.web.fields import Email, Password, Token
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import Route, route


class SetupRequest(Struct, forbid_unknown_fields=True):
    token: Token
    email: Email
    password: Password


class SetupHandlers(Struct, frozen=True):
    members: Users
    passwords: Passwords
    throttle: Throttle

    async def claim(self, who: Principal, body: SetupRequest) -> UserView:
        """Become the first administrator, once, with the token that the latest start has shown."""
        self.throttle.check_public_form(who.address)
        email = require_email(body.email)
        await self.members.require_token(body.token)
        password_hash = await self.passwords.hash(body.password)
        return view(
            await self.members.claim(who.actor, token=body.token, email=email, password_hash=password_hash)
        )


def routes(handlers: SetupHandlers) -> list[Route]:
    return [route("POST", "/api/setup", Access.PUBLIC, handlers.claim, tag="Accounts", status=201)]
