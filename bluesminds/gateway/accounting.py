"""Settles each admitted request exactly once, however it ends.

A `UsageEntry` is opened at admission and collects what the usage row needs. `finish` releases the
reservation, updates metrics and log, and hands the row to the recorder. It does so without an await, so a
cancellation cannot split it; a second call does nothing. `close`, in a `finally`, settles what no other exit
has settled, with the usage known or estimated so far.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import trio
from msgspec import Struct, structs

from bluesminds.common.values import NO_AMOUNT, NO_USAGE, Caller, Usage, is_own_name
from bluesminds.gateway.bills import Attempt, Bill, bill_request
from bluesminds.gateway.call import Call
from bluesminds.gateway.estimate import Estimator
from bluesminds.gateway.limits.budget import StreamBudget
from bluesminds.gateway.limits.headers import Headers
from bluesminds.gateway.limits.reserve import Reservation
from bluesminds.gateway.observer import RequestObserver, milliseconds
from bluesminds.gateway.receipts import FAILED, HEDGED, RequestTrail, write_receipt
from bluesminds.gateway.recorder import Batch, Recorder
from bluesminds.gateway.routing.plans import Target
from bluesminds.gateway.routing.server_keys import AttemptKey
from bluesminds.gateway.upstream.hedging import HEDGE_LOST
from bluesminds.gateway.upstream.tries import AttemptRecord
from bluesminds.wire.base import Stage
from bluesminds.wire.media import Opaque
from bluesminds.wire.usage import expected_input, is_too_large, settle_usage
from storage.receipts import ReceiptRow
from storage.usage import Quarantine, UsageRow

ALWAYS_PLAUSIBLE = 20_000  # tokens; a smaller report is never too large
STOPPED = "stopped"  # outcome: a stream that ended because no more money could be reserved


class UsageEntry:
    """One admitted request. `attempts`: the servers tried, in order. `server` and `target` are those of the
    attempt that answered, or of the last one.
    `cost` and `outcome` are known once it is settled. Cost: nano-USD, None when the model has no price.
    `label` is the model in metrics, which must not contain names that clients invent. `context_length` in
    UsageAccounting returns that of a model, None if it is unknown.
    """

    def __init__(
        self, accounting: "UsageAccounting", caller: Caller, call: Call, reservation: Reservation
    ) -> None:
        self._accounting = accounting
        self._caller = caller
        self.call = call
        self.id = call.context.id
        self.reservation = reservation
        self._batch: Batch | None = None
        self._stage: Stage | None = None
        self._earlier: list[Attempt] = []  # those whose stream went on elsewhere
        self.attempts: tuple[str, ...] = ()
        self.server = ""
        self.target: Target | None = None
        self.label = call.model
        self.trail = RequestTrail() if accounting.receipts else None
        self.first_byte: float | None = None  # Trio's clock
        self.cost: int | None = None
        self._price_version = ""
        self.outcome = ""
        self.budget: StreamBudget | None = None  # of a stream whose cost is limited
        self.lowered_output: int | None = None  # tokens; what the money covered
        self.own_output: int | None = None  # tokens of the answer by the gateway's own count
        self.reported_cost: int | None = None  # nano-USD in a header of the server
        self.quarantine: Quarantine = ""

    @property
    def rate_headers(self) -> Headers:
        """The tokens of this request count as reserved until it is settled."""
        return self.reservation.headers

    def begin_again(self, call: Call, reservation: Reservation) -> None:
        """An admitted request begins now, with another reservation instead of the first."""
        self.call = call
        self.reservation = reservation

    def begin_attempt(self, server: str) -> None:
        self.attempts = (*self.attempts, server)
        self.server = server

    def try_target(self, target: Target) -> AttemptRecord:
        """An attempt begins."""
        self.begin_attempt(target.server.name)
        self.target = target
        return _AttemptEntry(self, target, 0 if self.trail is None else self.trail.begin(target))

    def input_cost(self, target: Target) -> int:
        """What the input costs at the target, in nano-USD; 0 if it has no price."""
        call, estimator = self.call, self._accounting.estimator
        price = estimator.price(target, call.model, call.context.at_ms)
        return 0 if price is None else price.max_cost(estimator.input_tokens(call), 0)

    def note_shadow(self, target: Target, nano: int) -> None:
        """A copy of the request is sent to a shadow target."""
        if self.trail is not None:
            self.trail.note_shadow(target, self.started, nano)

    def count_uncharged(self, target: Target, cost_class: str, usage: Usage | None) -> int:
        """What an attempt costs, and no account is charged for, in nano-USD. `usage`: None for its input."""
        if usage is None:
            nano = self.input_cost(target)
        else:
            call = self.call
            price = self._accounting.estimator.price(target, call.model, call.context.at_ms)
            nano = 0 if price is None else price.cost(usage) or 0
        if nano:
            self._accounting.observer.metrics.uncharged[target.server.name, cost_class] += nano
        return nano

    def has_queued(self, seconds: float) -> None:
        """The request has waited for a slot at a server."""
        if self.trail is not None:
            self.trail.queued += seconds

    def begin_response(self, stage: Stage | None = None) -> None:
        """The first bytes are about to be sent to the client. `stage` measures a stream."""
        self.first_byte = trio.current_time()
        self._stage = stage

    def fail_attempt(self, reason: str) -> None:
        """The last attempt has failed after it had answered, or without an end. Nothing is changed if its end
        is recorded already.
        """
        if self.trail is not None:
            self.trail.fail_current(reason)

    def note_keys(self, keys: Sequence[AttemptKey]) -> None:
        """The last attempt was answered, by a server with several keys."""
        if self.trail is not None:
            self.trail.note_keys(keys)

    def replace_stage(self, stage: Stage, failed: Target | None, usage: Usage) -> None:
        """The stream continues at another server. `failed` is the target that has failed, and `usage` what it
        has used.
        """
        self._stage = stage
        self._earlier.append((failed, usage))

    @property
    def stage(self) -> Stage | None:
        """Measures the stream that is sent to the client."""
        return self._stage

    @property
    def started(self) -> float:
        """Trio's clock."""
        return self.call.context.started

    @property
    def reserved_nano(self) -> int:
        """Nano-USD that are reserved until it is settled."""
        return self.reservation.reserved[1]

    def so_far(self) -> UsageRow:
        """The usage row if the request ended now, because the process crashes. An account with prepaid credit
        is to pay the whole cost.
        """
        bill = self._bill(self._usage_so_far(sent=bool(self.attempts)))
        self._price_version = bill.price_version
        return replace(
            self._row(500, "crashed", bill.usage),
            cost_nano=bill.cost,
            charged_nano=(bill.cost or 0) if self.reservation.has_credit else None,
        )

    def finish(self, status: int, outcome: str, usage: Usage) -> None:
        """Settle. Outcomes: ok, stopped (at a budget), client_error, upstream_error, cut, timeout,
        client_gone, internal.
        """
        if self._batch is not None:
            return
        self.outcome = outcome
        self._accounting.running.pop(self.id, None)
        if usage.usage_source == "upstream":
            usage = self._plausible(usage)
        bill = self._bill(usage)
        self._price_version = bill.price_version
        self.cost = bill.cost
        if self.cost is None and is_own_name(self.server):
            self.cost = 0  # the vendor charges the user
        if outcome == STOPPED and self.cost is not None:
            # Its last piece was not sent, and its usage is the gateway's estimate.
            self.cost = min(self.cost, self.reservation.reserved[1])
        receipt = None if self.trail is None else self._receipt(self.trail, bill)
        self.reservation.settle(_tokens(bill.usage), self.cost or 0)
        self._learn(usage)
        row = self._row(status, outcome, bill.usage)
        self._batch = self._accounting.recorder.record(row, receipt)
        self._accounting.observer.observe(row, self.call.context, self.label)

    def _bill(self, usage: Usage) -> Bill:
        return bill_request(self._accounting.estimator, self.call, self.target, usage, self._earlier)

    def _learn(self, usage: Usage) -> None:
        """Estimate later requests with what the last attempt has used."""
        call, estimator = self.call, self._accounting.estimator
        if usage.usage_source == "upstream" and usage.output_tokens and self.reservation.has_budget:
            estimator.outputs.learn(self._caller.key_id, call.model, usage.output_tokens)
        served = "" if self.target is None else self.target.serves
        estimator.learn(served or call.model, call.facts.text_bytes, usage)

    def _plausible(self, usage: Usage) -> Usage:
        """The usage without impossible counts. The gateway's counts replace those that are too large."""
        facts, target = self.call.facts, self.target
        if usage.cost == NO_AMOUNT:
            self.quarantine = self.quarantine or "cost"
            usage = structs.replace(usage, cost=None)
        if _tokens(usage) <= ALWAYS_PLAUSIBLE:
            return usage
        model = self.call.model if target is None else target.model or self.call.model
        if not is_too_large(usage, facts, self._accounting.context_length(model), self.own_output):
            return usage
        self.quarantine = "too_large"
        output = None if usage.output_tokens is None else self.own_output or 0
        return Usage(expected_input(facts), output, usage_source="estimated", cost=usage.cost)

    def cost_of(self, usage: Usage) -> int | None:
        """What this usage costs, in nano-USD; None if that is unknown."""
        call = self.call
        price = self._accounting.estimator.price(self.target, call.model, call.context.at_ms)
        return None if price is None else price.cost(usage, call.markup)

    def close(self, status: int, outcome: str) -> None:
        """Settle with the usage so far, unless the request is settled already."""
        if self._batch is not None:
            return
        # A client that always disconnects early would otherwise use nothing.
        sent = outcome == "client_gone" and bool(self.attempts)
        self.finish(status, outcome, self._usage_so_far(sent=sent))

    def _usage_so_far(self, *, sent: bool) -> Usage:
        """`sent`: a server has got the request and may charge for it."""
        if (stage := self._stage) is not None:
            self.own_output = stage.own_output
            self.quarantine = "implausible" if stage.implausible else ""
            return stage.usage
        if sent:
            return settle_usage(None, self.call.facts, delivered=0, pieces=0)[0]
        return NO_USAGE

    def write_stream_error(self, code: str, message: str) -> bytes:
        """The event that ends a stream with an error, in the client's format."""
        number = 0 if self._stage is None else self._stage.next_number
        return self.call.format.write_stream_error(code, message, number)

    @property
    def passes_bytes(self) -> bool:
        """Whether the response is neither JSON nor events, so that an error cannot be written into it."""
        return isinstance(self._stage, Opaque)

    @property
    def settled(self) -> bool:
        return self._batch is not None

    async def wait_durable(self) -> None:
        """Wait for the row as the configured durability demands. Raises Unavailable."""
        if self._batch is not None:
            await self._accounting.wait_durable(self._batch, self.call.context.id)

    def _receipt(self, trail: RequestTrail, bill: Bill) -> ReceiptRow:
        """Call it before the reservation is settled."""
        context = self.call.context
        found = trail.receipt(
            self.call.model,
            context.started,
            reserved=self.reservation.reserved,
            limits=self.reservation.uses(self._caller, _tokens(bill.usage), self.cost or 0),
            price_version=bill.price_version,
            cost=tuple(bill.items or ()),
            replay_of=context.replay_of,
        )
        return ReceiptRow(context.id, context.at_ms, write_receipt(found))

    def _row(self, status: int, outcome: str, usage: Usage) -> UsageRow:
        context, target = self.call.context, self.target
        is_compared = self.own_output is not None and not self._earlier
        cost = self.reported_cost if usage.cost is None else usage.cost
        if cost == NO_AMOUNT:
            self.quarantine, cost = self.quarantine or "cost", None
        if target is not None and target.server.is_own:
            cost = None  # the vendor charges the user
        return UsageRow(
            id=context.id,
            at=context.at_ms,
            request_id=context.request_id,
            key_id=self._caller.key_id,
            user_id=self._caller.user_id,
            endpoint=context.endpoint,
            model=self.call.model,
            server=self.server,
            status=status,
            outcome=outcome,
            # The field `stream` of a form may have come after its file, too late for the facts.
            streamed=self.call.facts.stream or (self._stage is not None and not self.passes_bytes),
            attempts=len(self.attempts),
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cache_read_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            audio_input_tokens=usage.audio_input_tokens,
            audio_output_tokens=usage.audio_output_tokens,
            image_input_tokens=usage.image_input_tokens,
            image_output_tokens=usage.image_output_tokens,
            images=usage.images,
            audio_ms=usage.audio_ms,
            characters=usage.characters,
            cache_write_hour_tokens=usage.cache_write_hour_tokens,
            usage_source=usage.usage_source,
            first_byte_ms=None
            if self.first_byte is None
            else milliseconds(self.first_byte - context.started),
            duration_ms=milliseconds(trio.current_time() - context.started),
            cost_nano=self.cost,
            price_version=self._price_version,
            charged_nano=self.reservation.charged,
            day=self.reservation.day,
            month=self.reservation.month,
            own_input_tokens=expected_input(self.call.facts) if is_compared else None,
            own_output_tokens=self.own_output if is_compared else None,
            reported_cost_nano=cost,
            quarantine=self.quarantine,
            markup=self.call.markup,
            service_tier=usage.service_tier,
            sent_model="" if target is None else target.model,
            served_model="" if target is None else target.serves,
            budget_tier=self.reservation.tier,
        )


