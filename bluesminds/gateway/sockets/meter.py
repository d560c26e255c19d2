"""Counts the responses of one session: each reserves its usage, and is settled as a separate usage row.

A response begins when the client requests it or, with voice detection, when the server starts it. Its usage
is what the server reports at its end. What has not ended when the session does is settled with an estimate. A
session without a response is recorded as well, without usage.
"""

from collections import deque
from collections.abc import Callable

import trio
from msgspec import structs

from bluesminds.common.clock import Clock
from bluesminds.common.crypto import uuid7
from bluesminds.common.errors import GatewayError, RateLimited
from bluesminds.common.values import NO_USAGE, Usage
from bluesminds.gateway.accounting import UsageAccounting, UsageEntry
from bluesminds.gateway.call import Call
from bluesminds.gateway.limits.counters import Estimate
from bluesminds.gateway.limits.session import SessionLimits
from bluesminds.wire.base import RequestFacts
from bluesminds.wire.sockets import ClientEvent, ServerEvent
from bluesminds.wire.usage import BYTES_PER_TOKEN, settle_usage

MAX_RESPONSES = 32  # at once in one session
REMEMBERED = 64  # responses that have ended, so that none is counted twice
SWITCHED = 101  # the status of a session without a response


class RunningResponse:
    """A response that a client has requested or a server has started."""

    __slots__ = ("delivered", "entry", "event_id", "input", "max_output")

    def __init__(self, entry: UsageEntry, event_id: str | None, input_: int, max_output: int | None) -> None:
        self.entry = entry
        self.event_id = event_id
        self.input = input_  # tokens, estimated
        self.max_output = max_output
        self.delivered = 0  # bytes


