"""One open session: passes messages on in both directions until one side, a deadline or the gateway ends it.

A message is read only when the one before it in the same direction has been sent, so that a slow reader slows
down the other side, and the gateway holds at most one message for each direction. The first reason to end the
session wins. Then what is running is settled, the client gets an error event if something went wrong, and
both WebSockets are closed.
"""

import trio
from msgspec import Struct, structs

from bluesminds.common.clock import Clock
from bluesminds.common.crypto import uuid7
from bluesminds.common.errors import GatewayError, InvalidRequest, RateLimited, Unavailable, UpstreamFailed
from bluesminds.common.values import RequestContext
from bluesminds.gateway.authenticate import KeyAuthenticator
from bluesminds.gateway.authorize import check_client, check_model
from bluesminds.gateway.bodies import HeldMemory
from bluesminds.gateway.observer import CLIENT_GONE
from bluesminds.gateway.sockets.meter import SessionMeter
from bluesminds.gateway.sockets.objects import SessionObjects
from bluesminds.gateway.upstream.server_exchange import UpstreamSocket
from bluesminds.http.websocket import CloseCode, WebSocket, WebSocketClosed, WebSocketViolation
from bluesminds.wire.sockets import SocketFormat

LAST_SECONDS = 1.0  # how long the reason for a broken connection may take to arrive on its other direction
SHORTEST_RECHECK = 0.5  # seconds
_REASON_BYTES = 120  # of a close frame
_FAILING_CODES = frozenset(
    (CloseCode.ABNORMAL, CloseCode.INTERNAL_ERROR, CloseCode.SERVICE_RESTART, CloseCode.TRY_AGAIN_LATER)
)


class SessionSettings(Struct, frozen=True):
    """Times are seconds. `drain_grace`: how long responses may continue at a shutdown."""

    idle_timeout: float
    session_timeout: float
    drain_grace: float


class SessionEnd(Struct, frozen=True):
    """Why a session ends. The client's WebSocket is closed with `code` and `reason`, after an event with
    `error`; the server's with `server_code`. `status` and `outcome` are those of responses that have not
    ended. `failure`: what the server has done wrong.
    """

    code: int
    reason: str
    status: int
    outcome: str
    error: GatewayError | None = None
    server_code: int = CloseCode.NORMAL
    failure: str | None = None


