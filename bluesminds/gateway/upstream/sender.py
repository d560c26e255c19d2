"""Attempts in order until one server answers; every upstream deadline but the total one is applied here.

A server that cannot be reached, breaks off, is overloaded or refuses the gateway's own credentials is left
for the next one, as long as the client has seen nothing: for a stream that means until its first event is in
hand. An answer that is the client's own fault (any other 4xx) is final. An answer in one piece begins when it
is finished, so only the total time bounds it: asking the next server would pay for it again.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from bluesminds.common.errors import UpstreamFailed
from bluesminds.common.log import Log
from bluesminds.common.values import Call, Server
from bluesminds.gateway.metrics import Metrics
from bluesminds.gateway.routing.health import ServerHealthRegistry
from bluesminds.gateway.upstream.attempt import Reply, UpstreamEndpoint, read_reply
from bluesminds.gateway.upstream.failures import AttemptFailure, classify_error, classify_reply
from bluesminds.http.client.pool import Pool, Timeouts, UpstreamError
from bluesminds.providers import openai


class Sender:
    def __init__(
        self,
        pool: Pool,
        health: ServerHealthRegistry,
        *,
        timeouts: Timeouts,
        attempts: int,
        metrics: Metrics,
        log: Log,
    ) -> None:
        self._pool = pool
        self._health = health
        self._timeouts = timeouts
        self._whole_timeouts = replace(timeouts, first_byte=math.inf, between_chunks=math.inf)
        self._attempts = attempts
        self._metrics = metrics
        self._log = log
        self._links: dict[str, UpstreamEndpoint] = {}

    async def send(self, call: Call, body: bytes, servers: Sequence[Server], tried: list[str]) -> Reply:
        """The first Reply worth passing on; the caller closes it. Appends each server tried to `tried`.

        Raises UpstreamFailed when none answered."""
        failure: UpstreamFailed | None = None
        for server in servers[: self._attempts]:
            tried.append(server.name)
            try:
                reply = await self._attempt(call, self._link(server, call), body)
            except UpstreamError as exc:
                failure = self._failed(call, server, classify_error(exc))
                continue
            fault = classify_reply(reply)
            if fault is None:
                return self._answered(call, reply)
            reply.close()
            failure = self._failed(call, server, fault)
        if failure is None:
            raise RuntimeError("there was no server to try")
        raise failure

    def ended(self, call: Call, reply: Reply, *, error: bytes, implausible: bool) -> None:
        """A stream has come to its end. `error`: the data of an error event in it."""
        server = reply.link.server.name
        if implausible:
            self._tell_implausible(call, server)
        if not error:
            self._health.record_success(server)
            return
        self._count(server, "error_in_stream")
        if not openai.read_error(reply.status, error).blames_request():
            self._health.record_failure(server, "error_in_stream")

    def stream_failed(self, reply: Reply, exc: UpstreamError) -> None:
        """A stream has ended too early."""
        self._fell_short(reply.link.server.name, type(exc).__name__)

    def out_of_time(self, tried: Sequence[str]) -> None:
        """The total time was over before the last server tried had answered."""
        if tried:
            self._fell_short(tried[-1], "total_timeout")

    async def _attempt(self, call: Call, link: UpstreamEndpoint, body: bytes) -> Reply:
        response = await self._pool.request(
            b"POST",
            link.origin,
            link.chat_target,
            (*link.headers, *call.context.forward, (b"x-request-id", call.context.id.encode())),
            body,
            timeouts=self._timeouts if call.stream else self._whole_timeouts,
        )
        reply = None
        try:
            reply = await read_reply(link, response, self._timeouts.first_byte)
        finally:
            if reply is None or reply.response is None:
                response.close()
        return reply

    def _answered(self, call: Call, reply: Reply) -> Reply:
        """A stream has yet to show how it ends: health is told then."""
        server = reply.link.server.name
        self._count(server, "answered")
        if reply.response is None:
            self._health.record_success(server)
            if reply.reading.implausible:
                self._tell_implausible(call, server)
        return reply if reply.status < 400 else reply.as_openai_error(call.context.request_id)

    def _failed(self, call: Call, server: Server, fault: AttemptFailure) -> UpstreamFailed:
        self._count(server.name, fault.reason)
        if fault.blames_server:
            self._health.record_failure(server.name, fault.reason)
        self._log.warning(
            "attempt_failed",
            request_id=call.context.request_id,
            server=server.name,
            model=call.model,
            reason=fault.reason,
        )
        return fault.told

    def _fell_short(self, server: str, reason: str) -> None:
        self._count(server, reason)
        self._health.record_failure(server, reason)

    def _tell_implausible(self, call: Call, server: str) -> None:
        self._log.warning(
            "usage_implausible", request_id=call.context.request_id, server=server, model=call.model
        )

    def _count(self, server: str, outcome: str) -> None:
        self._metrics.attempts[server, outcome] += 1

    def _link(self, server: Server, call: Call) -> UpstreamEndpoint:
        """With the key that this request may use."""
        link = self._links.get(server.name)
        if link is None or link.server is not server:
            link = self._links[server.name] = UpstreamEndpoint.to(server)
        return link.with_key(call.context.credential or "") if call.own_key else link
