"""The ASGI entry of the gateway: /v1, /api/v1 and /v1beta go to the request pipeline, all else to Quart.

The one place where a GatewayError of the data plane becomes a response. The listener's extension reports a
client disconnect, at no cost for the pipeline.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, NoReturn

from msgspec import Struct, structs

from bluesminds.common.clock import Clock
from bluesminds.common.errors import Forbidden, GatewayError
from bluesminds.common.log import Log
from bluesminds.common.values import RequestContext
from bluesminds.gateway.bodies import BodyMemory, HeldMemory
from bluesminds.gateway.browser_origins import BrowserOrigins
from bluesminds.gateway.keep_alive import KeepAlive
from bluesminds.gateway.operations import (
    MODELS,
    PASSTHROUGH,
    UNKNOWN,
    DataPlanePath,
    HandlerName,
    OperationMatch,
    find_operation,
    find_path,
    models_method_error,
)
from bluesminds.gateway.passthrough.bodies import ClientRequest
from bluesminds.gateway.passthrough.handler import PassthroughHandler
from bluesminds.gateway.passthrough.paths import RelayPath
from bluesminds.gateway.pipeline import Gateway
from bluesminds.gateway.sockets.opening import SocketOpening
from bluesminds.gateway.sockets.realtime import RealtimeSessions
from bluesminds.gateway.sockets.responses import ResponsesSessions
from bluesminds.gateway.stored_responses.handler import StoredResponseHandler
from bluesminds.http.asgi import ASGIApp, Disconnect, Receive, ResponseAborted, Scope, Send
from bluesminds.http.server.websocket import WebSocketUpgrade
from bluesminds.http.websocket import WebSocket, WebSocketLimits
from bluesminds.web.asgi_body import ASGIBody
from bluesminds.web.cors import (
    VARY_ORIGIN,
    Preflight,
    preflight_headers,
    read_preflight,
    response_headers,
)
from bluesminds.web.errors import INTERNAL, error_body, error_headers, error_in_format
from bluesminds.web.forwarded import ProxyHeaders
from bluesminds.web.google_clients import google_send, is_google_client
from bluesminds.web.model_pages import select_page
from bluesminds.web.playground import CHAT_PATH, PLAYGROUND_PATH, Playground
from bluesminds.web.request_context import is_anthropic_client, read_request_context
from bluesminds.wire.base import Format
from bluesminds.wire.gemini import GEMINI
from bluesminds.wire.messages import MESSAGES
from bluesminds.wire.models import (
    ModelRow,
    write_anthropic_model,
    write_anthropic_models,
    write_gemini_model,
    write_gemini_models,
    write_model,
    write_models,
)

Headers = list[tuple[bytes, bytes]]

_JSON = (b"content-type", b"application/json")
_SHARED: Final = (
    MODELS,
    UNKNOWN,
    PASSTHROUGH.name,
)  # endpoints whose paths do not show which API the client uses
FORMAT_OF_MODELS: Final = "chat"  # of the clients of OpenAI's API
_ModelWriters = tuple[Callable[[ModelRow], bytes], Callable[[Sequence[ModelRow]], bytes]]  # one, all
_MODEL_WRITERS: Final[Mapping[str, _ModelWriters]] = {
    FORMAT_OF_MODELS: (write_model, write_models),
    "messages": (write_anthropic_model, write_anthropic_models),
    "gemini": (write_gemini_model, write_gemini_models),
}


class ASGIResponseWriter:
    """Writes a response over ASGI. `begun`: the response has started, so an error cannot be sent any more.
    `format`: the error format of the client, unless it is OpenAI's. `readable_by`: the origin whose pages may
    read the response.
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
        memory: HeldMemory,
    ) -> WebSocket:
        self.begun = True
        return await upgrade.accept(subprotocol, [*headers, *self._ids], limits, memory.acquire)

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

    def abort(self) -> NoReturn:
        raise ResponseAborted("the response is cut")


