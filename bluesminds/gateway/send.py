"""Attempts in order until one server answers; every upstream deadline is applied here.

A server that cannot be reached, breaks off, is overloaded or refuses the gateway's own credentials is left
for the next one, as long as the client has seen nothing: for a stream that means until its first bytes are
in hand. An answer that is the client's own fault (any other 4xx) is final. It promises that a Reply is
either whole or has its first bytes, and that every response is closed.
"""

from collections.abc import Sequence

from msgspec import Struct

from bluesminds.errors import UpstreamFailed
from bluesminds.gateway.health import Health
from bluesminds.gateway.metrics import Metrics
from bluesminds.http.client import (
    BodyTooLarge,
    ChunkTimeout,
    ConnectTimeout,
    FirstByteTimeout,
    Origin,
    Pool,
    PoolTimeout,
    Response,
    Timeouts,
    UpstreamCut,
    UpstreamError,
    UpstreamProtocolError,
    WriteTimeout,
)
from bluesminds.log import Log
from bluesminds.providers import openai
from bluesminds.providers.dialects import DIALECTS
from bluesminds.values import Call, Server

MAX_ANSWER = 64 * 1024 * 1024  # bytes of an answer in one piece
MAX_ERROR = 64 * 1024
# What OpenAI's SDKs read before they repeat a request.
_PATIENCE = frozenset((b"retry-after", b"retry-after-ms", b"x-should-retry"))
_PASSED_HEADERS = _PATIENCE | {b"content-type", b"openai-processing-ms", b"openai-version"}
_EVENT_STREAM = b"text/event-stream"
# 404: another server may have the model.
_TRY_NEXT = frozenset((404, 408, 429))
_NOT_ITS_FAULT = frozenset((404, 429))
_TIMEOUTS = (ConnectTimeout, PoolTimeout, WriteTimeout, FirstByteTimeout, ChunkTimeout)


class Link(Struct, frozen=True):
    """What sending to a server needs, worked out once."""

    server: Server
    origin: Origin
    chat_target: bytes
    headers: tuple[tuple[bytes, bytes], ...]

    @classmethod
    def to(cls, server: Server) -> "Link":
        dialect = DIALECTS[server.dialect]
        origin, base = Origin.parse(server.url)
        return cls(
            server=server,
            origin=origin,
            chat_target=(base + dialect.chat_path).encode(),
            headers=dialect.headers(server.api_key),
        )


class Reply(Struct, frozen=True):
    """A server's answer. `first` is all of it, or with a `response` the first bytes of a stream still
    running.
    """

    server: str
    attempts: int
    status: int
    headers: list[tuple[bytes, bytes]]
    first: bytes
    response: Response | None

    def close(self) -> None:
        if self.response is not None:
            self.response.close()


