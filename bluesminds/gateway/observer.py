"""Counts, logs and publishes settled requests, and those that were not admitted."""

import trio
from msgspec import Struct

from bluesminds.common.broadcast import Broadcast
from bluesminds.common.errors import GatewayError
from bluesminds.common.log import Log
from bluesminds.common.values import Caller, RequestContext, server_label
from bluesminds.gateway.metrics import Metrics
from bluesminds.gateway.tracing import Tracer
from storage.usage import UsageRow

CLIENT_GONE = 499  # nginx's status for a client that disconnected before the response; only for records


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


class RequestObserver(Struct, frozen=True):
    """`followers` get each usage row."""

    metrics: Metrics
    log: Log
    log_requests: bool
    followers: Broadcast[UsageRow]
    tracer: Tracer | None = None

    def observe(self, row: UsageRow, context: RequestContext, label: str) -> None:
        """Count and log a settled request. `label` is the model in metrics."""
        self._count(row, label, server_label(row.server))
        self.followers.publish(row)
        if self.tracer is not None:
            self.tracer.record(row, context)
        if self.log_requests:
            self._log_row(row, context)

    def _count(self, row: UsageRow, label: str, server: str) -> None:
        metrics = self.metrics
        metrics.requests[row.endpoint, label, server, str(row.status)] += 1
        metrics.seconds[row.endpoint].observe(row.duration_ms / 1000)
        if row.first_byte_ms is not None:
            metrics.first_byte[row.endpoint].observe(row.first_byte_ms / 1000)
        if row.input_tokens:
            metrics.tokens[label, "input"] += row.input_tokens
        if row.output_tokens:
            metrics.tokens[label, "output"] += row.output_tokens
            if row.streamed and row.first_byte_ms is not None and row.duration_ms > row.first_byte_ms:
                seconds = (row.duration_ms - row.first_byte_ms) / 1000
                metrics.token_rate[row.endpoint].observe(row.output_tokens / seconds)
        if row.cost_nano:
            metrics.cost[label, server] += row.cost_nano
        elif row.cost_nano is None and row.usage_source in ("upstream", "estimated"):
            metrics.unpriced[label] += 1
        if row.outcome not in ("ok", "stopped"):
            metrics.errors[(row.outcome,)] += 1
        if row.own_output_tokens is not None and row.usage_source == "upstream":
            metrics.meters[label, server].add(row)
        if row.quarantine:
            metrics.quarantined[server, row.quarantine] += 1

    def record_rejection(
        self,
        context: RequestContext,
        status: int,
        *,
        code: str | None = None,
        key_id: str = "",
        model: str = "",
    ) -> None:
        """A request that was sent to no server: it is counted and logged, but has no usage row.

        `model` is the client's text, so it is not used as a label.
        """
        self.metrics.requests[context.endpoint, "", "", str(status)] += 1
        if code is not None:
            self.metrics.errors[(code,)] += 1
        if self.tracer is not None:
            elapsed = milliseconds(trio.current_time() - context.started)
            self.tracer.record_rejection(context, status, code, model, elapsed)
        if self.log_requests:
            self.log.info(
                "request",
                request_id=context.request_id,
                endpoint=context.endpoint,
                method=context.method,
                path=context.path,
                model=model,
                status=status,
                code=code,
                key_id=key_id,
                client=context.client,
                duration_ms=milliseconds(trio.current_time() - context.started),
            )

    def record_failure(
        self, context: RequestContext, caller: Caller | None, exc: BaseException, *, model: str = ""
    ) -> None:
        """A request that ends with an exception before it is admitted."""
        if isinstance(exc, GatewayError):
            status, code = exc.status, exc.code
        elif isinstance(exc, OSError):
            status, code = CLIENT_GONE, "client_gone"
        elif isinstance(exc, Exception):
            status, code = 500, "internal_error"
        else:
            status, code = CLIENT_GONE, "interrupted"
        key_id = "" if caller is None else caller.key_id
        self.record_rejection(context, status, code=code, key_id=key_id, model=model)

    def _log_row(self, row: UsageRow, context: RequestContext) -> None:
        self.log.info(
            "request",
            request_id=row.request_id,
            endpoint=row.endpoint,
            method=context.method,
            path=context.path,
            model=row.model,
            server=row.server,
            status=row.status,
            outcome=row.outcome,
            key_id=row.key_id,
            attempts=row.attempts,
            input_tokens=row.input_tokens,
            output_tokens=row.output_tokens,
            first_byte_ms=row.first_byte_ms,
            duration_ms=row.duration_ms,
        )
