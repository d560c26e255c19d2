"""The limits of a session: one connection on which a client requests many responses.

An open session counts as one running request. Each of its responses counts as a request of the minute and
reserves its own tokens and money. The first one is reserved before the session opens.
"""

from typing import Final

from msgspec import structs

from bluesminds.common.values import Caller
from bluesminds.gateway.limits.counters import Estimate, Share
from bluesminds.gateway.limits.reserve import RateLimiter, Reservation

_NOTHING: Final = Estimate(0, 0)
_PLACE: Final = Share(requests=0, running=1)
_RESPONSE: Final = Share(requests=1, running=0)
_COUNTED_RESPONSE: Final = Share(requests=0, running=0)


class SessionLimits:
    """`caller` may be replaced when its limits have changed. `close` gives the place back."""

    def __init__(self, limiter: RateLimiter, caller: Caller) -> None:
        """Take a place among the requests that run at once. Raises what `RateLimiter.reserve` raises."""
        self.caller = caller
        self._limiter = limiter
        self._place = limiter.reserve(caller, _NOTHING, share=_PLACE)

    def reserve(self, estimate: Estimate, model: str, *, enforce: bool = True) -> Reservation:
        """For one response. Raises what `RateLimiter.reserve` raises."""
        caller = _without(self.caller, "concurrency")
        return self._limiter.reserve(caller, estimate, model, share=_RESPONSE, enforce=enforce)

    def replace(self, reservation: Reservation, estimate: Estimate, model: str) -> Reservation:
        """Reserve another amount for a response. If that is refused, the old reservation is gone too."""
        reservation.settle()
        caller = _without(self.caller, "concurrency", "rpm")
        return self._limiter.reserve(caller, estimate, model, share=_COUNTED_RESPONSE)

    def close(self) -> None:
        self._place.settle()


def _without(caller: Caller, *names: str) -> Caller:
    """The caller without these limits, which the session itself is counted in."""
    none = dict.fromkeys(names, 0)
    return structs.replace(
        caller,
        key_limits=structs.replace(caller.key_limits, **none),
        user_limits=structs.replace(caller.user_limits, **none),
    )
