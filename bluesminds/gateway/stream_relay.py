"""Forwards the streams of servers to clients, and settles each request before the last byte.

After the first byte, an error ends a stream of events with an error event and without [DONE]. For a response
of other bytes, it closes the connection before the end.
"""

import contextlib
import math

import trio
from msgspec import Struct

from bluesminds.common.errors import GatewayError
from bluesminds.gateway.accounting import STOPPED, UsageEntry
from bluesminds.gateway.call import Call
from bluesminds.gateway.observer import CLIENT_GONE
from bluesminds.gateway.recovery import StreamRecovery
from bluesminds.gateway.response_writer import Headers, ResponseWriter
from bluesminds.gateway.upstream.attempt import Reply
from bluesminds.gateway.upstream.endpoint import StreamRedactor
from bluesminds.gateway.upstream.outcomes import AttemptOutcomes
from bluesminds.http.client.pool import Response, UpstreamError
from bluesminds.http.sse import MAX_EVENT, EventTooLarge
from bluesminds.wire.base import Stage
from bluesminds.wire.cost import with_stream_cost
from bluesminds.wire.resumption import ResumedStream, without_last
from bluesminds.wire.stages import DONE

TOO_LARGE = EventTooLarge.__name__
DIFFERENT = "different_answer"  # the reason of an attempt whose answer does not continue the earlier one
END_SECONDS = 0.25  # how long a server may take to end its response after its [DONE]
DONE_SECONDS = 5.0  # how long a server may take to send [DONE] after its answer is complete
# Says that a stream ends because of a budget, in formats whose clients get comments as pings too.
AT_BUDGET = b": bluesminds: stopped at a budget\n\n"
# Proxies in front must not buffer or rewrite the events.
STREAM_HEADERS: Headers = [(b"cache-control", b"no-cache, no-transform"), (b"x-accel-buffering", b"no")]


