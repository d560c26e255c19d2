"""GET /v1/responses: the Responses API on a WebSocket.

Every `response.create` is handled like a POST by the request pipeline. So it has the same checks, limits,
failover, translation, stored responses and usage record, for all servers. Responses run one after the other.
"""

from collections.abc import Callable
from typing import Final, NoReturn

import trio
from msgspec import structs

from bluesminds.common.clock import Clock
from bluesminds.common.crypto import uuid7
from bluesminds.common.errors import GatewayError, InvalidRequest, Unauthenticated, Unavailable
from bluesminds.common.values import RequestContext
from bluesminds.gateway.bodies import Body, BodyMemory, HeldMemory, PreparedBody
from bluesminds.gateway.browser_origins import BrowserOrigins
from bluesminds.gateway.limits.headers import as_text
from bluesminds.gateway.operations import CREATE_RESPONSE, OperationMatch
from bluesminds.gateway.pipeline import Gateway
from bluesminds.gateway.response_writer import Headers
from bluesminds.gateway.sockets.opening import SocketOpening, SocketWriter, check_origin, upgrade_required
from bluesminds.gateway.sockets.realtime import SocketSettings, chosen_subprotocol
from bluesminds.gateway.sockets.session import SessionSettings
from bluesminds.gateway.stored_responses.store import MAX_HISTORY
from bluesminds.http.asgi import ClientDisconnected, Disconnect, ResponseAborted
from bluesminds.http.sse import EventSplitter
from bluesminds.http.websocket import CloseCode, WebSocket, WebSocketClosed, WebSocketViolation
from bluesminds.wire.field_reading import FieldReader
from bluesminds.wire.json_text import ABSENT, Fields, read_fields, write_fields
from bluesminds.wire.responses import events_from_reply
from bluesminds.wire.responses_items import new_items, response_of_stream, unmatched_result, with_history
from bluesminds.wire.responses_objects import ResponseHead, write_echo
from bluesminds.wire.responses_sockets import (
    CreateEvent,
    error_message_of,
    has_response,
    is_error,
    message_of,
    read_create,
    repeatable_items,
    text_of,
    write_error_message,
    write_warm_up,
)

SWITCHED: Final = 101
_MATCH: Final = OperationMatch(CREATE_RESPONSE, {})
_OF_THE_HANDSHAKE: Final = (b"idempotency-key", b"openai-beta")  # headers that are not for each response
_SHUTTING_DOWN: Final = "The gateway is shutting down."


class ResponsesSessions:
    """`open` is the number of open WebSockets."""

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

    async def handle(self, context: RequestContext, opening: SocketOpening, out: SocketWriter) -> None:
        """Serve a WebSocket until its end. Raises GatewayError only before it is accepted."""
        upgrade, accounting = opening.upgrade, self._gateway.accounting
        caller = None
        try:
            if upgrade is None:
                raise upgrade_required()
            caller = await self._gateway.keys.authenticate(context)
            self._gateway.keys.authorize_use(caller, context)
            await check_origin(self._origins, context, opening)
        except BaseException as exc:
            accounting.observer.record_failure(context, caller, exc)
            if isinstance(exc, GatewayError) and caller is not None:
                raise exc.with_headers(as_text(self._gateway.limiter.headers(caller))) from None
            raise
        accounting.observer.record_rejection(context, SWITCHED, key_id=caller.key_id)
        memory = HeldMemory(self._bodies)
        try:
            subprotocol = chosen_subprotocol(upgrade.subprotocols, None)
            client = await out.accept(upgrade, subprotocol, [], self._settings.client, memory)
            session = ResponsesSession(
                self._gateway,
                client,
                context,
                memory=memory,
                draining=upgrade.draining,
                settings=self._settings.session,
                clock=self._clock,
            )
            self.open += 1
            try:
                await session.run()
            finally:
                self.open -= 1
        finally:
            memory.release()


