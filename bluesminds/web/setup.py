"""POST /api/setup: the bootstrap token becomes the first administrator. The only control-plane route a
stranger may try.
"""

from msgspec import Struct
from quart import Blueprint, request

from bluesminds.accounts.members import Members, require_email
from bluesminds.identity.password import Passwords
from bluesminds.web import present
from bluesminds.web.guard import actor, read_input


class Claim(Struct, forbid_unknown_fields=True):
    token: str
    email: str
    password: str


def blueprint(members: Members, passwords: Passwords) -> Blueprint:
    setup = Blueprint("setup", __name__)

    @setup.post("/api/setup")
    async def claim() -> tuple[dict[str, object], int]:
        wanted = await read_input(Claim, request)
        email = require_email(wanted.email)
        await members.require_token(wanted.token)
        password_hash = await passwords.hash(wanted.password)
        user = await members.claim(actor(), token=wanted.token, email=email, password_hash=password_hash)
        return present.user(user), 201

    return setup
