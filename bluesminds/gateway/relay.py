"""Forwards a server's response to the client, and settles the request before the last byte.

After the first byte, an error ends a stream of events with an error event and without [DONE]. For a response
of other bytes, it closes the connection before the end.
"""

import contextlib
import math
from collections.abc import Callable
from typing import NoReturn, Protocol

import trio
from msgspec import Struct, structs

from bluesminds.common.errors import GatewayError, InvalidRequest, Unavailable, UpstreamFailed
from bluesminds.common.money import write_usd
from bluesminds.common.values import NO_USAGE, Usage
from bluesminds.gateway.accounting import STOPPED, UsageEntry
from bluesminds.gateway.call import Call, CallBody, JsonBody
from bluesminds.gateway.observer import CLIENT_GONE
from bluesminds.gateway.recorder import usage_unrecorded_error
from bluesminds.gateway.recovery import StreamRecovery
from bluesminds.gateway.upstream.attempt import JSON_TYPE, Reply
from bluesminds.gateway.upstream.endpoint import StreamRedactor
from bluesminds.gateway.upstream.sender import Sender
from bluesminds.http.client.pool import Response, UpstreamError
from bluesminds.http.sse import MAX_EVENT, EventTooLarge
from bluesminds.wire.base import Stage
from bluesminds.wire.cost import with_cost, with_stream_cost
from bluesminds.wire.resumption import ResumedStream, without_last
from bluesminds.wire.stages import DONE
from bluesminds.wire.usage import estimate_output, settle_usage

Headers = list[tuple[bytes, bytes]]
END_SECONDS = 0.25  # how long a server may take to end its response after its [DONE]
DONE_SECONDS = 5.0  # how long a server may take to send [DONE] after its answer is complete
COUNTED = Usage(0, 0, usage_source="estimated")  # counting tokens is free
MAX_DROPPED = 500  # characters of x-bluesminds-dropped
# Says that a stream ends because of a budget, in formats whose clients get comments as pings too.
AT_BUDGET = b": bluesminds: stopped at a budget\n\n"
# Proxies in front must not buffer or rewrite the events.
STREAM_HEADERS: Headers = [(b"cache-control", b"no-cache, no-transform"), (b"x-accel-buffering", b"no")]


class ResponseWriter(Protocol):
    """Writes the response to the client. Writing to a client that has disconnected raises OSError."""

    @property
    def gone(self) -> bool: ...

    def on_gone(self, callback: Callable[[], object]) -> None: ...

    async def send(self, status: int, headers: Headers, body: bytes) -> None: ...

    async def start(self, status: int, headers: Headers) -> None: ...

    async def write(self, data: bytes) -> None: ...

    async def end(self, data: bytes = b"") -> None: ...

    def abort(self) -> NoReturn:
        """End the connection before the end of the response, so that the client sees that it is cut."""


class ForwardingWriter:
    """Passes everything to `out`. Subclasses see or change what the client gets."""

    def __init__(self, out: ResponseWriter) -> None:
        self._out = out

    @property
    def gone(self) -> bool:
        return self._out.gone

    def on_gone(self, callback: Callable[[], object]) -> None:
        self._out.on_gone(callback)

    def abort(self) -> NoReturn:
        self._out.abort()