class ResponsesSession:
    """`memory` is that of the message that arrives. `draining` is set when the gateway shuts down."""

    def __init__(
        self,
        gateway: Gateway,
        client: WebSocket,
        context: RequestContext,
        *,
        memory: HeldMemory,
        draining: trio.Event,
        settings: SessionSettings,
        clock: Clock,
    ) -> None:
        forward = tuple(header for header in context.forward if header[0] not in _OF_THE_HANDSHAKE)
        self._context = structs.replace(context, forward=forward)
        self._gateway = gateway
        self._client = client
        self._memory = memory
        self._draining = draining
        self._settings = settings
        self._clock = clock
        self._latest = LatestResponse(memory.memory)
        self._waiting = trio.CancelScope()
        self._disconnect = Disconnect()  # of the running response
        self._end: tuple[int, str] | None = None  # the close code, and the reason

    async def run(self) -> None:
        """If it is cancelled, the WebSocket is closed without waiting."""
        send, receive = trio.open_memory_channel[MessageBody](0)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._receive, send)
                nursery.start_soon(self._watch_drain)
                await self._serve(receive)
                nursery.cancel_scope.cancel()
            await self._client.close(*(self._end or (CloseCode.GOING_AWAY, _SHUTTING_DOWN)))
        except BaseException:
            self._client.abort(CloseCode.GOING_AWAY, _SHUTTING_DOWN)
            raise
        finally:
            self._latest.forget()

    def _stop(self, code: int, reason: str = "") -> None:
        """End the session after the running response, or at once if the client disconnected."""
        if self._end is None:
            self._end = code, reason
        self._waiting.cancel()

    def _lose(self, code: int, reason: str = "") -> None:
        self._stop(code, reason)
        self._disconnect.fire()

    async def _receive(self, messages: trio.MemorySendChannel["MessageBody"]) -> None:
        """A message is read while the response before it is running, so that the end of the connection is
        noticed. The next one is not.
        """
        while True:
            try:
                message = await self._client.receive()
            except WebSocketClosed as exc:
                self._lose(exc.code)
                return
            except WebSocketViolation as exc:
                self._lose(exc.code, exc.reason)
                return
            except Unavailable as exc:
                self._lose(CloseCode.TRY_AGAIN_LATER, exc.message)
                return
            if isinstance(message, bytes):
                self._lose(CloseCode.UNSUPPORTED_DATA, "Send events as text messages.")
                return
            self._memory.release()
            body = MessageBody(self._memory.memory, message)
            try:
                await messages.send(body)
            except BaseException:
                body.release()
                raise

    async def _watch_drain(self) -> None:
        await self._draining.wait()
        self._stop(CloseCode.GOING_AWAY, _SHUTTING_DOWN)

    async def _serve(self, messages: trio.MemoryReceiveChannel["MessageBody"]) -> None:
        expires = trio.current_time() + self._settings.session_timeout
        while self._end is None:
            body = None
            idle = trio.current_time() + self._settings.idle_timeout
            with trio.CancelScope(deadline=min(idle, expires)) as self._waiting:
                body = await messages.receive()
            if body is not None:
                await self._respond(body)
                continue
            if trio.current_time() >= expires:
                await self._expire()
            self._stop(CloseCode.NORMAL, f"No message was sent for {self._settings.idle_timeout:g} seconds.")

    async def _expire(self) -> None:
        seconds = self._settings.session_timeout
        message = f"The WebSocket has been open for {seconds:g} seconds, the longest time. Open a new one."
        await self._send(write_error_message(InvalidRequest("websocket_connection_limit_reached", message)))
        self._stop(CloseCode.GOING_AWAY, message[:120])

    async def _respond(self, body: "MessageBody") -> None:
        create = CreateEvent({})
        previous, continues_latest = "", False
        try:
            create = read_create(body.text)
            previous = text_of(create.fields, "previous_response_id")
            continues_latest = self._latest.is_response(previous)
            fields = self._latest.expand(create.fields, body) if continues_latest else create.fields
            if not create.generates:
                await self._warm_up(create, fields)
                return
            body.data = write_fields(fields)
            body.text = ""
            writer = EventWriter(self._client, self._disconnect, create.suffix, previous)
            await self._gateway.handle(_MATCH, self._context_now(), body, writer)
            self._latest.remember(fields, writer.last)
        except GatewayError as exc:
            if continues_latest:
                self._latest.forget()
            await self._send(write_error_message(exc, create.suffix))
            if isinstance(exc, Unauthenticated):
                self._stop(CloseCode.POLICY_VIOLATION, exc.message[:120])
        except ClientDisconnected:
            self._stop(CloseCode.ABNORMAL)
        finally:
            body.release()
            if not self._disconnect.disconnected:
                self._disconnect = Disconnect()

    async def _warm_up(self, create: CreateEvent, fields: Fields) -> None:
        """Remember the input without an answer. Raises InvalidRequest."""
        now = self._clock.now_ms()
        id_ = f"resp_{uuid7(now).replace('-', '')}"
        model = FieldReader(fields, "", []).needed("model")
        self._latest.remember_input(id_, fields)
        head = ResponseHead(id_, model, now // 1000, write_echo(fields))
        for message in write_warm_up(head, create.suffix):
            await self._send(message)

    def _context_now(self) -> RequestContext:
        now = self._clock.now_ms()
        return structs.replace(self._context, id=uuid7(now), at_ms=now, started=trio.current_time())

    async def _send(self, message: str) -> None:
        try:
            await self._client.send(message)
        except WebSocketClosed as exc:
            self._stop(exc.code)


class MessageBody(PreparedBody):
    """A message as the body of a request. `text` is the message, until `data` is set."""

    __slots__ = ("text",)

    def __init__(self, memory: BodyMemory, text: str) -> None:
        super().__init__(memory)
        self.acquire(len(text) if text.isascii() else len(text.encode()))
        self.text = text


class LatestResponse:
    """The latest response of a connection, if neither the gateway nor a server has stored it. It can be
    continued, but only on this connection.
    """

    def __init__(self, memory: BodyMemory) -> None:
        self._memory = HeldMemory(memory)
        self._id = ""
        self._items: list[Fields] = []
        self._size = 0

    def is_response(self, response_id: str) -> bool:
        """Whether this is the id of the latest response."""
        return bool(response_id) and response_id == self._id

    def expand(self, fields: Fields, body: Body) -> Fields:
        """The request with the items of the latest response. Raises InvalidRequest and Unavailable."""
        call_id = unmatched_result([*self._items, *new_items(fields)])
        if call_id is not None:
            message = f"No tool call found for the result with call_id {call_id[:80]}."
            raise InvalidRequest("invalid_value", message, param="input")
        body.acquire(self._size)
        return with_history(fields, self._items)

    def remember(self, request: Fields, last: bytes) -> None:
        """`last`: the event that has ended the response; b"" if it has failed."""
        self.forget()
        if not last or bytes(request.get("store", ABSENT)) != b"false":
            return
        try:
            response = response_of_stream(last)
            items = [*new_items(request), *repeatable_items(response)]
            size = len(request.get("input", ABSENT)) + len(response)
            self._keep(text_of(read_fields(response), "id"), items, size)
        except (ValueError, Unavailable):
            return

    def remember_input(self, response_id: str, request: Fields) -> None:
        """A response without output. Raises InvalidRequest and Unavailable."""
        self.forget()
        self._keep(response_id, new_items(request), len(request.get("input", ABSENT)))

    def _keep(self, response_id: str, items: list[Fields], size: int) -> None:
        if size <= MAX_HISTORY:
            self._memory.acquire(size)
            self._id, self._items, self._size = response_id, items, size

    def forget(self) -> None:
        self._id, self._items, self._size = "", [], 0
        self._memory.release()


class EventWriter:
    """A ResponseWriter that sends the events of one response as messages. An error is the last one: the
    client then sends its next request. `previous_id`: of the response that the client continues; "" if there
    is none. `last`: the event with the complete response; b"" if it has failed.
    """

    def __init__(self, client: WebSocket, disconnect: Disconnect, suffix: bytes, previous_id: str) -> None:
        self._client = client
        self._disconnect = disconnect
        self._suffix = suffix
        self._previous_id = previous_id
        self._splitter = EventSplitter()
        self._failed = False
        self.last = b""

    @property
    def gone(self) -> bool:
        return self._disconnect.disconnected

    def on_gone(self, callback: Callable[[], object]) -> None:
        self._disconnect.add_callback(callback)

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        """An error, or the answer of a server that ignores `stream`."""
        if status >= 400:
            await self._send(error_message_of(status, body, self._suffix))
            return
        try:
            events = events_from_reply(body, True)
        except ValueError:
            await self._send(error_message_of(502, b"", self._suffix))
        else:
            await self.end(events)

    async def start(self, status: int, headers: Headers) -> None:
        """A message has no head."""

    async def write(self, data: bytes) -> None:
        for event in self._splitter.feed(data):
            await self._pass(event)

    async def end(self, data: bytes = b"") -> None:
        await self.write(data)
        await self._pass(self._splitter.finish())

    def abort(self) -> NoReturn:
        raise ResponseAborted("the response is cut")

    async def _pass(self, event: bytes) -> None:
        if self._failed:
            return
        if message := message_of(event, self._suffix, self._previous_id):
            self._failed = is_error(event)
            if has_response(event):
                self.last = event
            await self._send(message)

    async def _send(self, message: str) -> None:
        try:
            await self._client.send(message)
        except WebSocketClosed as exc:
            self._disconnect.fire()
            raise ClientDisconnected("the client disconnected") from exc
