"""GET /v1/realtime: a session of the Realtime API.

Everything that can refuse a session happens before its WebSocket is accepted, so that a client gets an
ordinary error response: the key, its limits, the model, and the handshake with a server, with failover.
"""

from collections.abc import Sequence
from typing import Final
from urllib.parse import parse_qsl, urlencode

import trio
from msgspec import Struct

from bluesminds.common.clock import Clock
from bluesminds.common.errors import (
    Forbidden,
    GatewayError,
    InsufficientCredit,
    InvalidRequest,
    NotFound,
    RateLimited,
)
from bluesminds.common.values import Caller, RequestContext
from bluesminds.gateway.accounting import UsageEntry
from bluesminds.gateway.authorize import check_model
from bluesminds.gateway.bodies import BodyMemory, HeldMemory
from bluesminds.gateway.browser_origins import BrowserOrigins
from bluesminds.gateway.call import Call
from bluesminds.gateway.limits.errors import no_price_error
from bluesminds.gateway.limits.headers import as_text
from bluesminds.gateway.limits.session import SessionLimits
from bluesminds.gateway.observer import CLIENT_GONE
from bluesminds.gateway.operations import OperationMatch
from bluesminds.gateway.pipeline import Gateway
from bluesminds.gateway.relay import settle_failure
from bluesminds.gateway.routing.plans import Target
from bluesminds.gateway.sockets.meter import SessionMeter
from bluesminds.gateway.sockets.objects import SessionObjects
from bluesminds.gateway.sockets.opening import SocketOpening, SocketWriter, check_origin, upgrade_required
from bluesminds.gateway.sockets.session import SessionEnd, SessionSettings, SocketSession
from bluesminds.gateway.upstream.attempt import Reply
from bluesminds.gateway.upstream.server_exchange import UpstreamSocket
from bluesminds.http.client.pool import WebSocketRequest
from bluesminds.http.server.websocket import WebSocketUpgrade
from bluesminds.http.websocket import WebSocket, WebSocketLimits
from bluesminds.wire.base import RequestFacts
from bluesminds.wire.chat import CHAT
from bluesminds.wire.realtime import REALTIME

KEY_SUBPROTOCOL: Final = "openai-insecure-api-key."  # of browsers, which cannot set headers
_PRIVATE_SUBPROTOCOLS: Final = (KEY_SUBPROTOCOL, "openai-organization.", "openai-project.")
_MAX_QUERY_FIELDS: Final = 20
_FORWARDED_QUERY: Final = ("intent",)  # others could choose another model
_TRANSCRIPTION: Final = "transcription"


class SocketSettings(Struct, frozen=True):
    """`handshake_timeout`: seconds for a server to open a WebSocket."""

    session: SessionSettings
    client: WebSocketLimits
    upstream: WebSocketLimits
    handshake_timeout: float


class _Admitted(Struct, frozen=True):
    """A session that may open."""

    call: Call
    targets: Sequence[Target]
    limits: SessionLimits
    entry: UsageEntry