class Relay(Struct, frozen=True):
    """`expose_server`: response headers name the server and the number of attempts."""

    sender: Sender
    expose_server: bool

    async def pass_on(
        self,
        call: Call,
        body: CallBody,
        reply: Reply,
        entry: UsageEntry,
        out: ResponseWriter,
        recovery: StreamRecovery | None = None,
    ) -> None:
        """`recovery` continues the stream at another server if this one fails."""
        recovers = recovery is not None and reply.is_events and reply.stage is not None
        if not recovers:
            body.release()
        if body.dropped:
            names = ",".join(body.dropped)[:MAX_DROPPED].encode("ascii", "replace")
            reply = structs.replace(reply, headers=[*reply.headers, (b"x-bluesminds-dropped", names)])
        if recovery is not None and reply.is_events and reply.stage is not None:
            try:
                await self._relay_recoverable(call, reply, reply.stage, entry, out, recovery)
            finally:
                body.release()
        elif reply.stage is not None and reply.response is not None:
            relay = self._relay_stream if reply.is_events else self._relay_bytes
            await relay(call, reply, reply.stage, reply.response, entry, out)
        elif reply.is_events:
            await self._relay_events(call, reply, entry, out)
        else:
            await self._relay_json(call, reply, entry, out)

    def headers(self, entry: UsageEntry) -> Headers:
        """The headers of every response to an admitted request, besides the request id."""
        headers = [*entry.rate_headers]
        if entry.target is not None and (model := entry.target.serves):
            headers.append((b"x-bluesminds-model", model.encode("ascii", "replace")))
        if entry.lowered_output is not None:
            headers.append((b"x-bluesminds-max-output", b"%d" % entry.lowered_output))
        if self.expose_server and entry.attempts:
            headers.append((b"x-bluesminds-server", entry.server.encode()))
            headers.append((b"x-bluesminds-attempts", b"%d" % len(entry.attempts)))
        return headers

    async def send_estimate(self, body: JsonBody, entry: UsageEntry, out: ResponseWriter) -> None:
        """The gateway's own response to a count request."""
        answer = body.estimate()
        body.release()
        entry.finish(200, "ok", COUNTED)
        await entry.wait_durable()
        entry.begin_response()
        headers = [JSON_TYPE, *self.headers(entry), (b"x-bluesminds-estimated", b"true")]
        await out.send(200, headers, answer)

    async def _relay_json(self, call: Call, reply: Reply, entry: UsageEntry, out: ResponseWriter) -> None:
        self._settle_whole(call, reply, entry)
        if call.observer is not None and reply.error is None:
            server = reply.endpoint.server.name
            await call.observer.finish(server, translated=reply.translated, body=reply.body)
        await entry.wait_durable()
        entry.begin_response()
        headers = reply.headers + self.headers(entry)
        if entry.cost is not None:
            headers.append((b"x-cost-usd", write_usd(entry.cost).encode()))
        body = with_cost(reply.body, entry.cost) if call.facts.wants_cost else reply.body
        await out.send(reply.status, headers, body)

    async def _relay_events(self, call: Call, reply: Reply, entry: UsageEntry, out: ResponseWriter) -> None:
        """A JSON answer that was converted to events."""
        self._settle_whole(call, reply, entry)
        await _observe_end(call, reply, reply.body)
        await entry.wait_durable()
        entry.begin_response()
        await out.start(reply.status, reply.headers + self.headers(entry) + STREAM_HEADERS)
        body = with_stream_cost(reply.body, entry.cost) if call.facts.wants_cost else reply.body
        await out.end(body)

    def _settle_whole(self, call: Call, reply: Reply, entry: UsageEntry) -> None:
        if reply.error is not None:
            entry.finish(reply.status, "client_error", NO_USAGE)
            return
        facts = reply.facts
        usage, implausible = settle_usage(
            facts.usage, call.facts, delivered=facts.delivered, pieces=facts.pieces
        )
        if implausible or facts.implausible:
            entry.quarantine = "implausible"
            self.sender.warn_implausible_usage(call, reply.endpoint.server.name)
        entry.reported_cost = reply.cost
        if call.facts.text_answer:
            entry.own_output = estimate_output(facts.delivered, facts.pieces, call.facts)
        entry.finish(reply.status, "ok", usage)

    async def _relay_stream(
        self,
        call: Call,
        reply: Reply,
        stage: Stage,
        response: Response,
        entry: UsageEntry,
        out: ResponseWriter,
    ) -> None:
        redact, observer = reply.endpoint.redact, call.observer
        entry.begin_response(stage)
        await out.start(reply.status, reply.headers + self.headers(entry) + STREAM_HEADERS)
        data, budget = reply.body, entry.budget
        try:
            while data:
                passed = redact(stage.feed(data))
                if budget is not None and not stage.finished and not budget.allows(stage.output):
                    await self._stop(call, reply, stage, entry, out)
                    return
                if passed:
                    if call.facts.wants_cost:
                        passed = with_stream_cost(passed, entry.cost_of(stage.usage))
                    if observer is not None:
                        observer.feed(passed)
                    await out.write(passed)
                data = b"" if stage.final else await _receive(response, stage)
            last = redact(stage.finish())
            if call.facts.wants_cost:
                last = with_stream_cost(last, entry.cost_of(stage.usage))
            last += self._end_stream(call, reply, stage, entry)
            await _observe_end(call, reply, last)
        except UpstreamError as exc:
            last = self._cut(call, reply, entry, type(exc).__name__)
        except EventTooLarge:
            entry.close(reply.status, "cut")
            message = f"The server sent an event of more than {MAX_EVENT >> 20} MiB, which is too large."
            last = call.format.write_stream_error("upstream_invalid", message, entry.next_number)
        try:
            await entry.wait_durable()
        except GatewayError as exc:
            last = call.format.write_stream_error(exc.code, exc.message, entry.next_number)
        await out.end(last)
        if stage.final:
            await _drain_after_done(response)

    async def _relay_recoverable(
        self,
        call: Call,
        reply: Reply,
        stage: Stage,
        entry: UsageEntry,
        out: ResponseWriter,
        recovery: StreamRecovery,
    ) -> None:
        """The caller closes `reply`."""
        entry.begin_response(stage)
        await out.start(reply.status, reply.headers + self.headers(entry) + STREAM_HEADERS)
        next_reply: Reply | None = None
        try:
            while True:
                last, reason = await _pass_recoverable(reply, stage, out, recovery)
                resumed = await recovery.resume(reply, stage, reason) if reason else None
                if resumed is None or resumed.stage is None:
                    break
                self.sender.stream_failed(reply, reason)
                reply.close()
                reply, stage, next_reply = resumed, resumed.stage, resumed
            if _has_diverged(stage):
                self.sender.release(reply)
                entry.close(reply.status, "cut")
            elif reason and stage.error is None:
                last = self._cut(call, reply, entry, reason)
            else:
                last += self._end_stream(call, reply, stage, entry)
            try:
                await entry.wait_durable()
            except GatewayError as exc:
                last = call.format.write_stream_error(exc.code, exc.message, entry.next_number)
            await out.end(last)
            if stage.final and reply.response is not None:
                await _drain_after_done(reply.response)
        finally:
            if next_reply is not None:
                next_reply.close()

    async def _stop(
        self, call: Call, reply: Reply, stage: Stage, entry: UsageEntry, out: ResponseWriter
    ) -> None:
        """End a stream whose cost reaches the budget, in the way of its format for the maximum length."""
        entry.close(reply.status, STOPPED)
        last = reply.endpoint.redact(stage.stop())
        if call.facts.wants_cost:
            last = with_stream_cost(last, entry.cost)
        await _observe_end(call, reply, last)
        if call.format.codec is not None and call.format.codec.keep_alive.startswith(b":"):
            last = AT_BUDGET + last
        try:
            await entry.wait_durable()
        except GatewayError as exc:
            last = call.format.write_stream_error(exc.code, exc.message, entry.next_number)
        await out.end(last)

    async def _relay_bytes(
        self,
        call: Call,
        reply: Reply,
        stage: Stage,
        response: Response,
        entry: UsageEntry,
        out: ResponseWriter,
    ) -> None:
        """The client sees the end of the response after the usage row is durable."""
        redactor = StreamRedactor(reply.endpoint.secrets)
        entry.begin_response(stage)
        await out.start(reply.status, reply.headers + self.headers(entry) + STREAM_HEADERS)
        data = reply.body
        try:
            while data:
                if passed := redactor.feed(stage.feed(data)):
                    await out.write(passed)
                data = await response.receive()
        except UpstreamError as exc:
            self.sender.stream_failed(reply, type(exc).__name__)
            entry.close(reply.status, "cut")
            out.abort()
        stage.finish()
        if not stage.finished:
            self.sender.stream_failed(reply, "UpstreamCut")
            entry.close(reply.status, "cut")
            out.abort()
        self.sender.stream_ended(call, reply, None, implausible=stage.implausible)
        entry.close(reply.status, "ok")
        try:
            await entry.wait_durable()
        except GatewayError:
            out.abort()
        await out.end(redactor.finish())

    async def drain(self, call: Call, reply: Reply, entry: UsageEntry) -> None:
        """The client has left. Read the stream on as far as its server allows, to learn its usage. The caller
        closes `reply`.
        """
        stage, response, options = reply.stage, reply.response, reply.endpoint.server.options
        if stage is None or response is None or options is None:
            return
        tokens = math.inf if options.drain_tokens is None else options.drain_tokens + stage.output
        seconds = math.inf if options.drain_seconds is None else options.drain_seconds
        with trio.move_on_after(seconds), contextlib.suppress(UpstreamError, EventTooLarge):
            if not stage.started:
                stage.feed(reply.body)
            while not stage.final and stage.output < tokens:
                if entry.budget is not None and not entry.budget.allows(stage.output):
                    break
                if not (data := await _receive(response, stage)):
                    stage.finish()
                    break
                stage.feed(data)
        if stage.finished:
            self.sender.stream_ended(call, reply, stage.error, implausible=stage.implausible)
        else:
            self.sender.release(reply)
        entry.close(CLIENT_GONE, "client_gone")

    def _end_stream(self, call: Call, reply: Reply, stage: Stage, entry: UsageEntry) -> bytes:
        """The server has ended its response. Returns the last bytes for the client."""
        if stage.error is None and not stage.finished:
            return self._cut(call, reply, entry, "UpstreamCut")
        self.sender.stream_ended(call, reply, stage.error, implausible=stage.implausible)
        entry.close(reply.status, "ok" if stage.error is None else "upstream_error")
        return b"" if stage.final or stage.error is not None else DONE

    def _cut(self, call: Call, reply: Reply, entry: UsageEntry, reason: str) -> bytes:
        self.sender.stream_failed(reply, reason)
        entry.close(reply.status, "cut")
        message = "The server ended the stream before the answer was complete. Try again."
        return call.format.write_stream_error("upstream_cut", message, entry.next_number)


