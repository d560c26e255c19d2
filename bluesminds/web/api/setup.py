"""POST /api/setup: creates the first administrator with the bootstrap token."""

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
    users: Users
    passwords: Passwords
    throttle: Throttle

    async def create_admin(self, principal: Principal, body: SetupRequest) -> UserView:
        """Create the first administrator.

        This works once, with the bootstrap token that the latest start of the gateway printed.
        """
        self.throttle.check_public_form(principal.address)
        email = require_email(body.email)
        await self.users.require_token(body.token)
        password_hash = await self.passwords.hash(body.password)
        return view(
            await self.users.claim_admin(
                principal.actor, token=body.token, email=email, password_hash=password_hash
            )
        )


def routes(handlers: SetupHandlers) -> list[Route]:
    return [route("POST", "/api/setup", Access.PUBLIC, handlers.create_admin, tag="Accounts", status=201)]
