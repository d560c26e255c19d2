"""Forwards a server's response to the client, and settles the request before the last byte.

`stream_relay.py` forwards what arrives in pieces.
"""

import contextlib

from msgspec import Struct, structs

from bluesminds.common.errors import GatewayError, InvalidRequest, Unavailable, UpstreamFailed
from bluesminds.common.money import write_usd
from bluesminds.common.values import NO_USAGE, Usage
from bluesminds.gateway.accounting import UsageEntry
from bluesminds.gateway.call import CallBody
from bluesminds.gateway.json_body import JsonBody
from bluesminds.gateway.recorder import usage_unrecorded_error
from bluesminds.gateway.recovery import StreamRecovery
from bluesminds.gateway.response_writer import Headers, ResponseWriter
from bluesminds.gateway.stream_relay import STREAM_HEADERS, StreamRelay, observe_end
from bluesminds.gateway.upstream.attempt import JSON_TYPE, Reply
from bluesminds.gateway.upstream.outcomes import AttemptOutcomes
from bluesminds.wire.cost import with_cost, with_stream_cost
from bluesminds.wire.usage import estimate_output, settle_usage

COUNTED = Usage(0, 0, usage_source="estimated")  # counting tokens is free
MAX_DROPPED = 500  # characters of x-bluesminds-dropped


class Relay(Struct, frozen=True):
    """`expose_server`: response headers name the server and the number of attempts."""

    streams: StreamRelay
    outcomes: AttemptOutcomes
    expose_server: bool

    async def pass_on(
        self,
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
                await self._start_stream(reply, entry, out)
                await self.streams.relay_recoverable(reply, reply.stage, entry, out, recovery)
            finally:
                body.release()
        elif reply.stage is not None and reply.response is not None:
            await self._start_stream(reply, entry, out)
            relay = self.streams.relay_events if reply.is_events else self.streams.relay_bytes
            await relay(reply, reply.stage, reply.response, entry, out)
        elif reply.is_events:
            await self._relay_converted(reply, entry, out)
        else:
            await self._relay_json(reply, entry, out)

    async def _start_stream(self, reply: Reply, entry: UsageEntry, out: ResponseWriter) -> None:
        entry.begin_response(reply.stage)
        await out.start(reply.status, reply.headers + self.headers(entry) + STREAM_HEADERS)

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

    async def _relay_json(self, reply: Reply, entry: UsageEntry, out: ResponseWriter) -> None:
        call = entry.call
        self._settle_whole(reply, entry)
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

    async def _relay_converted(self, reply: Reply, entry: UsageEntry, out: ResponseWriter) -> None:
        """A JSON answer that was converted to events."""
        self._settle_whole(reply, entry)
        await observe_end(entry.call, reply, reply.body)
        await entry.wait_durable()
        await self._start_stream(reply, entry, out)
        wants_cost = entry.call.facts.wants_cost
        body = with_stream_cost(reply.body, entry.cost) if wants_cost else reply.body
        await out.end(body)

    def _settle_whole(self, reply: Reply, entry: UsageEntry) -> None:
        if reply.error is not None:
            entry.finish(reply.status, "client_error", NO_USAGE)
            return
        call, facts = entry.call, reply.facts
        usage, implausible = settle_usage(
            facts.usage, call.facts, delivered=facts.delivered, pieces=facts.pieces
        )
        if implausible or facts.implausible:
            entry.quarantine = "implausible"
            self.outcomes.warn_implausible_usage(call, reply.endpoint.server.name)
        entry.reported_cost = reply.cost
        if call.facts.text_answer:
            entry.own_output = estimate_output(facts.delivered, facts.pieces, call.facts)
        entry.finish(reply.status, "ok", usage)


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


async def handle_total_timeout(entry: UsageEntry, out: ResponseWriter) -> None:
    """Raises the error if nothing has been sent; otherwise ends the stream with it."""
    if entry.settled:  # only the write of the usage row took too long
        failure: GatewayError = usage_unrecorded_error()
    else:
        failure = UpstreamFailed(
            504,
            "upstream_timeout",
            "The response took longer than total_timeout in [upstream]. Request less, or raise the setting.",
        )
        entry.fail_attempt("total_timeout")
        entry.close(504, "timeout")
    if entry.first_byte is None:
        raise failure
    if not isinstance(failure, Unavailable):
        with contextlib.suppress(GatewayError):
            await entry.wait_durable()
    if entry.passes_bytes:
        out.abort()
    await out.end(entry.write_stream_error(failure.code, failure.message))