async def _pass_recoverable(
    reply: Reply, stage: Stage, out: ResponseWriter, recovery: StreamRecovery
) -> tuple[bytes, str]:
    """Forward the events of one server. The last bytes for the client, and the reason if the server failed:
    then the bytes are its error event, if it sent one.
    """
    redact, response, data = reply.endpoint.redact, reply.response, reply.body
    try:
        while data:
            passed = redact(stage.feed(data))
            failed = stage.error is not None and not (stage.error.blames_request() or _has_diverged(stage))
            kept = without_last(passed) if failed else passed
            if kept:
                recovery.record(kept)
                await out.write(kept)
            if failed:
                return passed[len(kept) :], "error_in_stream"
            data = b"" if stage.final or response is None else await _receive(response, stage)
        last = redact(stage.finish())
    except UpstreamError as exc:
        return b"", type(exc).__name__
    except EventTooLarge:
        return b"", EventTooLarge.__name__
    if stage.finished or stage.error is not None:
        return last, ""
    if last:
        recovery.record(last)
        await out.write(last)
    return b"", "UpstreamCut"


def _has_diverged(stage: Stage) -> bool:
    return isinstance(stage, ResumedStream) and stage.diverged


async def _observe_end(call: Call, reply: Reply, last: bytes) -> None:
    """`last`: the end of the stream."""
    if call.observer is not None:
        call.observer.feed(last)
        await call.observer.finish(reply.endpoint.server.name, translated=reply.translated)


