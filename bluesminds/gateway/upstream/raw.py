"""Sends one request to one server and gives back the response as it is, for requests that call no model.

Nothing is repeated: the gateway does not know what a request changes at the server.
"""

import math
from collections.abc import AsyncIterable
from dataclasses import replace
from typing import Final

from msgspec import Struct, structs

from bluesminds.common.errors import UpstreamFailed
from bluesminds.common.log import Log
from bluesminds.common.values import RequestContext, Server, server_label
from bluesminds.gateway.metrics import Metrics
from bluesminds.gateway.routing.health import ServerHealthRegistry
from bluesminds.gateway.routing.server_keys import ServerKeyRegistry
from bluesminds.gateway.upstream.attempt import RETRY_HEADERS, Headers, Reply, read_error_body
from bluesminds.gateway.upstream.endpoint import ANTHROPIC_PREFIX, UpstreamEndpoint
from bluesminds.gateway.upstream.failures import (
    AttemptFailure,
    classify_error,
    key_failure,
    key_rejected,
)
from bluesminds.gateway.upstream.timeouts import with_server
from bluesminds.http.client.pool import Pool, Response, Timeouts, UpstreamError
from bluesminds.providers.dialects import DIALECTS
from bluesminds.providers.profiles import profile_of
from bluesminds.wire.base import Format
from bluesminds.wire.errors import read_error

# Of the response. All others describe the connection, or the gateway's account at the server.
_PASSED_HEADERS: Final = RETRY_HEADERS | frozenset(
    (
        *(b"content-type", b"content-length", b"content-disposition", b"content-range", b"content-language"),
        *(b"accept-ranges", b"cache-control", b"etag", b"expires", b"last-modified"),
        *(b"openai-processing-ms", b"openai-version"),
    )
)


class RawRequest(Struct, frozen=True):
    """`path` is relative to the server's URL, with the query. `headers` are the client's, to be passed on."""

    method: str
    path: str
    headers: Headers
    body: bytes | AsyncIterable[bytes] = b""


class RawReply(Struct, frozen=True):
    """`error`: the whole body of an error response, for the client; `response` is then read to its end."""

    endpoint: UpstreamEndpoint
    response: Response
    headers: Headers
    error: bytes | None = None

    @property
    def status(self) -> int:
        return self.response.status


class RawSender:
    def __init__(
        self,
        pool: Pool,
        health: ServerHealthRegistry,
        keys: ServerKeyRegistry,
        *,
        timeouts: Timeouts,
        metrics: Metrics,
        log: Log,
    ) -> None:
        self._pool = pool
        self._health = health
        self._keys = keys
        self._timeouts = replace(timeouts, first_byte=math.inf)  # the total timeout bounds it
        self._metrics = metrics
        self._log = log
        self._endpoints: dict[str, UpstreamEndpoint] = {}

    async def send(
        self, context: RequestContext, server: Server, request: RawRequest, client_format: Format
    ) -> RawReply:
        """The response; the caller closes it. Raises UpstreamFailed, and what the body raises."""
        endpoint = self._endpoint(server)
        response = None
        try:
            response = await self._pool.request(
                request.method.encode(),
                endpoint.origin,
                endpoint.target(request.path, "", stream=False),
                self._headers(endpoint, context, request),
                request.body,
                timeouts=self._timeouts
                if server.options is None
                else with_server(self._timeouts, server.options),
            )
            if response.status < 300:
                self._metrics.attempts[server_label(server.name), "answered"] += 1
                self._health.record_success(server.name, "")
                if endpoint.key:
                    self._keys.record_success(server.name, endpoint.key)
                return RawReply(endpoint, response, _passed(response))
            return await self._error_reply(context, endpoint, response, client_format)
        except UpstreamError as exc:
            if response is not None:
                response.close()
            raise self.failed(context, server, exc) from exc
        except BaseException:
            if response is not None:
                response.close()
            raise

    def failed(self, context: RequestContext, server: Server, exc: UpstreamError) -> UpstreamFailed:
        """Record that the request or its response has failed. Returns the error for the client."""
        return self._failed(context, server, classify_error(exc))

    @staticmethod
    def _headers(endpoint: UpstreamEndpoint, context: RequestContext, request: RawRequest) -> Headers:
        """The server's own headers, replaced by the client's where both have one, except for the key."""
        speaks_messages = "messages" in profile_of(endpoint.server).speaks
        forward = [
            one for one in context.forward if speaks_messages or not one[0].startswith(ANTHROPIC_PREFIX)
        ]
        sent = {name for name, _ in (*forward, *request.headers)}
        own = [header for header in endpoint.headers if header[0] not in sent]
        return [*own, *forward, *request.headers, (b"x-request-id", context.id.encode())]

    async def _error_reply(
        self, context: RequestContext, endpoint: UpstreamEndpoint, response: Response, client_format: Format
    ) -> RawReply:
        """Raises UpstreamFailed for a rejected key, and for a redirect: following it could send the key to
        another place.
        """
        body = endpoint.redact(await read_error_body(response))
        error = read_error(response.status, body)
        server = endpoint.server
        if endpoint.key:
            blamed = key_failure(Reply(endpoint, response.status, _passed(response), body, error=error))
            if blamed is not None:
                self._keys.rest(server, endpoint.key, *blamed)
        if DIALECTS[server.dialect].refuses_key(response.status, error):
            failure = AttemptFailure(str(response.status), blames_server=True, error=key_rejected(server))
            raise self._failed(context, server, failure)
        if response.status < 400:
            message = (
                "The server responded with a redirect "
                f"({response.status}). Ask the operator to check its URL."
            )
            failed = UpstreamFailed(502, "upstream_error", message)
            failure = AttemptFailure(str(response.status), blames_server=True, error=failed)
            raise self._failed(context, server, failure)
        self._metrics.attempts[server_label(server.name), str(response.status)] += 1
        if response.status >= 500:
            self._health.record_failure(server.name, "", str(response.status))
            error = structs.replace(error, code=error.code or "upstream_error")
        reply = Reply(endpoint, response.status, _passed(response), body, error=error)
        shaped = reply.as_client_error(client_format, context.request_id)
        return RawReply(endpoint, response, shaped.headers, shaped.body)

    def _failed(self, context: RequestContext, server: Server, failure: AttemptFailure) -> UpstreamFailed:
        self._metrics.attempts[server_label(server.name), failure.reason] += 1
        if failure.blames_server:
            self._health.record_failure(server.name, "", failure.reason)
        self._log.warning(
            "attempt_failed",
            request_id=context.request_id,
            server=server.name,
            model="",
            reason=failure.reason,
            error=failure.detail or None,
        )
        return failure.error

    def _endpoint(self, server: Server) -> UpstreamEndpoint:
        if server.is_own:
            return UpstreamEndpoint.to(server)
        endpoint = self._endpoints.get(server.name)
        if endpoint is None or endpoint.server is not server:
            endpoint = self._endpoints[server.name] = UpstreamEndpoint.to(server)
        return endpoint.by_key[self._keys.choose(server)] if server.more_keys else endpoint


def _passed(response: Response) -> Headers:
    return [header for header in response.headers if header[0] in _PASSED_HEADERS]