class RealtimeSessions:
    """`open` is the number of open sessions."""

    def __init__(
        self,
        gateway: Gateway,
        bodies: BodyMemory,
        origins: BrowserOrigins,
        settings: SocketSettings,
        clock: Clock,
    ) -> None:
        self._gateway = gateway
        self._bodies = bodies
        self._origins = origins
        self._settings = settings
        self._clock = clock
        self.open = 0

    async def handle(
        self, match: OperationMatch, context: RequestContext, opening: SocketOpening, out: SocketWriter
    ) -> None:
        """Serve a session until its end. Raises GatewayError only before its WebSocket is accepted."""
        admitted = await self._admit(match, context, opening)
        entry, limits = admitted.entry, admitted.limits
        client_memory, server_memory = HeldMemory(self._bodies), HeldMemory(self._bodies)
        try:
            await self._serve(admitted, opening, out, client_memory, server_memory)
        except GatewayError as exc:
            error = await settle_failure(entry, exc)
            raise error.with_headers(as_text(self._gateway.relay.headers(entry))) from None
        except Exception:
            entry.close(*((CLIENT_GONE, "client_gone") if out.gone else (500, "internal")))
            raise
        finally:
            entry.close(CLIENT_GONE, "client_gone" if out.gone else "interrupted")
            limits.close()
            client_memory.release()
            server_memory.release()

    async def _admit(
        self, match: OperationMatch, context: RequestContext, opening: SocketOpening
    ) -> _Admitted:
        gateway = self._gateway
        caller = call = None
        try:
            if opening.upgrade is None:
                raise upgrade_required()
            caller = await gateway.keys.authenticate(context)
            gateway.keys.authorize_use(caller, context)
            await check_origin(self._origins, context, opening)
            model = read_model(opening.query)
            check_model(caller, model)
            facts = RequestFacts(model, stream=True)
            own_key = bool(caller.address)
            call = Call(context, match.operation, CHAT, model, facts, own_key, caller.markup, caller.key_id)
            targets = gateway.admission.select_for_session(match.operation, caller, context, model)
            return self._reserve_any(caller, call, targets)
        except BaseException as exc:
            model = "" if call is None else call.model
            gateway.accounting.observer.record_failure(context, caller, exc, model=model)
            if isinstance(exc, GatewayError) and caller is not None:
                raise exc.with_headers(as_text(gateway.limiter.headers(caller))) from None
            raise

    def _reserve_any(self, caller: Caller, call: Call, targets: Sequence[Target]) -> _Admitted:
        """Of a session that the limits do not allow, only the caller's own keys are left."""
        own = [] if caller.own_keys is None else [one for one in targets if one.server.is_own]
        try:
            return self._reserve(caller, call, targets)
        except (RateLimited, Forbidden, InsufficientCredit):
            if not own or len(own) == len(targets):
                raise
        return self._reserve(caller, call, own)

    def _reserve(self, caller: Caller, call: Call, targets: Sequence[Target]) -> _Admitted:
        """Reserve the session and its first response."""
        accounting = self._gateway.accounting
        accounting.recorder.check_capacity(strict=accounting.strict)
        limits = SessionLimits(self._gateway.limiter, caller)
        try:
            estimate = accounting.estimator.dearest(call, targets)
            if estimate.nano is None and self._gateway.admission.refuse_unpriced:
                raise no_price_error(call.model)
            reservation = limits.reserve(estimate, call.model)
        except BaseException:
            limits.close()
            raise
        accounting.recorder.reserve()
        entry = accounting.open(caller, call, reservation)
        entry.label = self._gateway.admission.registry.catalog.known_label(call.model)
        return _Admitted(call, targets, limits, entry)

    async def _serve(
        self,
        admitted: _Admitted,
        opening: SocketOpening,
        out: SocketWriter,
        client_memory: HeldMemory,
        server_memory: HeldMemory,
    ) -> None:
        upgrade = opening.upgrade
        upstream = await self._connect(admitted, opening, out, server_memory)
        if upgrade is None or not isinstance(upstream, UpstreamSocket):
            return
        try:
            entry = admitted.entry
            chosen = chosen_subprotocol(upgrade.subprotocols, upstream.socket.subprotocol)
            headers = self._gateway.relay.headers(entry)
            client = await out.accept(upgrade, chosen, headers, self._settings.client, client_memory)
            await self._run(admitted, client, upstream, upgrade, client_memory, server_memory)
        finally:
            upstream.socket.abort(1001)

    async def _connect(
        self, admitted: _Admitted, opening: SocketOpening, out: SocketWriter, memory: HeldMemory
    ) -> UpstreamSocket | None:
        """None if the client has disconnected, or has got the error of a server."""
        call, entry, sender = admitted.call, admitted.entry, self._gateway.sender
        offered = () if opening.upgrade is None else _public_subprotocols(opening.upgrade.subprotocols)

        def request(path: bytes, model: str) -> WebSocketRequest:
            target = b"%b?%b" % (path, _upstream_query(opening.query, model).encode())
            return WebSocketRequest(target, (), offered, self._settings.upstream, memory.acquire)

        with trio.CancelScope() as scope:
            out.on_gone(scope.cancel)
            outcome = await sender.connect(
                call, admitted.targets, entry, request, self._settings.handshake_timeout
            )
            if isinstance(outcome, UpstreamSocket):
                return outcome
            await self._send_refusal(outcome, entry, out)
        return None

    async def _send_refusal(self, reply: Reply, entry: UsageEntry, out: SocketWriter) -> None:
        """The client's own error, as the server has sent it."""
        entry.close(reply.status, "client_error")
        await entry.wait_durable()
        await out.send(reply.status, reply.headers + self._gateway.relay.headers(entry), reply.body)

    async def _run(
        self,
        admitted: _Admitted,
        client: WebSocket,
        upstream: UpstreamSocket,
        upgrade: WebSocketUpgrade,
        client_memory: HeldMemory,
        server_memory: HeldMemory,
    ) -> None:
        call, sender = admitted.call, self._gateway.sender
        server = upstream.endpoint.server.name
        meter = SessionMeter(
            self._gateway.accounting,
            admitted.limits,
            call,
            admitted.entry,
            self._clock,
            lambda: sender.outcomes.warn_implausible_usage(call, server),
        )
        session = SocketSession(
            REALTIME,
            client,
            upstream,
            meter,
            SessionObjects(self._gateway.links.objects, self._gateway.admission.registry, server),
            model=call.model,
            context=call.context,
            keys=self._gateway.keys,
            client_memory=client_memory,
            server_memory=server_memory,
            draining=upgrade.draining,
            settings=self._settings.session,
            clock=self._clock,
        )
        self.open += 1
        try:
            end = await session.run()
            sender.outcomes.socket_ended(server, upstream.model, end.failure)
            self._log_end(call, server, end)
        finally:
            self.open -= 1
            meter.finish(CLIENT_GONE, "interrupted")

    def _log_end(self, call: Call, server: str, end: SessionEnd) -> None:
        accounting = self._gateway.accounting
        if accounting.observer.log_requests:
            accounting.observer.log.info(
                "session_closed",
                request_id=call.context.request_id,
                model=call.model,
                server=server,
                code=int(end.code),
                error=None if end.error is None else end.error.code,
                duration_ms=round((trio.current_time() - call.context.started) * 1000),
            )