class _AttemptEntry:
    """An attempt of a request. `number` is its position in the receipt."""

    __slots__ = ("_entry", "_number", "_target")

    def __init__(self, entry: UsageEntry, target: Target, number: int) -> None:
        self._entry = entry
        self._target = target
        self._number = number

    def fail(self, reason: str, keys: Sequence[AttemptKey] = (), *, billed: bool = False) -> int:
        return self._end(reason, keys, FAILED if billed else "")

    def lose(self, usage: Usage) -> int:
        return self._end(HEDGE_LOST, (), HEDGED, usage)

    def decide(self) -> None:
        entry = self._entry
        entry.target, entry.server = self._target, self._target.server.name
        if entry.trail is not None:
            entry.trail.select(self._number)

    def _end(
        self, reason: str, keys: Sequence[AttemptKey], cost_class: str, usage: Usage | None = None
    ) -> int:
        entry = self._entry
        nano = entry.count_uncharged(self._target, cost_class, usage) if cost_class else 0
        if entry.trail is not None:
            entry.trail.fail(reason, keys, number=self._number, cost_class=cost_class, nano=nano)
        return nano


def _unknown_context(model: str) -> int | None:
    return None


def _tokens(usage: Usage) -> int:
    return (usage.input_tokens or 0) + (usage.output_tokens or 0)


class UsageAccounting(Struct, frozen=True):
    """Takes settled requests. `strict`: responses wait for the row. `running`: requests that are not settled,
    by id.
    """

    recorder: Recorder
    estimator: Estimator
    observer: RequestObserver
    strict: bool
    receipts: bool = False
    context_length: Callable[[str], int | None] = _unknown_context
    running: dict[str, UsageEntry] = {}

    def open(self, caller: Caller, call: Call, reservation: Reservation) -> UsageEntry:
        """The recorder must have reserved a row."""
        entry = self.running[call.context.id] = UsageEntry(self, caller, call, reservation)
        return entry

    async def wait_durable(self, batch: Batch, row_id: str) -> None:
        if self.strict:
            await self.recorder.wait_durable(batch, row_id)