async def _receive(response: Response, stage: Stage) -> bytes:
    """The next bytes of a stream. If the answer is complete, wait at most DONE_SECONDS for the server's
    [DONE], and ignore a broken connection.
    """
    if not stage.finished:
        return await response.receive()
    with trio.move_on_after(DONE_SECONDS), contextlib.suppress(UpstreamError):
        return await response.receive()
    return b""


async def _drain_after_done(response: Response) -> None:
    """Wait at most END_SECONDS for the end of the response after [DONE], so that the connection can be
    reused. The client has its response, so the deadline of the request does not apply.
    """
    with contextlib.suppress(UpstreamError), trio.move_on_after(END_SECONDS, shield=True):
        while await response.receive():
            pass


async def settle_failure(entry: UsageEntry, error: GatewayError) -> GatewayError:
    """Settle a request without a response from a server. Returns the error for the client."""
    entry.close(error.status, "client_error" if isinstance(error, InvalidRequest) else "upstream_error")
    if isinstance(error, Unavailable):
        return error
    try:
        await entry.wait_durable()
    except Unavailable:
        return Unavailable("storage_unavailable", "Usage cannot be recorded now. Try again in a few seconds.")
    return error


async def handle_total_timeout(call: Call, entry: UsageEntry, out: ResponseWriter) -> None:
    """Raises the error if nothing has been sent; otherwise ends the stream with it."""
    if entry.settled:  # only the write of the usage row took too long
        failure: GatewayError = usage_unrecorded_error()
    else:
        failure = UpstreamFailed(
            504,
            "upstream_timeout",
            "The response took longer than total_timeout in [upstream]. Request less, or raise the setting.",
        )
        entry.close(504, "timeout")
    if entry.first_byte is None:
        raise failure
    if not isinstance(failure, Unavailable):
        with contextlib.suppress(GatewayError):
            await entry.wait_durable()
    if entry.passes_bytes:
        out.abort()
    await out.end(call.format.write_stream_error(failure.code, failure.message, entry.next_number))
