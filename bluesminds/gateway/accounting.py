"""Closing a request's account exactly once, however it ended.

`Settlement` is opened at admission and remembers what the row needs. `finish` gives the slot back, counts,
logs and hands the row to the recorder, all without an await, so no cancellation can come between; a second
call does nothing. `close` in a finally settles whatever no other exit has settled, with the tokens known or
estimated so far.
"""

from collections.abc import Callable

import trio
from msgspec import Struct

from bluesminds.common.log import Log
from bluesminds.common.values import NO_USAGE, Call, Caller, RequestContext, Usage
from bluesminds.gateway import stream_meter
from bluesminds.gateway.estimate import Estimator
from bluesminds.gateway.limits.headers import Headers
from bluesminds.gateway.limits.reserve import Reservation
from bluesminds.gateway.metrics import Metrics
from bluesminds.gateway.recorder import Batch, Recorder
from storage.usage import UsageRow

CLIENT_GONE = 499  # nginx's status for a client that left before the answer; for records only


class UsageEntry:
    """One admitted request, with `size` bytes of text. `usage_so_far` is asked when the request ends without
    an answer of its own. `cost` is known once it is settled: nano-USD, None when the model has no price.
    """

    def __init__(
        self, accounting: "UsageAccounting", caller: Caller, call: Call, reservation: Reservation, size: int
    ) -> None:
        self._accounting = accounting
        self._caller = caller
        self._call = call
        self._ticket = reservation
        self.size = size
        self._batch: Batch | None = None
        self.tried: list[str] = []  # servers, in order; the last one is who answered
        self.first_byte: float | None = None  # Trio's clock
        self.usage_so_far: Callable[[], Usage] | None = None
        self.cost: int | None = None

    @property
    def rate_headers(self) -> Headers:
        """Of the tokens left, those of this answer count as reserved until it is settled."""
        return self._ticket.headers

    def answering(self) -> None:
        """The first bytes are about to leave."""
        self.first_byte = trio.current_time()

    def finish(self, status: int, outcome: str, usage: Usage) -> Batch:
        """Settle. Outcomes: ok, client_error, upstream_error, cut, timeout, client_gone, internal."""
        if self._batch is None:
            estimator = self._accounting.estimator
            self.cost = estimator.cost(self._call.model, usage)
            self._ticket.settle((usage.input or 0) + (usage.output or 0), self.cost or 0)
            estimator.learn(self._call.model, self.size, usage)
            row = self._row(status, outcome, usage)
            self._batch = self._accounting.recorder.record(row)
            self._accounting.tell(row)
        return self._batch

    def close(self, status: int, outcome: str) -> None:
        if self._batch is not None:
            return
        if self.usage_so_far is not None:
            usage = self.usage_so_far()
        elif outcome == "client_gone" and self.tried:  # else who always leaves early would ask for nothing
            usage = stream_meter.estimate(self.size, 0)
        else:
            usage = NO_USAGE
        self.finish(status, outcome, usage)

    @property
    def settled(self) -> bool:
        return self._batch is not None

    async def durable(self) -> None:
        """Wait for the row as the configured durability demands. Raises Unavailable."""
        if self._batch is not None:
            await self._accounting.durable(self._batch, self._call.context.id)

    def _row(self, status: int, outcome: str, usage: Usage) -> UsageRow:
        context = self._call.context
        return UsageRow(
            id=context.id,
            at=context.at_ms,
            request_id=context.request_id,
            key_id=self._caller.key_id,
            user_id=self._caller.user_id,
            endpoint=context.endpoint,
            model=self._call.model,
            server=self.tried[-1] if self.tried else "",
            status=status,
            outcome=outcome,
            streamed=self._call.stream,
            attempts=len(self.tried),
            input_tokens=usage.input,
            output_tokens=usage.output,
            cache_read_tokens=usage.cache_read,
            cache_write_tokens=usage.cache_write,
            reasoning_tokens=usage.reasoning,
            usage_source=usage.source,
            first_byte_ms=None
            if self.first_byte is None
            else _milliseconds(self.first_byte - context.started),
            duration_ms=_milliseconds(trio.current_time() - context.started),
            cost_nano=self.cost,
            day=self._ticket.day,
            month=self._ticket.month,
        )


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


class UsageAccounting(Struct, frozen=True):
    """Where settled requests go: the recorder, the counters and the log."""

    recorder: Recorder
    estimator: Estimator
    metrics: Metrics
    log: Log
    strict: bool
    log_requests: bool

    def open(self, caller: Caller, call: Call, reservation: Reservation, size: int) -> UsageEntry:
        """The recorder's place must have been reserved."""
        return UsageEntry(self, caller, call, reservation, size)

    def tell(self, row: UsageRow) -> None:
        """Count and log a row that has been handed over."""
        metrics = self.metrics
        metrics.requests[row.endpoint, row.model, row.server, str(row.status)] += 1
        metrics.seconds[row.endpoint].observe(row.duration_ms / 1000)
        if row.first_byte_ms is not None:
            metrics.first_byte[row.endpoint].observe(row.first_byte_ms / 1000)
        if row.input_tokens:
            metrics.tokens[row.model, "input"] += row.input_tokens
        if row.output_tokens:
            metrics.tokens[row.model, "output"] += row.output_tokens
        if self.log_requests:
            self._log_row(row)

    def note(
        self,
        context: RequestContext,
        status: int,
        *,
        code: str | None = None,
        key_id: str = "",
        model: str = "",
    ) -> None:
        """A request that asked nothing of a server: counted and logged, not recorded.

        `model` is the client's word, so it is no label.
        """
        self.metrics.requests[context.endpoint, "", "", str(status)] += 1
        if self.log_requests:
            self.log.info(
                "request",
                request_id=context.request_id,
                endpoint=context.endpoint,
                model=model,
                status=status,
                code=code,
                key_id=key_id,
                client=context.client,
                duration_ms=_milliseconds(trio.current_time() - context.started),
            )

    async def durable(self, batch: Batch, row_id: str) -> None:
        if self.strict:
            await self.recorder.wait_durable(batch, row_id)

    def _log_row(self, row: UsageRow) -> None:
        self.log.info(
            "request",
            request_id=row.request_id,
            endpoint=row.endpoint,
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
