"""The first start: an API key to try the gateway with, and the token that creates the first administrator.

Both are created right before they are shown, when the gateway already accepts requests, so that a failed
start does not use them up.
"""

import ipaddress
import socket

from msgspec import Struct

from bluesminds.accounts.audit import OPERATOR
from bluesminds.accounts.key_policy import KeyPolicy
from bluesminds.app.errors import StartRefused
from bluesminds.app.services import Services

DAY_MS = 86_400_000


class FirstRun(Struct, frozen=True):
    """The secrets this start has created, to be shown once; None if it created none. `is_guest`: the key is
    valid for a day. `sign_in_token` signs the local operator in once, in a browser.
    """

    key: str | None
    bootstrap_token: str | None
    is_guest: bool = False
    sign_in_token: str | None = None


async def bootstrap(services: Services, *, guest_key: bool) -> FirstRun:
    """Create a first key in a new database, or with `guest_key` always a guest key; and a token if there is
    no administrator.
    """
    accounts = services.accounts
    user_id, is_new = await accounts.users.local_user(OPERATOR)
    key = None
    if is_new and not guest_key:
        _, key = await accounts.keys.create(OPERATOR, user_id, KeyPolicy(name="first key"))
    elif guest_key:
        tomorrow = services.clock.now_ms() + DAY_MS
        key = await accounts.keys.guest(OPERATOR, user_id=user_id, expires_at=tomorrow)
    token = await accounts.users.new_bootstrap_token(OPERATOR)
    sign_in = None
    if guest_key and services.settings.dashboard.enabled:
        sign_in = await accounts.local_sign_in.new_token(OPERATOR, user_id)
    return FirstRun(key=key, bootstrap_token=token, is_guest=guest_key, sign_in_token=sign_in)


async def refuse_public_without_admin(sockets: list[socket.socket], services: Services) -> None:
    """Raises StartRefused."""
    public = [sock.getsockname()[0] for sock in sockets if _is_public(sock)]
    if public and not await services.accounts.users.has_admin():
        raise StartRefused(
            f"refusing to listen on {public[0]}: create an administrator before listening on a public address"
        )


def _is_public(sock: socket.socket) -> bool:
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    return not ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback
