"""Passes a server's response on to the client, and settles the request before its last byte.

After the first byte an error can no longer be a response of its own: it ends the stream with an error event
and without [DONE].
"""

import contextlib
from collections.abc import Callable
from typing import Protocol

import trio
from msgspec import Struct, structs

from bluesminds.common.errors import GatewayError, Unavailable, UpstreamFailed
from bluesminds.common.money import write_usd
from bluesminds.common.values import NO_USAGE, Usage
from bluesminds.gateway.accounting import UsageEntry
from bluesminds.gateway.call import Call, CallBody
from bluesminds.gateway.recorder import usage_unrecorded_error
from bluesminds.gateway.upstream.attempt import JSON_TYPE, Reply
from bluesminds.gateway.upstream.sender import Sender
from bluesminds.http.client.pool import Response, UpstreamError
from bluesminds.http.sse import MAX_EVENT, EventTooLarge
from bluesminds.wire.base import Stage
from bluesminds.wire.stages import DONE
from bluesminds.wire.usage import settle_usage

Headers = list[tuple[bytes, bytes]]
END_SECONDS = 0.25  # how long a server may take to end its response after its [DONE]
DONE_SECONDS = 5.0  # how long it may take to send [DONE] after its answer is complete
COUNTED = Usage(0, 0, source="estimated")  # counting tokens uses and costs nothing
MAX_DROPPED = 500  # characters of the header that names the fields a server did not get
# Proxies in front must not buffer or rewrite the events.
STREAM_HEADERS: Headers = [(b"cache-control", b"no-cache, no-transform"), (b"x-accel-buffering", b"no")]


class ResponseWriter(Protocol):
    """Writes the response to the client. Writing to a client that has left raises ClientGone."""

    @property
    def gone(self) -> bool: ...

    def on_gone(self, callback: Callable[[], object]) -> None: ...

    async def send(self, status: int, headers: Headers, body: bytes) -> None: ...

    async def start(self, status: int, headers: Headers) -> None: ...

    async def write(self, data: bytes) -> None: ...

    async def end(self, data: bytes = b"") -> None: ...


class Relay(Struct, frozen=True):
    """`expose_server`: responses name the server that answered."""

    sender: Sender
    expose_server: bool

    async def pass_on(
        self, call: Call, body: CallBody, reply: Reply, entry: UsageEntry, out: ResponseWriter
    ) -> None:
        body.release()
        if body.dropped:
            names = ",".join(body.dropped)[:MAX_DROPPED].encode("ascii", "replace")
            reply = structs.replace(reply, headers=[*reply.headers, (b"x-bluesminds-dropped", names)])
        if reply.stage is not None and reply.response is not None:
            await self._relay_stream(call, reply, reply.stage, reply.response, entry, out)
        elif call.facts.stream and reply.error is None:
            await self._relay_events(call, reply, entry, out)
        else:
            await self._relay_json(call, reply, entry, out)

    def headers(self, entry: UsageEntry) -> Headers:
        """What every response to an admitted request carries besides the request id."""
        if not self.expose_server or not entry.attempts:
            return entry.rate_headers
        return [
            *entry.rate_headers,
            (b"x-bluesminds-server", entry.attempts[-1].encode()),
            (b"x-bluesminds-attempts", b"%d" % len(entry.attempts)),
        ]

    async def send_estimate(self, body: CallBody, entry: UsageEntry, out: ResponseWriter) -> None:
        """The gateway's own answer to a request for a count of tokens."""
        answer = body.estimate()
        body.release()
        entry.finish(200, "ok", COUNTED)
        await entry.wait_durable()
        entry.begin_response()
        headers = [JSON_TYPE, *self.headers(entry), (b"x-bluesminds-estimated", b"true")]
        await out.send(200, headers, answer)

    async def _relay_json(self, call: Call, reply: Reply, entry: UsageEntry, out: ResponseWriter) -> None:
        self._settle_whole(call, reply, entry)
        await entry.wait_durable()
        entry.begin_response()
        headers = reply.headers + self.headers(entry)
        if entry.cost is not None:
            headers.append((b"x-cost-usd", write_usd(entry.cost).encode()))
        await out.send(reply.status, headers, reply.body)

    async def _relay_events(self, call: Call, reply: Reply, entry: UsageEntry, out: ResponseWriter) -> None:
        """A whole answer that the client asked for as a stream."""
        self._settle_whole(call, reply, entry)
        await entry.wait_durable()
        entry.begin_response()
        await out.start(reply.status, reply.headers + self.headers(entry) + STREAM_HEADERS)
        await out.end(reply.body)

    def _settle_whole(self, call: Call, reply: Reply, entry: UsageEntry) -> None:
        if reply.error is not None:
            entry.finish(reply.status, "client_error", NO_USAGE)
            return
        facts = reply.facts
        usage, implausible = settle_usage(
            facts.usage, call.facts, delivered=facts.delivered, pieces=facts.pieces
        )
        if implausible or facts.implausible:
            self.sender.warn_implausible_usage(call, reply.endpoint.server.name)
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
        redact = reply.endpoint.redact
        entry.begin_response(stage)
        await out.start(reply.status, reply.headers + self.headers(entry) + STREAM_HEADERS)
        data = reply.body
        try:
            while data:
                if passed := redact(stage.feed(data)):
                    await out.write(passed)
                data = b"" if stage.final else await _receive(response, stage)
            last = redact(stage.finish())
            last += self._end_stream(call, reply, stage, entry)
        except UpstreamError as exc:
            last = self._cut(call, reply, entry, type(exc).__name__)
        except EventTooLarge:
            entry.close(reply.status, "cut")
            message = f"The server sent an event of more than {MAX_EVENT >> 20} MiB, too large to pass on."
            last = call.format.write_stream_error("upstream_invalid", message)
        try:
            await entry.wait_durable()
        except GatewayError as exc:
            last = call.format.write_stream_error(exc.code, exc.message)
        await out.end(last)
        if stage.final:
            await _drain_after_done(response)

    def _end_stream(self, call: Call, reply: Reply, stage: Stage, entry: UsageEntry) -> bytes:
        """The server has ended its response. Returns what the client still needs."""
        if stage.error is None and not stage.finished:
            return self._cut(call, reply, entry, "UpstreamCut")
        self.sender.stream_ended(call, reply, stage.error, implausible=stage.implausible)
        entry.close(reply.status, "ok" if stage.error is None else "upstream_error")
        return b"" if stage.final or stage.error is not None else DONE

    def _cut(self, call: Call, reply: Reply, entry: UsageEntry, reason: str) -> bytes:
        self.sender.stream_failed(reply, reason)
        entry.close(reply.status, "cut")
        return call.format.write_stream_error(
            "upstream_cut", "The server ended the stream before the answer was complete. Try again."
        )


async def _receive(response: Response, stage: Stage) -> bytes:
    """The next bytes of a stream. When the answer is complete, the client neither waits long for the server's
    [DONE] nor learns that the connection broke.
    """
    if not stage.finished:
        return await response.receive()
    with trio.move_on_after(DONE_SECONDS), contextlib.suppress(UpstreamError):
        return await response.receive()
    return b""


async def _drain_after_done(response: Response) -> None:
    """Give the server a moment to end its response after [DONE], so that the connection can be kept. The
    client has its answer, so its deadline does not count.
    """
    with contextlib.suppress(UpstreamError), trio.move_on_after(END_SECONDS, shield=True):
        while await response.receive():
            pass


async def settle_failure(entry: UsageEntry, error: GatewayError) -> GatewayError:
    """Settle a request that no server answered. Returns the error for its client."""
    entry.close(error.status, "upstream_error")
    if isinstance(error, Unavailable):
        return error
    try:
        await entry.wait_durable()
    except Unavailable:
        return Unavailable("storage_unavailable", "Usage cannot be recorded right now. Try again shortly.")
    return error


async def handle_total_timeout(call: Call, entry: UsageEntry, out: ResponseWriter) -> None:
    """Raises the error while nothing has been sent; else ends the stream with it."""
    if entry.settled:  # only writing the row took too long
        failure: GatewayError = usage_unrecorded_error()
    else:
        failure = UpstreamFailed(
            504,
            "upstream_timeout",
            "The response took longer than upstream.total_timeout. Ask for less, or raise that setting.",
        )
        entry.close(504, "timeout")
    if entry.first_byte is None:
        raise failure
    if not isinstance(failure, Unavailable):
        with contextlib.suppress(GatewayError):
            await entry.wait_durable()
    await out.end(call.format.write_stream_error(failure.code, failure.message))
