"""GET /v1/responses: a WebSocket on which a client creates responses, one after the other.

Every response is a request to the pipeline like any other, so that it works with all servers, also with those
that have no WebSocket, and has its own usage row.
"""

from contextlib import suppress
from typing import Final

import trio
from msgspec import Raw, Struct, structs

from bluesminds.common.clock import Clock
from bluesminds.common.crypto import uuid7
from bluesminds.common.errors import GatewayError, InvalidRequest, RateLimited, Unavailable
from bluesminds.common.values import Caller, RequestContext
from bluesminds.gateway.bodies import Body, BodyMemory, HeldMemory
from bluesminds.gateway.browser_origins import BrowserOrigins
from bluesminds.gateway.limits.headers import as_text
from bluesminds.gateway.operations import OPERATIONS, OperationMatch
from bluesminds.gateway.pipeline import Gateway
from bluesminds.gateway.sockets.keys import wait_until_refused
from bluesminds.gateway.sockets.message_writer import MessageWriter
from bluesminds.gateway.sockets.opening import (
    SessionSettings,
    SocketOpening,
    SocketSettings,
    SocketWriter,
    check_origin,
    chosen_subprotocol,
    shortened,
    upgrade_required,
)
from bluesminds.gateway.sockets.response_chain import PREVIOUS, ResponseChain, text_in, unstored_id
from bluesminds.http.asgi import ClientDisconnected
from bluesminds.http.server.websocket import WebSocketUpgrade
from bluesminds.http.websocket import CloseCode, WebSocket, WebSocketClosed, WebSocketViolation
from bluesminds.wire.field_reading import FieldReader
from bluesminds.wire.json_text import ABSENT, Fields, write_fields
from bluesminds.wire.responses_objects import ResponseHead, write_echo
from bluesminds.wire.responses_socket import (
    ResponseCreation,
    lane_of,
    read_creation,
    write_failure,
    write_warm_up,
)

MAX_WAITING: Final = 8  # messages of a session, besides the one whose response is running
OPENED: Final = 101
LAST_SECONDS: Final = 1.0  # for an error before the WebSocket is closed
_CREATE: Final = next(one for one in OPERATIONS if (one.method, one.path) == ("POST", "/v1/responses"))
_OF_ONE_REQUEST: Final = (b"idempotency-key", b"openai-beta")  # headers that say nothing of a session


class MessageBody(Body):
    """The body of a request that came in a message."""

    __slots__ = ()

    def __init__(self, memory: BodyMemory, data: bytes) -> None:
        """Raises Unavailable if there is no memory for it."""
        super().__init__(memory)
        self.acquire(len(data))
        self.data = data

    @property
    def content_type(self) -> bytes:
        return b"application/json"

    @property
    def length(self) -> int:
        return len(self.data)

    def check_coding(self) -> None:
        """It has none."""

    async def read(self) -> None:
        """It has been read."""

    async def receive(self) -> bytes:
        return b""


class ResponseSessions:
    """A SocketHandler."""

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
        caller, upgrade = await self._admit(context, opening)
        received, kept = HeldMemory(self._bodies), HeldMemory(self._bodies)
        subprotocol = chosen_subprotocol(upgrade.subprotocols, None)
        self.open += 1
        try:
            client = await out.accept(upgrade, subprotocol, [], self._settings.client, received)
            self._gateway.accounting.record_rejection(context, OPENED, key_id=caller.key_id)
            session = ResponseSession(
                self._gateway, client, context, received, ResponseChain(kept), upgrade.draining,
                settings=self._settings.session, clock=self._clock,
            )  # fmt: skip
            self._log_end(context, await session.run())
        finally:
            self.open -= 1
            received.release()
            kept.release()

    async def _admit(
        self, context: RequestContext, opening: SocketOpening
    ) -> tuple[Caller, WebSocketUpgrade]:
        gateway, caller = self._gateway, None
        try:
            if opening.upgrade is None:
                raise upgrade_required()
            caller = await gateway.keys.authenticate(context)
            gateway.keys.authorize_use(caller, context)
            await check_origin(self._origins, context, opening)
        except BaseException as exc:
            gateway.accounting.record_failure(context, caller, exc)
            if isinstance(exc, GatewayError) and caller is not None:
                raise exc.with_headers(as_text(gateway.limiter.headers(caller))) from None
            raise
        return caller, opening.upgrade

    def _log_end(self, context: RequestContext, end: "ResponseSessionEnd") -> None:
        accounting = self._gateway.accounting
        if accounting.log_requests:
            accounting.log.info(
                "session_closed",
                request_id=context.request_id,
                code=int(end.code),
                error=None if end.error is None else end.error.code,
                duration_ms=round((trio.current_time() - context.started) * 1000),
            )