class SocketSession:
    """`client_memory` and `server_memory` are the memory of the message that is passed on in each direction.
    `draining` is set when the gateway shuts down.
    """

    def __init__(
        self,
        format_: SocketFormat,
        client: WebSocket,
        upstream: UpstreamSocket,
        meter: SessionMeter,
        objects: SessionObjects,
        *,
        model: str,
        context: RequestContext,
        keys: KeyAuthenticator,
        client_memory: HeldMemory,
        server_memory: HeldMemory,
        draining: trio.Event,
        settings: SessionSettings,
        clock: Clock,
    ) -> None:
        self._format = format_
        self._client = client
        self._upstream = upstream
        self._meter = meter
        self._objects = objects
        self._model = model
        self._context = context
        self._keys = keys
        self._client_memory = client_memory
        self._server_memory = server_memory
        self._draining = draining
        self._settings = settings
        self._clock = clock
        self._secrets = [secret.decode() for secret in upstream.endpoint.secrets]
        self._last_message = trio.current_time()
        self._end: SessionEnd | None = None
        self._scope = trio.CancelScope()
        self._responses_ended = trio.lowlevel.ParkingLot()

    async def run(self) -> SessionEnd:
        """Returns why the session has ended. If it is cancelled, both sides are closed without waiting."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for task in (
                        self._relay_client,
                        self._relay_server,
                        self._watch_key,
                        self._watch_drain,
                        self._watch_idle,
                        self._watch_age,
                    ):
                        nursery.start_soon(task)
            end = self._end or _shutting_down()
            self._meter.finish(end.status, end.outcome)
            await self._close(end)
        except Exception:
            self._client.abort(CloseCode.INTERNAL_ERROR, "The gateway failed.")
            self._upstream.socket.abort(CloseCode.GOING_AWAY)
            raise
        except BaseException:
            self._client.abort(CloseCode.GOING_AWAY, _shutting_down().reason)
            self._upstream.socket.abort(CloseCode.GOING_AWAY)
            raise
        return end

    def _stop(self, end: SessionEnd) -> None:
        if self._end is None:
            self._end = end
            self._scope.cancel()

    def _fail(self, error: GatewayError, code: int, status: int, outcome: str, **more: object) -> None:
        end = SessionEnd(code, error.message, status, outcome, error)
        self._stop(structs.replace(end, **more))

    async def _close(self, end: SessionEnd) -> None:
        if end.error is not None:
            with trio.move_on_after(LAST_SECONDS):
                await self._tell(end.error, None)
        reason = _shortened(self._redact(end.reason))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._client.close, end.code, reason)
            nursery.start_soon(self._upstream.socket.close, end.server_code)

    # Messages of the client

    async def _relay_client(self) -> None:
        while self._end is None:
            try:
                message = await self._client.receive()
            except WebSocketClosed as exc:
                code = CloseCode.GOING_AWAY if exc.code == CloseCode.ABNORMAL else CloseCode.NORMAL
                self._stop(SessionEnd(exc.code, "", CLIENT_GONE, "client_gone", server_code=code))
                return
            except WebSocketViolation as exc:
                self._stop(SessionEnd(exc.code, exc.reason, 400, "client_error"))
                return
            except Unavailable as exc:
                self._fail(exc, CloseCode.TRY_AGAIN_LATER, exc.status, "cut")
                return
            self._last_message = trio.current_time()
            await self._pass_to_server(message)
            self._client_memory.release()

    async def _pass_to_server(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            error = InvalidRequest("invalid_json", "Send events as text messages, not as binary ones.")
            self._fail(error, CloseCode.UNSUPPORTED_DATA, 400, "client_error")
            return
        try:
            event = self._format.read_client(message)
            self._check_models(event.selects, event.models)
            if event.creates and self._draining.is_set():
                raise Unavailable("shutting_down", "The gateway is shutting down. Open a new session.")
            text = event.text
            if event.has_ids:
                text = await self._objects.for_server(self._meter.limits.caller, text)
        except GatewayError as exc:
            await self._tell(exc, self._format.name_of(message))
            return
        try:
            self._meter.sent_by_client(event)
        except GatewayError as exc:
            self._stop_at_limit(exc)
            return
        try:
            await self._upstream.socket.send(text)
        except WebSocketClosed as exc:
            await trio.sleep(LAST_SECONDS)  # a close frame may still be read
            self._server_lost(exc)

    def _check_models(self, selects: str | None, models: tuple[str, ...]) -> None:
        """Raises GatewayError for a model that this session may not use."""
        if selects is not None and selects != self._model:
            raise InvalidRequest(
                "model_mismatch",
                f"This session uses the model `{self._model[:200]}`. Open another one for another model.",
                param="model",
            )
        for model in models:
            check_model(self._meter.limits.caller, model)

    def _stop_at_limit(self, error: GatewayError) -> None:
        """The client may try again if waiting helps."""
        waits = isinstance(error, Unavailable) or (
            isinstance(error, RateLimited) and error.headers.get("x-should-retry") != "false"
        )
        code = CloseCode.TRY_AGAIN_LATER if waits else CloseCode.POLICY_VIOLATION
        self._fail(error, code, error.status, "cut")

    # Messages of the server

    async def _relay_server(self) -> None:
        while self._end is None:
            try:
                message = await self._upstream.socket.receive()
            except WebSocketClosed as exc:
                self._server_closed(exc)
                return
            except WebSocketViolation as exc:
                error = UpstreamFailed(
                    502, "upstream_invalid", f"The server violated the WebSocket protocol: {exc.reason}."
                )
                failure = {"server_code": exc.code, "failure": "WebSocketViolation"}
                self._fail(error, CloseCode.INTERNAL_ERROR, 502, "upstream_error", **failure)
                return
            except Unavailable as exc:
                self._fail(exc, CloseCode.TRY_AGAIN_LATER, exc.status, "cut")
                return
            self._last_message = trio.current_time()
            await self._pass_to_client(message)
            self._server_memory.release()

    async def _pass_to_client(self, message: str | bytes) -> None:
        """The usage row of a response is durable before the client learns that the response has ended."""
        if isinstance(message, str):
            try:
                entry = self._meter.sent_by_server(self._format.read_server(message))
                if entry is not None:
                    await entry.wait_durable()
            except Unavailable as exc:
                self._fail(exc, CloseCode.INTERNAL_ERROR, exc.status, "cut")
                return
            except GatewayError as exc:
                self._stop_at_limit(exc)
                return
            message = self._objects.for_client(self._redact(message))
        try:
            await self._client.send(message)
        except WebSocketClosed as exc:
            await trio.sleep(LAST_SECONDS)  # a close frame may still be read
            end = SessionEnd(exc.code, "", CLIENT_GONE, "client_gone", server_code=CloseCode.GOING_AWAY)
            self._stop(end)
        if not self._meter.busy:
            self._responses_ended.unpark_all()

    def _server_closed(self, exc: WebSocketClosed) -> None:
        if exc.code == CloseCode.ABNORMAL:
            self._server_lost(exc)
            return
        failure = "WebSocketClosed" if exc.code in _FAILING_CODES else None
        self._stop(SessionEnd(exc.code, exc.reason, 200, "cut", server_code=exc.code, failure=failure))

    def _server_lost(self, exc: WebSocketClosed) -> None:
        message = "The server closed the connection before the session ended. Open a new session."
        error = UpstreamFailed(502, "upstream_cut", message)
        self._fail(error, CloseCode.INTERNAL_ERROR, 200, "cut", failure="UpstreamCut")

    def _redact(self, text: str) -> str:
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, "[redacted]")
        return text

    async def _tell(self, error: GatewayError, event_id: str | None) -> None:
        """Send an error event to the client. A client that has disconnected is detected by its own task."""
        own_id = f"event_{uuid7(self._clock.now_ms())}"
        try:
            await self._client.send(self._redact(self._format.write_error(error, own_id, event_id)))
        except WebSocketClosed:
            return

    # What ends a session from outside

    async def _watch_key(self) -> None:
        """End the session when its key is revoked, expires, or may no longer use the model."""
        while True:
            until = self._keys.cached_until(self._context)
            with trio.move_on_at(max(until, trio.current_time() + SHORTEST_RECHECK)):
                await self._keys.wait_changed()
            now_ms, now = self._clock.now_ms(), trio.current_time()
            context = structs.replace(self._context, at_ms=now_ms, started=now)
            try:
                caller = await self._keys.authenticate(context)
                check_client(caller, context)
                check_model(caller, self._model)
            except Unavailable:
                continue
            except GatewayError as exc:
                self._fail(exc, CloseCode.POLICY_VIOLATION, exc.status, "cut")
                return
            else:
                self._meter.limits.caller = caller

    async def _watch_drain(self) -> None:
        await self._draining.wait()
        with trio.move_on_after(self._settings.drain_grace):
            while self._meter.busy:
                await self._responses_ended.park()
        self._stop(_shutting_down())

    async def _watch_idle(self) -> None:
        timeout = self._settings.idle_timeout
        while True:
            until = self._last_message + timeout
            if until <= trio.current_time():
                break
            await trio.sleep_until(until)
        reason = f"No message was sent for {timeout:g} seconds."
        self._stop(SessionEnd(CloseCode.NORMAL, reason, 504, "timeout"))

    async def _watch_age(self) -> None:
        timeout = self._settings.session_timeout
        await trio.sleep(timeout)
        message = f"The session has been open for {timeout:g} seconds, the longest time. Open a new one."
        self._fail(self._format.expired(message), CloseCode.GOING_AWAY, 504, "timeout")


def _shutting_down() -> SessionEnd:
    return SessionEnd(
        CloseCode.GOING_AWAY,
        "The gateway is shutting down.",
        CLIENT_GONE,
        "interrupted",
        server_code=CloseCode.GOING_AWAY,
    )


def _shortened(reason: str) -> str:
    return reason.encode()[:_REASON_BYTES].decode(errors="ignore")