class StreamRelay(Struct, frozen=True):
    """The caller has sent the head of the response."""

    outcomes: AttemptOutcomes

    async def relay_events(
        self, reply: Reply, stage: Stage, response: Response, entry: UsageEntry, out: ResponseWriter
    ) -> None:
        call, redact, data, budget = entry.call, reply.endpoint.redact, reply.body, entry.budget
        try:
            while data:
                passed = redact(stage.feed(data))
                if budget is not None and not stage.finished and not budget.allows(stage.output):
                    await self._stop(reply, stage, entry, out)
                    return
                if passed:
                    if call.facts.wants_cost:
                        passed = with_stream_cost(passed, entry.cost_of(stage.usage))
                    if call.observer is not None:
                        call.observer.feed(passed)
                    await out.write(passed)
                data = b"" if stage.final else await _receive(response, stage)
            last = redact(stage.finish())
            if call.facts.wants_cost:
                last = with_stream_cost(last, entry.cost_of(stage.usage))
            last += self._end_stream(reply, stage, entry)
            await observe_end(call, reply, last)
        except UpstreamError as exc:
            last = self._cut(reply, entry, type(exc).__name__)
        except EventTooLarge:
            last = self._cut(reply, entry, TOO_LARGE)
        await _end_durably(entry, out, last)
        if stage.final:
            await _drain_after_done(response)

    async def relay_recoverable(
        self,
        reply: Reply,
        stage: Stage,
        entry: UsageEntry,
        out: ResponseWriter,
        recovery: StreamRecovery,
    ) -> None:
        """The caller closes `reply`."""
        next_reply: Reply | None = None
        try:
            while True:
                last, reason = await _pass_recoverable(reply, stage, out, recovery)
                resumed = await recovery.resume(reply, stage, reason) if reason else None
                if resumed is None or resumed.stage is None:
                    break
                self.outcomes.stream_failed(reply, reason)
                reply.close()
                reply, stage, next_reply = resumed, resumed.stage, resumed
            if _has_diverged(stage):
                self.outcomes.release(reply)
                entry.fail_attempt(DIFFERENT)
                entry.close(reply.status, "cut")
            elif reason and stage.error is None:
                last = self._cut(reply, entry, reason)
            else:
                last += self._end_stream(reply, stage, entry)
            await _end_durably(entry, out, last)
            if stage.final and reply.response is not None:
                await _drain_after_done(reply.response)
        finally:
            if next_reply is not None:
                next_reply.close()

    async def _stop(self, reply: Reply, stage: Stage, entry: UsageEntry, out: ResponseWriter) -> None:
        """End a stream whose cost reaches the budget, in the way of its format for the maximum length."""
        call = entry.call
        entry.close(reply.status, STOPPED)
        last = reply.endpoint.redact(stage.stop())
        if call.facts.wants_cost:
            last = with_stream_cost(last, entry.cost)
        await observe_end(call, reply, last)
        if call.format.codec is not None and call.format.codec.keep_alive.startswith(b":"):
            last = AT_BUDGET + last
        await _end_durably(entry, out, last)

    async def relay_bytes(
        self, reply: Reply, stage: Stage, response: Response, entry: UsageEntry, out: ResponseWriter
    ) -> None:
        """The client sees the end of the response after the usage row is durable."""
        redactor, data = StreamRedactor(reply.endpoint.secrets), reply.body
        try:
            while data:
                if passed := redactor.feed(stage.feed(data)):
                    await out.write(passed)
                data = await response.receive()
        except UpstreamError as exc:
            self._close_cut(reply, entry, type(exc).__name__)
            out.abort()
        stage.finish()
        if not stage.finished:
            self._close_cut(reply, entry, "UpstreamCut")
            out.abort()
        self.outcomes.stream_ended(entry.call, reply, None, implausible=stage.implausible)
        entry.close(reply.status, "ok")
        try:
            await entry.wait_durable()
        except GatewayError:
            out.abort()
        await out.end(redactor.finish())

    async def drain(self, reply: Reply, entry: UsageEntry) -> None:
        """The client has disconnected. Continue to read the stream as far as its server allows, to get its
        usage. The caller closes `reply`.
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
            self.outcomes.stream_ended(entry.call, reply, stage.error, implausible=stage.implausible)
        else:
            self.outcomes.release(reply)
        entry.close(CLIENT_GONE, "client_gone")

    def _end_stream(self, reply: Reply, stage: Stage, entry: UsageEntry) -> bytes:
        """The server has ended its response. Returns the last bytes for the client."""
        if stage.error is None and not stage.finished:
            return self._cut(reply, entry, "UpstreamCut")
        self.outcomes.stream_ended(entry.call, reply, stage.error, implausible=stage.implausible)
        if stage.error is not None:
            entry.fail_attempt("error_in_stream")
        entry.close(reply.status, "ok" if stage.error is None else "upstream_error")
        return b"" if stage.final or stage.error is not None else DONE

    def _cut(self, reply: Reply, entry: UsageEntry, reason: str) -> bytes:
        self._close_cut(reply, entry, reason)
        if reason == TOO_LARGE:
            message = f"The server sent an event of more than {MAX_EVENT >> 20} MiB, which is too large."
            return entry.write_stream_error("upstream_invalid", message)
        message = "The server ended the stream before the answer was complete. Try again."
        return entry.write_stream_error("upstream_cut", message)

    def _close_cut(self, reply: Reply, entry: UsageEntry, reason: str) -> None:
        self.outcomes.stream_failed(reply, reason)
        entry.fail_attempt(reason)
        entry.close(reply.status, "cut")


async def _end_durably(entry: UsageEntry, out: ResponseWriter, last: bytes) -> None:
    """Send the last bytes after the usage row is durable. If it cannot be written, send an error instead."""
    try:
        await entry.wait_durable()
    except GatewayError as exc:
        last = entry.write_stream_error(exc.code, exc.message)
    await out.end(last)


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
        return b"", TOO_LARGE
    if stage.finished or stage.error is not None:
        return last, ""
    if last:
        recovery.record(last)
        await out.write(last)
    return b"", "UpstreamCut"


def _has_diverged(stage: Stage) -> bool:
    return isinstance(stage, ResumedStream) and stage.diverged


async def observe_end(call: Call, reply: Reply, last: bytes) -> None:
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
