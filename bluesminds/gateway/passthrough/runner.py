"""Runs relayed requests: admission, deadline, and exactly one usage row, without tokens."""

import trio
from msgspec import Struct

from bluesminds.common.errors import GatewayError, UpstreamFailed
from bluesminds.gateway.accounting import UsageAccounting, UsageEntry
from bluesminds.gateway.call import Call
from bluesminds.gateway.limits.counters import Estimate
from bluesminds.gateway.limits.headers import as_text
from bluesminds.gateway.limits.reserve import RateLimiter
from bluesminds.gateway.observer import CLIENT_GONE
from bluesminds.gateway.operations import Operation
from bluesminds.gateway.passthrough.exchange import RelayedRequest, RelayExchange
from bluesminds.gateway.relay import settle_failure
from bluesminds.gateway.response_writer import ResponseWriter
from bluesminds.http.asgi import ResponseAborted
from bluesminds.wire.base import RequestFacts


class RelayRunner(Struct, frozen=True):
    """`total_timeout`: seconds for one request."""

    limiter: RateLimiter
    exchange: RelayExchange
    accounting: UsageAccounting
    total_timeout: float

    def admit(self, relayed: RelayedRequest, operation: Operation) -> UsageEntry:
        """Raises RateLimited and Unavailable. `run` must follow."""
        recorder = self.accounting.recorder
        recorder.check_capacity(strict=self.accounting.strict)
        reservation = self.limiter.reserve(relayed.caller, Estimate(0, 0))
        recorder.reserve()
        call = Call(relayed.context, operation, relayed.client_format, "", RequestFacts(""))
        return self.accounting.open(relayed.caller, call, reservation)

    async def run(self, relayed: RelayedRequest, entry: UsageEntry, out: ResponseWriter) -> None:
        """Raises GatewayError only while nothing has been written, else ResponseAborted."""
        try:
            await self._exchange(relayed, entry, out)
        except GatewayError as exc:
            error = await settle_failure(entry, exc)
            raise error.with_headers(as_text(self.exchange.relay.headers(entry))) from None
        except Exception:
            entry.close(*((CLIENT_GONE, "client_gone") if out.gone else (500, "internal")))
            raise
        finally:
            entry.close(CLIENT_GONE, "client_gone" if out.gone else "interrupted")

    async def _exchange(self, relayed: RelayedRequest, entry: UsageEntry, out: ResponseWriter) -> None:
        with trio.CancelScope(deadline=relayed.context.started + self.total_timeout) as scope:
            out.on_gone(scope.cancel)
            await self.exchange.run(relayed, entry, out)
        if scope.cancelled_caught and not out.gone:
            entry.close(504, "timeout")
            if entry.first_byte is not None:
                raise ResponseAborted("the total timeout was reached")
            raise UpstreamFailed(
                504,
                "upstream_timeout",
                "The request took longer than upstream.total_timeout. Send less, or raise that setting.",
            )
