"""The first start: a key to try the gateway with, and the way to its first administrator.

Both secrets are made when the gateway answers already, right before they are shown: a start that fails or
is killed must not have used them up.
"""

import ipaddress
import socket

from msgspec import Struct

from bluesminds.accounts.audit import OPERATOR
from bluesminds.accounts.key_policy import KeyPolicy
from bluesminds.app.services import Services

DAY_MS = 86_400_000


class StartRefused(Exception):
    """There is no administrator; `bluesminds users create` makes one."""


class FirstRun(Struct, frozen=True):
    """What this start has made, to be shown once; None: there was one already. A guest's key lasts a day."""

    key: str | None
    bootstrap_token: str | None
    is_guest: bool = False


async def bootstrap(services: Services, *, guest_key: bool) -> FirstRun:
    """A new database gets its local user and a key, with `guest_key` every start gets one; without an
    administrator there is a new bootstrap token.
    """
    user_id, is_new = await services.members.local_user(OPERATOR)
    key = None
    if is_new:
        _, key = await services.keys.create(OPERATOR, user_id, KeyPolicy(name="first key"))
    elif guest_key:
        tomorrow = services.clock.now_ms() + DAY_MS
        key = await services.keys.guest(OPERATOR, user_id=user_id, expires_at=tomorrow)
    token = await services.members.new_bootstrap_token(OPERATOR)
    return FirstRun(key=key, bootstrap_token=token, is_guest=not is_new)


async def refuse_public_without_admin(sockets: list[socket.socket], services: Services) -> None:
    """Raises StartRefused."""
    public = [sock.getsockname()[0] for sock in sockets if _is_public(sock)]
    if public and not await services.members.has_admin():
        raise StartRefused(
            f"refusing to listen on {public[0]}: there is no administrator yet, so nobody could govern it"
        )


def _is_public(sock: socket.socket) -> bool:
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    return not ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback
