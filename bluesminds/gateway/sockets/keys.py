"""Watches the API key of a session."""

from collections.abc import Callable

import trio
from msgspec import structs

from bluesminds.common.clock import Clock
from bluesminds.common.errors import GatewayError, Unavailable
from bluesminds.common.values import Caller, RequestContext
from bluesminds.gateway.authenticate import KeyAuthenticator
from bluesminds.gateway.authorize import check_client

SHORTEST_RECHECK = 0.5  # seconds


async def wait_until_refused(
    keys: KeyAuthenticator, context: RequestContext, clock: Clock, check: Callable[[Caller], None]
) -> GatewayError:
    """Wait until the key is revoked, expires, or no longer allows the session. `check` gets the caller every
    time, and may raise GatewayError.
    """
    while True:
        until = keys.cached_until(context)
        with trio.move_on_at(max(until, trio.current_time() + SHORTEST_RECHECK)):
            await keys.wait_changed()
        now = structs.replace(context, at_ms=clock.now_ms(), started=trio.current_time())
        try:
            caller = await keys.authenticate(now)
            check_client(caller, now)
            check(caller)
        except Unavailable:
            continue
        except GatewayError as exc:
            return exc