class ArrivedRequest(Struct, frozen=True, gc=False):
    """A request of the data plane. `relayed` is set if it is relayed to a server."""

    scope: Scope
    path: DataPlanePath
    relayed: RelayPath | None
    context: RequestContext
    body: ASGIBody
    out: ASGIResponseWriter

    @property
    def match(self) -> OperationMatch:
        """Raises GatewayError if the path does not have the method."""
        return find_operation(self.context.method, self.path)

    @property
    def methods(self) -> Sequence[str]:
        """The methods of the path."""
        return self.path.allowed_methods() if self.relayed is None else self.relayed.methods

    def as_client_request(self) -> ClientRequest:
        return ClientRequest(self.scope["headers"], self.scope["query_string"], self.body)


_Handler = Callable[[ArrivedRequest], Awaitable[None]]


class DataPlane:
    """The application the listener serves. `passthrough` relays requests that match no operation, `stored`
    serves stored responses, `realtime` and `responses` serve WebSockets, `playground` admits signed-in users,
    and `control` serves all paths that are not of the data plane. `bodies` is the memory limit of all request
    bodies, and `origins` are those whose pages may use the gateway. `proxies` replaces the client address by
    the forwarded one, for all paths. `keep_alive` sends pings in silent streams, unless it is None.
    """

    def __init__(
        self,
        gateway: Gateway,
        passthrough: PassthroughHandler,
        stored: StoredResponseHandler,
        realtime: RealtimeSessions,
        responses: ResponsesSessions,
        control: ASGIApp,
        playground: Playground,
        *,
        bodies: BodyMemory,
        origins: BrowserOrigins,
        clock: Clock,
        log: Log,
        proxies: ProxyHeaders | None = None,
        keep_alive: KeepAlive | None = None,
    ) -> None:
        self._gateway = gateway
        self._passthrough = passthrough
        self._stored = stored
        self._realtime = realtime
        self._responses = responses
        self._control = control
        self._playground = playground
        self._bodies = bodies
        self._origins = origins
        self._clock = clock
        self._log = log
        self._proxies = proxies
        self._keep_alive = keep_alive
        self._handlers: Mapping[HandlerName, _Handler] = {
            "model": self._call_model,
            "realtime": self._open_realtime,
            "responses_socket": self._open_responses,
            "stored_response": self._serve_stored,
            "passthrough": self._relay,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._proxies is not None and scope["type"] != "lifespan":
            self._proxies.apply(scope)
        if scope["type"] != "http":
            await self._control(scope, receive, send)
            return
        path = find_path(scope["path"])
        if path is None and scope["path"] == PLAYGROUND_PATH:
            path = find_path(CHAT_PATH)
        if path is None:
            await self._control(scope, receive, send)
            return
        operation = path.methods.get(scope["method"])
        endpoint = path.endpoint if operation is None else operation.name
        relayed = self._passthrough.find(path.path) if endpoint is UNKNOWN else None
        if relayed is not None:
            endpoint = PASSTHROUGH.name
        google = path.api == "gemini" or (endpoint in _SHARED and is_google_client(scope))
        context = read_request_context(
            scope, endpoint, self._clock, google=google, tracer=self._gateway.accounting.observer.tracer
        )
        if google:
            send = google_send(scope, send)
        out = ASGIResponseWriter(scope, send, context.request_id, client_format(path, context, google=google))
        body = ASGIBody(self._bodies, scope, receive)
        await self._respond(ArrivedRequest(scope, path, relayed, context, body, out))

    async def _respond(self, request: ArrivedRequest) -> None:
        context, out = request.context, request.out
        try:
            if request.scope["path"] == PLAYGROUND_PATH:
                context = await self._playground.admit(request.scope, context)
                request = structs.replace(request, context=context)
            if context.method == "OPTIONS" and (preflight := read_preflight(request.scope)) is not None:
                await self._send_preflight(preflight, request)
                return
            if context.origin is not None and await self._origins.allows_reading(context):
                out.readable_by = context.origin
            await self._handler_of(request)(request)
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
            request.body.release()

    def _handler_of(self, request: ArrivedRequest) -> _Handler:
        """Raises GatewayError if the path does not exist or does not have the method."""
        if request.context.endpoint == MODELS:
            return self._send_models
        if request.relayed is not None:
            return self._handlers["passthrough"]
        try:
            return self._handlers[find_operation(request.context.method, request.path).operation.handler]
        except GatewayError as exc:
            self._gateway.reject(request.context, exc)
            raise

    async def _call_model(self, request: ArrivedRequest) -> None:
        match, out = request.match, request.out
        if self._keep_alive is not None:
            pinging = self._keep_alive.writer(match.operation.format, out)
            if pinging is not None:
                try:
                    await self._gateway.handle(match, request.context, request.body, pinging)
                finally:
                    pinging.close()
                return
        await self._gateway.handle(match, request.context, request.body, out)

    async def _open_realtime(self, request: ArrivedRequest) -> None:
        opening = read_opening(request.scope, request.context)
        await self._realtime.handle(request.match, request.context, opening, request.out)

    async def _open_responses(self, request: ArrivedRequest) -> None:
        opening = read_opening(request.scope, request.context)
        await self._responses.handle(request.context, opening, request.out)

    async def _serve_stored(self, request: ArrivedRequest) -> None:
        await self._stored.handle(request.match, request.context, request.as_client_request(), request.out)

    async def _relay(self, request: ArrivedRequest) -> None:
        if request.relayed is not None:
            await self._passthrough.handle(
                request.relayed, request.context, request.as_client_request(), request.out.format, request.out
            )

    async def _send_preflight(self, preflight: Preflight, request: ArrivedRequest) -> None:
        context, out = request.context, request.out
        origin = context.origin or ""
        try:
            if not await self._origins.allows_preflight(origin):
                raise Forbidden(
                    "origin_not_allowed",
                    "Web pages of this origin may not call the gateway. "
                    "Add the origin to allowed_origins of an"
                    " API key, or to cors_origins in the configuration.",
                )
        except GatewayError as exc:
            self._gateway.reject(context, exc)
            raise
        self._gateway.accounting.observer.record_rejection(context, 204)
        await out.start(204, preflight_headers(preflight, origin, request.methods))
        await out.end()

    async def _send_models(self, request: ArrivedRequest) -> None:
        path, context, out = request.path, request.context, request.out
        if context.method not in ("GET", "HEAD"):
            error = models_method_error(context.method, path)
            self._gateway.reject(context, error)
            raise error
        write_one, write_all = _MODEL_WRITERS[FORMAT_OF_MODELS if out.format is None else out.format.name]
        name = path.path.partition("/models")[2].removeprefix("/")
        if name:
            row, rates = await self._gateway.find_model(context, name)
            answer = write_one(row)
        else:
            rows, rates = await self._gateway.list_models(context)
            if out.format is MESSAGES:
                page = select_page(rows, request.scope["query_string"])
                answer = write_anthropic_models(page.rows, has_more=page.has_more)
            else:
                answer = write_all(rows)
        await out.send(200, [_JSON, *rates], answer)

    async def _send_error(self, exc: GatewayError, context: RequestContext, out: ASGIResponseWriter) -> None:
        if out.format is None:
            body = error_body(exc, context.request_id)
        else:
            body = error_in_format(exc, context.request_id, out.format)
        await out.send(exc.status, error_headers(exc), body)


def client_format(path: DataPlanePath, context: RequestContext, *, google: bool) -> Format | None:
    """The error format of the client; None: OpenAI's. Some paths do not show which API the client uses."""
    if google:
        return GEMINI
    if path.api == "anthropic":
        return MESSAGES
    return MESSAGES if context.endpoint in _SHARED and is_anthropic_client(context) else None


def read_opening(scope: Scope, context: RequestContext) -> SocketOpening:
    hosts = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
    origin = (context.origin or "").lower().partition("://")[2]
    query = scope["query_string"].decode("latin-1")
    return SocketOpening(query, scope["extensions"].get("websocket"), same_origin=[origin] == hosts)
