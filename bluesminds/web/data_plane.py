"""The ASGI entry of the gateway: /v1 and /api/v1 go to the request pipeline, everything else to Quart.

The one place where a GatewayError of the data plane becomes a response. The listener's extension reports a
client that has left, at no cost for the pipeline.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from io import BytesIO

from bluesminds.common.clock import Clock
from bluesminds.common.errors import Forbidden, GatewayError, InvalidRequest
from bluesminds.common.log import Log
from bluesminds.common.values import RequestContext
from bluesminds.gateway.bodies import Body, BodyMemory, body_memory_exhausted
from bluesminds.gateway.browser_origins import BrowserOrigins
from bluesminds.gateway.operations import (
    MODELS,
    UNKNOWN,
    DataPlanePath,
    find_operation,
    find_path,
    method_not_allowed,
)
from bluesminds.gateway.pipeline import Gateway
from bluesminds.gateway.sockets.realtime import RealtimeSessions, SocketOpening
from bluesminds.http.asgi import ASGIApp, Disconnect, Receive, Scope, Send
from bluesminds.http.server.websocket import WebSocketUpgrade
from bluesminds.http.websocket import WebSocket, WebSocketLimits
from bluesminds.web.cors import (
    VARY_ORIGIN,
    Preflight,
    preflight_headers,
    read_preflight,
    response_headers,
)
from bluesminds.web.errors import INTERNAL, error_body, error_headers, error_in_format
from bluesminds.web.forwarded import ProxyHeaders
from bluesminds.web.request_context import is_anthropic_client, read_request_context
from bluesminds.wire.base import Format
from bluesminds.wire.messages import MESSAGES
from bluesminds.wire.models import write_anthropic_model, write_anthropic_models, write_model, write_models

Headers = list[tuple[bytes, bytes]]

_JSON = (b"content-type", b"application/json")


class ASGIResponseWriter:
    """Writes a response over ASGI. `begun`: it has started, so an error can no longer be sent. `format`: of
    the client's API where it is not OpenAI's, for errors. `readable_by`: the other origin whose pages may
    read it.
    """

    def __init__(self, scope: Scope, send: Send, request_id: str, format_: Format | None) -> None:
        self._send_message = send
        self._ids = [(b"x-request-id", request_id.encode())]
        if format_ is MESSAGES:
            self._ids.append((b"request-id", request_id.encode()))
        self.format = format_
        self._disconnect: Disconnect = scope["extensions"]["disconnect"]
        self.begun = False
        self.readable_by: str | None = None

    @property
    def gone(self) -> bool:
        return self._disconnect.disconnected

    def on_gone(self, callback: Callable[[], object]) -> None:
        self._disconnect.add_callback(callback)

    async def accept(
        self,
        upgrade: WebSocketUpgrade,
        subprotocol: str | None,
        headers: Headers,
        limits: WebSocketLimits,
        body: Body,
    ) -> WebSocket:
        self.begun = True
        return await upgrade.accept(subprotocol, [*headers, *self._ids], limits, body.acquire)

    async def send(self, status: int, headers: Headers, body: bytes) -> None:
        await self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self.end(body)

    async def start(self, status: int, headers: Headers) -> None:
        self.begun = True
        headers = [*headers, *self._ids, VARY_ORIGIN]
        if self.readable_by is not None:
            headers += response_headers(self.readable_by, headers)
        await self._send_message({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes) -> None:
        await self._send_message({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        await self._send_message({"type": "http.response.body", "body": data, "more_body": False})


class DataPlane:
    """The application the listener serves. `control` is the rest of the site; `bodies` is what all request
    bodies share, `origins` whose pages may use the gateway. With `proxies`, every part of the site sees the
    client that they tell of. `sessions` serves WebSockets.
    """

    def __init__(
        self,
        gateway: Gateway,
        sessions: RealtimeSessions,
        control: ASGIApp,
        *,
        bodies: BodyMemory,
        origins: BrowserOrigins,
        clock: Clock,
        log: Log,
        proxies: ProxyHeaders | None = None,
    ) -> None:
        self._gateway = gateway
        self._sessions = sessions
        self._control = control
        self._bodies = bodies
        self._origins = origins
        self._clock = clock
        self._log = log
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._proxies is not None and scope["type"] != "lifespan":
            self._proxies.apply(scope)
        if scope["type"] != "http":
            await self._control(scope, receive, send)
            return
        path = find_path(scope["path"])
        if path is None:
            await self._control(scope, receive, send)
            return
        operation = path.methods.get(scope["method"])
        endpoint = path.endpoint if operation is None else operation.name
        context = read_request_context(scope, endpoint, self._clock)
        out = ASGIResponseWriter(scope, send, context.request_id, client_format(path, context))
        await self._respond(scope, path, context, receive, out)

    async def _respond(
        self,
        scope: Scope,
        path: DataPlanePath,
        context: RequestContext,
        receive: Receive,
        out: ASGIResponseWriter,
    ) -> None:
        body = Body(self._bodies)
        try:
            if context.method == "OPTIONS" and (preflight := read_preflight(scope)) is not None:
                await self._send_preflight(preflight, path, context, out)
                return
            if context.origin is not None and await self._origins.allows_reading(context):
                out.readable_by = context.origin
            await self._dispatch(path, scope, context, lambda: read_body(scope, receive, body), out)
        except GatewayError as exc:
            await self._send_error(exc, context, out)
        except OSError:
            if not out.gone:
                raise
        except Exception as exc:
            self._log.exception("request_failed", exc, request_id=context.request_id)
            if out.begun:
                raise
            await self._send_error(INTERNAL, context, out)
        finally:
            body.release()

    async def _dispatch(
        self,
        path: DataPlanePath,
        scope: Scope,
        context: RequestContext,
        body: Callable[[], Awaitable[Body]],
        out: ASGIResponseWriter,
    ) -> None:
        try:
            if context.endpoint != MODELS:
                match = find_operation(context.method, path)
            elif context.method not in ("GET", "HEAD"):
                raise method_not_allowed(context.method, "GET")
        except GatewayError as exc:
            self._gateway.reject(context, exc)
            raise
        if context.endpoint == MODELS:
            await self._send_models(path, context, out)
        elif match.operation.handler == "realtime":
            await self._sessions.handle(match, context, read_opening(scope, context), out)
        else:
            await self._gateway.handle(match, context, body, out)

    async def _send_preflight(
        self, preflight: Preflight, path: DataPlanePath, context: RequestContext, out: ASGIResponseWriter
    ) -> None:
        origin = context.origin or ""
        try:
            if not await self._origins.allows_preflight(origin):
                raise Forbidden(
                    "origin_not_allowed",
                    "Pages of this origin may not use the gateway. Add the origin to allowed_origins of an"
                    " API key, or to cors_origins in the configuration.",
                )
        except GatewayError as exc:
            self._gateway.reject(context, exc)
            raise
        self._gateway.accounting.record_rejection(context, 204)
        await out.start(204, preflight_headers(preflight, origin, path.allowed_methods()))
        await out.end()

    async def _send_models(
        self, path: DataPlanePath, context: RequestContext, out: ASGIResponseWriter
    ) -> None:
        name = path.path.removeprefix("/v1/models").removeprefix("/")
        if name:
            row, rates = await self._gateway.find_model(context, name)
            answer = write_anthropic_model(row) if out.format is MESSAGES else write_model(row)
        else:
            rows, rates = await self._gateway.list_models(context)
            answer = write_anthropic_models(rows) if out.format is MESSAGES else write_models(rows)
        await out.send(200, [_JSON, *rates], answer)

    async def _send_error(self, exc: GatewayError, context: RequestContext, out: ASGIResponseWriter) -> None:
        if out.format is None:
            body = error_body(exc, context.request_id)
        else:
            body = error_in_format(exc, context.request_id, out.format)
        await out.send(exc.status, error_headers(exc), body)


def client_format(path: DataPlanePath, context: RequestContext) -> Format | None:
    """The format of the client's API; None: OpenAI's. Some paths say nothing about the client."""
    if path.api == "anthropic":
        return MESSAGES
    return MESSAGES if context.endpoint in (MODELS, UNKNOWN) and is_anthropic_client(context) else None


def read_opening(scope: Scope, context: RequestContext) -> SocketOpening:
    hosts = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
    origin = (context.origin or "").lower().partition("://")[2]
    query = scope["query_string"].decode("latin-1")
    return SocketOpening(query, scope["extensions"].get("websocket"), same_origin=[origin] == hosts)


async def read_body(scope: Scope, receive: Receive, body: Body) -> Body:
    """Fill body with all of the request's. Raises InvalidRequest when it is compressed, Unavailable
    when there is no room for it, and ConnectionResetError when the client leaves first.
    """
    for name, coding in scope["headers"]:
        if name == b"content-encoding" and coding != b"identity":
            raise InvalidRequest(
                "unsupported_encoding", "Send the request body without compression.", status=415
            )
    data: bytes | None = None
    with suppress(MemoryError):
        data = await _collect(receive, body)
    if data is None:  # raised outside of a handler: a handled MemoryError refers to what has been read
        raise body_memory_exhausted()
    body.data = data
    return body


async def _collect(receive: Receive, body: Body) -> bytes:
    buffer = BytesIO()
    while (message := await receive())["type"] != "http.disconnect":
        piece: bytes = message.get("body", b"")
        body.acquire(len(piece))
        more = message.get("more_body", False)
        if not more and not buffer.tell():
            return piece
        buffer.write(piece)
        if not more:
            return buffer.getvalue()  # without a copy
    raise ConnectionResetError