def read_model(query: str) -> str:
    """Raises InvalidRequest, and NotFound for a call."""
    fields = _query_fields(query)
    models = [value for name, value in fields if name == "model"]
    if any(name == "call_id" for name, _ in fields):
        raise NotFound("unsupported_endpoint", "Calls (`call_id`) are not supported.", param="call_id")
    if len(models) != 1 or not models[0]:
        raise InvalidRequest("invalid_value", "Send one `model` in the query of the URL.", param="model")
    return models[0]


def _query_fields(query: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=_MAX_QUERY_FIELDS)
    except ValueError as exc:
        raise InvalidRequest("invalid_value", "The query of the URL is malformed.") from exc


def _upstream_query(query: str, model: str) -> str:
    """A session for transcription alone has its model in `session.update`, not in the query."""
    fields = [field for field in _query_fields(query) if field[0] in _FORWARDED_QUERY]
    if ("intent", _TRANSCRIPTION) not in fields:
        fields.insert(0, ("model", model))
    return urlencode(fields)


def _public_subprotocols(offered: Sequence[str]) -> tuple[str, ...]:
    """Those that the server may see."""
    return tuple(name for name in offered if not name.startswith(_PRIVATE_SUBPROTOCOLS))


def chosen_subprotocol(offered: Sequence[str], by_server: str | None) -> str | None:
    """The server's choice. A browser that offers some must get one, also from a server that has none."""
    public = _public_subprotocols(offered)
    return by_server or (public[0] if public else None)