class SessionMeter:
    """`first` is the entry that was opened before the session. `implausible` is called for a report that is
    impossible.
    """

    def __init__(
        self,
        accounting: UsageAccounting,
        limits: SessionLimits,
        call: Call,
        first: UsageEntry,
        clock: Clock,
        implausible: Callable[[], object],
    ) -> None:
        self.limits = limits
        self._accounting = accounting
        self._call = call
        self._first: UsageEntry | None = first
        self._target = first.target
        self._label = first.label
        self._clock = clock
        self._implausible = implausible
        self._asked: deque[RunningResponse] = deque()
        self._running: dict[str, RunningResponse] = {}
        self._ended_ids: deque[str] = deque(maxlen=REMEMBERED)
        self._transcription_model = call.model
        self._context = 0  # tokens of the conversation up to the last response
        self._added = 0  # estimated tokens that the client has sent since
        self._max_output: int | None = None

    @property
    def busy(self) -> bool:
        """Whether a response is running."""
        return bool(self._asked or self._running)

    def sent_by_client(self, event: ClientEvent) -> None:
        """Count an event before the server gets it. Raises GatewayError if it requests a response that the
        limits do not allow.
        """
        self._added += event.tokens
        if event.transcribes is not None:
            self._transcription_model = event.transcribes
        if event.creates:
            self._asked.append(self._reserve(event.event_id, event.max_output))
        elif event.max_output is not None:
            self._max_output = event.max_output or None

    def sent_by_server(self, event: ServerEvent) -> UsageEntry | None:
        """Count an event before the client gets it. Returns the entry that it settles. Raises GatewayError if
        the server has begun a response that the limits do not allow.
        """
        match event.kind:
            case "delta":
                if (running := self._find(event.response)) is not None:
                    running.delivered += event.delivered
            case "began":
                self._began(event.response)
            case "ended":
                return self._ended(event)
            case "error":
                return self._refused(event.event_id)
            case "transcribed":
                return self._transcribed(event)
        return None

    def finish(self, status: int, outcome: str) -> None:
        """Settle all that has not ended. Later calls do nothing."""
        for running in (*self._asked, *self._running.values()):
            usage, _ = self._usage(running, None)
            running.entry.finish(status, outcome, usage)
        self._asked.clear()
        self._running.clear()
        if self._first is not None:
            ok = outcome in ("ok", "client_gone")
            self._first.finish(SWITCHED if ok else status, "ok" if ok else outcome, NO_USAGE)
            self._first = None
        self.limits.close()

    def _find(self, response: str) -> RunningResponse | None:
        """Of events that name no response there is only one."""
        if not response and len(self._running) == 1:
            return next(iter(self._running.values()))
        return self._running.get(response)

    def _began(self, response: str) -> None:
        if response in self._running or response in self._ended_ids:
            return
        if self._asked:
            running = self._asked.popleft()
        else:
            try:
                running = self._reserve(None, None)
            except GatewayError:
                self._running[response] = self._reserve(None, None, enforce=False)
                raise
        running.entry.begin_response()
        self._running[response] = running

    def _ended(self, event: ServerEvent) -> UsageEntry | None:
        if event.response in self._ended_ids:
            return None
        if event.response:  # some servers do not name their responses
            self._ended_ids.append(event.response)
        running = self._running.pop(event.response, None)
        if running is None:  # some servers do not say when a response begins
            running = self._asked.popleft() if self._asked else self._reserve(None, None, enforce=False)
            running.entry.begin_response()
        usage, implausible = self._usage(running, event.usage)
        if implausible or event.implausible:
            running.entry.quarantine = "implausible"
            self._implausible()
        self._context = (usage.input_tokens or 0) + (usage.output_tokens or 0)
        self._added = 0
        if event.failed:
            running.entry.finish(502, "upstream_error", usage)
        else:
            running.entry.finish(200, "ok", usage)
        return running.entry

    def _refused(self, event_id: str | None) -> UsageEntry | None:
        """The server has rejected an event, which may have requested a response."""
        for running in self._asked:
            if running.event_id == event_id:
                self._asked.remove(running)
                running.entry.finish(400, "client_error", NO_USAGE)
                return running.entry
        return None

    def _transcribed(self, event: ServerEvent) -> UsageEntry | None:
        """The server has already done what it reports, so no limit prevents it."""
        if event.usage is None:
            return None
        entry = self._open(Estimate(0, None), self._transcription_model, enforce=False)
        entry.begin_response()
        entry.finish(200, "ok", event.usage)
        return entry

    def _usage(self, running: RunningResponse, reported: Usage | None) -> tuple[Usage, bool]:
        facts = RequestFacts(
            self._call.model, text_bytes=running.input * BYTES_PER_TOKEN, max_output=running.max_output
        )
        delivered = running.delivered
        return settle_usage(reported, facts, delivered=delivered, pieces=int(delivered > 0))

    def _reserve(
        self, event_id: str | None, max_output: int | None, *, enforce: bool = True
    ) -> RunningResponse:
        """`max_output`: the client's maximum; 0 is no limit, and None the session's limit."""
        if enforce and len(self._asked) + len(self._running) >= MAX_RESPONSES:
            message = f"A session may run {MAX_RESPONSES} responses at once. Wait for one to end."
            raise RateLimited("too_many_responses", message, retry_after=None)
        bound = self._max_output if max_output is None else max_output or None
        input_ = self._context + self._added
        model, estimator = self._call.model, self._accounting.estimator
        price = estimator.price(self._target, model, self._clock.now_ms())
        output = estimator.max_output(price) if bound is None else bound
        estimate = estimator.estimate_tokens(price, input_ + 1, output, self._call.markup)
        if self._first is not None and enforce:
            entry, self._first = self._first, None
            try:
                reservation = self.limits.replace(entry.reservation, estimate, model)
                entry.begin_again(self._call_now(self._call.context.id, model), reservation)
            except GatewayError as exc:
                entry.finish(exc.status, "cut", NO_USAGE)
                raise
        else:
            entry = self._open(estimate, model, enforce=enforce)
        return RunningResponse(entry, event_id, input_, bound)

    def _open(self, estimate: Estimate, model: str, *, enforce: bool) -> UsageEntry:
        recorder = self._accounting.recorder
        if enforce:
            recorder.check_capacity(strict=self._accounting.strict)
        reservation = self.limits.reserve(estimate, model, enforce=enforce)
        recorder.reserve()
        call = self._call_now(uuid7(self._clock.now_ms()), model)
        entry = self._accounting.open(self.limits.caller, call, reservation)
        own = model == self._call.model
        if own:
            entry.label = self._label
        if (target := self._target) is not None:
            entry.try_target(target if own else structs.replace(target, model=""))
        return entry

    def _call_now(self, row_id: str, model: str) -> Call:
        context = structs.replace(
            self._call.context, id=row_id, at_ms=self._clock.now_ms(), started=trio.current_time()
        )
        return structs.replace(self._call, context=context, model=model)