class ResponseSessionEnd(Struct, frozen=True):
    """Why a session ends. The WebSocket is closed with `code` and `reason`, after a message with `error`."""

    code: int
    reason: str = ""
    error: GatewayError | None = None


class ResponseSession:
    """`received` is the memory of the message that is being received. `draining` is set when the gateway
    shuts down.
    """

    def __init__(
        self,
        gateway: Gateway,
        client: WebSocket,
        context: RequestContext,
        received: HeldMemory,
        chain: ResponseChain,
        draining: trio.Event,
        *,
        settings: SessionSettings,
        clock: Clock,
    ) -> None:
        self._gateway = gateway
        self._client = client
        forward = tuple(one for one in context.forward if one[0] not in _OF_ONE_REQUEST)
        self._context = structs.replace(context, method="POST", forward=forward)
        self._received = received
        self._chain = chain
        self._draining = draining
        self._settings = settings
        self._clock = clock
        self._last_message = trio.current_time()
        self._refusal: GatewayError | None = None  # why no more responses are created
        self._writer: MessageWriter | None = None  # of the running response
        self._waiting, self._next = trio.open_memory_channel[MessageBody](MAX_WAITING)
        self._responses_ended = trio.lowlevel.ParkingLot()
        self._end: ResponseSessionEnd | None = None
        self._scope = trio.CancelScope()

    async def run(self) -> ResponseSessionEnd:
        """Returns why the session has ended."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for task in (
                        self._receive,
                        self._answer,
                        self._watch_key,
                        self._watch_drain,
                        self._watch_idle,
                        self._watch_age,
                    ):
                        nursery.start_soon(task)
            end = self._end or _shutting_down()
            if end.error is not None:
                with trio.move_on_after(LAST_SECONDS):
                    await self._tell(end.error, ABSENT)
            await self._client.close(end.code, shortened(end.reason))
        except Exception:
            self._client.abort(CloseCode.INTERNAL_ERROR, "The gateway failed.")
            raise
        except BaseException:
            self._client.abort(CloseCode.GOING_AWAY, _shutting_down().reason)
            raise
        finally:
            while self._next.statistics().current_buffer_used:
                self._next.receive_nowait().release()
        return end

    def _stop(self, end: ResponseSessionEnd) -> None:
        if self._end is None:
            self._end = end
            self._scope.cancel()

    def _fail(self, error: GatewayError, code: int) -> None:
        self._stop(ResponseSessionEnd(code, error.message, error))

    async def _tell(self, error: GatewayError, lane: Raw) -> None:
        """Send an error. A client that has left is detected by its own task."""
        with suppress(WebSocketClosed):
            await self._client.send(write_failure(error, lane))

    # Messages

    async def _receive(self) -> None:
        while True:
            try:
                message = await self._client.receive()
            except WebSocketClosed as exc:
                self._client_left(exc.code)
                return
            except WebSocketViolation as exc:
                self._stop(ResponseSessionEnd(exc.code, exc.reason))
                return
            except Unavailable as exc:
                self._fail(exc, CloseCode.TRY_AGAIN_LATER)
                return
            self._last_message = trio.current_time()
            if isinstance(message, bytes):
                error = InvalidRequest("invalid_json", "Send text messages, not binary ones.")
                self._fail(error, CloseCode.UNSUPPORTED_DATA)
                return
            await self._enqueue(message.encode(errors="replace"))

    async def _enqueue(self, message: bytes) -> None:
        self._received.release()  # the body takes its place, without a pause between
        try:
            body = MessageBody(self._received.memory, message)
        except Unavailable as exc:
            await self._tell(exc, lane_of(message))
            return
        try:
            self._waiting.send_nowait(body)
        except trio.WouldBlock:
            body.release()
            text = f"A session may have {MAX_WAITING} messages waiting. Wait for a response to end."
            await self._tell(RateLimited("too_many_responses", text, retry_after=None), lane_of(message))

    def _client_left(self, code: int) -> None:
        """What is running ends by itself, as the response to a client that has disconnected."""
        if self._writer is None:
            self._stop(ResponseSessionEnd(code))
        else:
            self._refusal = Unavailable("shutting_down", "The client has closed the WebSocket.")
            self._writer.client_left()

    # Responses

    async def _answer(self) -> None:
        async for body in self._next:
            try:
                await self._respond(body)
            finally:
                body.release()
            self._last_message = trio.current_time()
            if not self._next.statistics().current_buffer_used:
                self._responses_ended.unpark_all()

    @property
    def _busy(self) -> bool:
        return self._writer is not None or bool(self._next.statistics().current_buffer_used)

    async def _respond(self, body: MessageBody) -> None:
        lane, continued = lane_of(body.data), False
        try:
            if self._refusal is not None:
                raise self._refusal
            creation = read_creation(body.data)
            request = creation.request
            previous = text_in(request, PREVIOUS)
            if continued := self._chain.has(previous):
                request = self._chain.expand(request)
            if not creation.generates:
                await self._warm_up(creation, request)
                return
            response = await self._generate(body, request, previous, lane)
        except GatewayError as exc:
            await self._tell(exc, lane)
            response = None
        if response is None:
            if continued:
                self._chain.forget()
        elif id_ := unstored_id(request, response):
            self._chain.remember(id_, request, response)

    async def _generate(self, body: MessageBody, request: Fields, previous: str, lane: Raw) -> bytes | None:
        """The whole response; None if it has failed. Raises GatewayError."""
        data = write_fields(request)
        body.acquire(max(0, len(data) - len(body.data)))
        body.data = data
        now = self._clock.now_ms()
        context = structs.replace(self._context, id=uuid7(now), at_ms=now, started=trio.current_time())
        self._writer = writer = MessageWriter(self._client, previous_id=previous, lane=lane)
        try:
            await self._gateway.handle(OperationMatch(_CREATE, {}), context, body, writer)
        except ClientDisconnected:
            if not writer.gone:
                raise
        finally:
            self._writer = None
        if writer.gone:
            self._stop(ResponseSessionEnd(CloseCode.ABNORMAL))
        return writer.response()

    async def _warm_up(self, creation: ResponseCreation, request: Fields) -> None:
        """Only remember the input, for the response that continues it. Raises InvalidRequest."""
        now = self._clock.now_ms()
        id_ = f"resp_{uuid7(now).replace('-', '')}"
        model = FieldReader(request, "", []).needed("model")
        head = ResponseHead(id_, model, now // 1000, write_echo(request))
        self._chain.remember(id_, request, None)
        with suppress(WebSocketClosed):
            for message in write_warm_up(creation, head):
                await self._client.send(message)

    # What ends a session from outside

    async def _watch_key(self) -> None:
        refusal = await wait_until_refused(self._gateway.keys, self._context, self._clock, lambda _: None)
        self._fail(refusal, CloseCode.POLICY_VIOLATION)

    async def _watch_drain(self) -> None:
        await self._draining.wait()
        self._refusal = Unavailable("shutting_down", "The gateway is shutting down. Open a new session.")
        with trio.move_on_after(self._settings.drain_grace):
            await self._wait_idle()
        self._stop(_shutting_down())

    async def _watch_age(self) -> None:
        """A running response may end: the total timeout applies to it."""
        timeout = self._settings.session_timeout
        await trio.sleep(timeout)
        message = f"The session has been open for {timeout:g} seconds, the longest time. Open a new one."
        self._refusal = InvalidRequest("session_expired", message)
        await self._wait_idle()
        self._fail(self._refusal, CloseCode.GOING_AWAY)

    async def _watch_idle(self) -> None:
        timeout = self._settings.idle_timeout
        while True:
            await self._wait_idle()
            until = self._last_message + timeout
            if until <= trio.current_time():
                break
            await trio.sleep_until(until)
        self._stop(ResponseSessionEnd(CloseCode.NORMAL, f"No message was sent for {timeout:g} seconds."))

    async def _wait_idle(self) -> None:
        while self._busy:
            await self._responses_ended.park()


def _shutting_down() -> ResponseSessionEnd:
    return ResponseSessionEnd(CloseCode.GOING_AWAY, "The gateway is shutting down.")
