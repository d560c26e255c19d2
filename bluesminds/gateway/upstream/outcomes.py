"""Records how attempts end, in health, metrics and log."""

from typing import Final

from bluesminds.common.errors import UpstreamFailed, retry_headers
from bluesminds.common.log import Log
from bluesminds.common.routes import FallbackReason
from bluesminds.common.values import server_label
from bluesminds.gateway.call import Call
from bluesminds.gateway.metrics import Metrics
from bluesminds.gateway.routing.health import ServerHealthRegistry
from bluesminds.gateway.routing.plans import Target
from bluesminds.gateway.upstream.attempt import Reply
from bluesminds.gateway.upstream.failures import AttemptFailure
from bluesminds.wire.errors import ErrorDetail

_UNAVAILABLE: Final = frozenset((502, 503, 504))


class AttemptOutcomes:
    def __init__(self, health: ServerHealthRegistry, metrics: Metrics, log: Log) -> None:
        self._health = health
        self._metrics = metrics
        self._log = log
        self.begin = health.begin  # a request is about to be sent

    def count(self, server: str, outcome: str) -> None:
        self._metrics.attempts[server_label(server), outcome] += 1

    def record_answer(self, reply: Reply) -> None:
        """For a stream, the health of the server is recorded when the stream ends."""
        server = reply.endpoint.server.name
        self.count(server, "answered")
        if reply.error is not None:
            self._health.release(server, reply.model)
        elif reply.stage is None:
            self._health.record_success(server, reply.model)

    def record_failure(self, call: Call, target: Target, failure: AttemptFailure) -> None:
        server, model = target.server.name, target.model or call.model
        self.count(server, failure.reason)
        if failure.kind == "limit" and not call.own_key:  # else it is the client's own limit
            self._health.rest(server, model, failure.retry_after or None)
        if failure.blames_server:
            self._health.record_failure(server, model, failure.reason)
        else:
            self._health.release(server, model)
        self._log.warning(
            "attempt_failed",
            request_id=call.context.request_id,
            server=server,
            model=model,
            reason=failure.reason,
            error=failure.detail or None,
        )

    def record_lost(self, call: Call, target: Target, reason: str) -> None:
        """Another attempt has answered first, which says nothing about the health of this server."""
        self.count(target.server.name, reason)
        self._health.release(target.server.name, target.model or call.model)

    def record_replacement(self, call: Call, failed: Target, other: Target, reason: FallbackReason) -> None:
        """The targets of a fallback model are tried."""
        self._log.warning(
            "model_replaced",
            request_id=call.context.request_id,
            model=failed.serves or call.model,
            replacement=other.serves or call.model,
            reason=reason,
        )

    def stream_ended(self, call: Call, reply: Reply, error: ErrorDetail | None, *, implausible: bool) -> None:
        """A stream is complete, or ended with the `error` that the server sent in it."""
        server, model = reply.endpoint.server.name, reply.model
        if implausible:
            self.warn_implausible_usage(call, server)
        if error is None:
            self._health.record_success(server, model)
            return
        self.count(server, "error_in_stream")
        if not error.blames_request():
            self._health.record_failure(server, model, "error_in_stream")

    def stream_failed(self, reply: Reply, reason: str) -> None:
        """A stream has ended before its answer was complete."""
        self._record_shortfall(reply.endpoint.server.name, reply.model, reason)

    def socket_ended(self, server: str, model: str, failure: str | None) -> None:
        """A session with a server has ended, by its `failure` or not."""
        if failure is None:
            self._health.record_success(server, model)
        else:
            self._record_shortfall(server, model, failure)

    def total_timeout(self, call: Call, target: Target) -> None:
        """The total timeout expired before the server responded."""
        self._record_shortfall(target.server.name, target.model or call.model, "total_timeout")

    def release(self, reply: Reply) -> None:
        """The end of a stream says nothing about its server."""
        self._health.release(reply.endpoint.server.name, reply.model)

    def warn_implausible_usage(self, call: Call, server: str) -> None:
        self._log.warning(
            "usage_implausible", request_id=call.context.request_id, server=server, model=call.model
        )

    def is_usable(self, call: Call, target: Target) -> bool:
        return self._health.is_usable(target.server.name, target.model or call.model)

    def seconds_until_trial(self, call: Call, target: Target) -> float:
        """0 for a server that is not ejected."""
        return self._health.seconds_until_trial(target.server.name, target.model or call.model)

    def with_retry_after(self, call: Call, target: Target, error: UpstreamFailed) -> UpstreamFailed:
        """If the server is ejected, the client should wait until it is tried again."""
        if error.status not in _UNAVAILABLE or "retry-after" in error.headers:
            return error
        seconds = self.seconds_until_trial(call, target)
        return error.with_headers(retry_headers(seconds)) if seconds > 0 else error

    def _record_shortfall(self, server: str, model: str, reason: str) -> None:
        self.count(server, reason)
        self._health.record_failure(server, model, reason)