class Sender:
    def __init__(
        self, pool: Pool, health: Health, *, timeouts: Timeouts, attempts: int, metrics: Metrics, log: Log
    ) -> None:
        self._pool = pool
        self._health = health
        self._timeouts = timeouts
        self._attempts = attempts
        self._metrics = metrics
        self._log = log
        self._links: dict[str, Link] = {}

    async def send(self, call: Call, servers: Sequence[Server], tried: list[str]) -> Reply:
        """The first Reply worth passing on; the caller closes it. Appends each server tried to `tried`.

        Raises UpstreamFailed when none answered."""
        body = openai.with_forced_usage(call.body) if call.stream and not call.wants_usage else call.body
        failure: UpstreamFailed | None = None
        for server in servers[: self._attempts]:
            tried.append(server.name)
            try:
                reply = await self._attempt(call, self._link(server), body, len(tried))
            except UpstreamError as exc:
                failure = self._failed(call, server, type(exc).__name__, _unanswered(exc))
                continue
            if DIALECTS[server.dialect].refuses_key(reply.status, reply.first):
                failure = self._failed(call, server, str(reply.status), _key_refused())
            elif _is_no_answer(reply.status):
                failure = self._failed(call, server, str(reply.status), _refused(reply))
            elif _is_hidden_error(reply):
                failure = self._failed(call, server, "error_in_answer", _refused(reply))
            else:
                self._count(server, "answered")
                self._health.succeeded(server.name)
                return reply
        if failure is None:
            raise RuntimeError("there was no server to try")
        raise failure

    async def _attempt(self, call: Call, link: Link, body: bytes, number: int) -> Reply:
        response = await self._pool.request(
            b"POST",
            link.origin,
            link.chat_target,
            (*link.headers, *call.arrival.forward, (b"x-request-id", call.arrival.id.encode())),
            body,
            timeouts=self._timeouts,
        )
        try:
            streamed = (response.header(b"content-type") or b"").startswith(_EVENT_STREAM)
            if streamed and response.status == 200:
                first = await response.receive()
                if not first:
                    raise UpstreamCut("the stream ended before its first event", phase="body", sent=True)
            else:
                first = await response.read(MAX_ANSWER if response.status < 400 else MAX_ERROR)
                response.close()
        except BaseException:
            response.close()
            raise
        return Reply(
            server=link.server.name,
            attempts=number,
            status=response.status,
            headers=[header for header in response.headers if header[0] in _PASSED_HEADERS],
            first=first,
            response=response if streamed and response.status == 200 else None,
        )

    def _failed(self, call: Call, server: Server, reason: str, failure: UpstreamFailed) -> UpstreamFailed:
        self._count(server, reason)
        if not (reason.isdecimal() and int(reason) in _NOT_ITS_FAULT):
            self._health.failed(server.name, reason)
        self._log.warning(
            "attempt_failed",
            request_id=call.arrival.request_id,
            server=server.name,
            model=call.model,
            reason=reason,
        )
        return failure

    def _count(self, server: Server, outcome: str) -> None:
        self._metrics.attempts[server.name, outcome] += 1

    def _link(self, server: Server) -> Link:
        link = self._links.get(server.name)
        if link is None or link.server is not server:
            link = self._links[server.name] = Link.to(server)
        return link


def _is_no_answer(status: int) -> bool:
    """Whether the next server should be asked. A redirect is a wrong URL: following it would carry the key
    elsewhere.
    """
    return status in _TRY_NEXT or status >= 500 or 300 <= status < 400


def _is_hidden_error(reply: Reply) -> bool:
    """OpenRouter and others answer 200 with an error object when a model fails after it has started."""
    return (
        reply.status == 200
        and reply.response is None
        and b'"error"' in reply.first
        and (reading := openai.read_answer(reply.first)).failed
        and not reading.choices
    )


def _unanswered(exc: UpstreamError) -> UpstreamFailed:
    if isinstance(exc, _TIMEOUTS):
        return UpstreamFailed(504, "upstream_timeout", "The server did not answer in time. Try again.")
    if isinstance(exc, BodyTooLarge | UpstreamProtocolError):
        return UpstreamFailed(502, "upstream_invalid", "The server's answer was malformed or too large.")
    return UpstreamFailed(
        502, "upstream_unreachable", "The server could not be reached or broke off. Try again."
    )


def _key_refused() -> UpstreamFailed:
    """The server's words are not passed on: the client would take them for its own key, and they may quote
    the gateway's.
    """
    return UpstreamFailed(
        502,
        "upstream_credentials_refused",
        "The server refused the gateway's credentials. Tell the operator.",
    )


def _refused(reply: Reply) -> UpstreamFailed:
    """What the client is told of a refusal that was not its own fault."""
    told = openai.read_error(reply.status, reply.first)
    message = (told.message or "no reason given")[:500]
    patience = {name.decode(): value.decode("latin-1") for name, value in reply.headers if name in _PATIENCE}
    if reply.status == 429:
        return UpstreamFailed(
            429, "upstream_rate_limited", f"The server is rate limited: {message}", headers=patience
        )
    if reply.status == 404:
        return UpstreamFailed(404, "model_not_found", f"The server does not have it: {message}")
    status = reply.status if reply.status in (503, 504) else 502
    message = f"The server answered {reply.status}: {message}"
    return UpstreamFailed(status, "upstream_error", message, headers=patience)
