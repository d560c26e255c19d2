"""The ASGI door: /v1 and /api/v1 go to the walk as plain ASGI, everything else to Quart.

It owns the route table of the data plane and the one place where a GatewayError becomes an answer. A client
that leaves is noticed through the listener's extension, which costs the walk nothing.
"""

from collections.abc import Awaitable, Callable

import msgspec

from bluesminds.common.clock import Clock
from bluesminds.common.errors import GatewayError, InvalidRequest, NotFound
from bluesminds.common.log import Log
from bluesminds.common.values import RequestContext
from bluesminds.gateway.bodies import Body, BodyMemory
from bluesminds.gateway.pipeline import Gateway
from bluesminds.http.asgi import ASGIApp, Disconnect, Receive, Scope, Send
from bluesminds.providers.openai import ModelRow
from bluesminds.web.errors import INTERNAL, error_body, error_headers
from bluesminds.web.forwarded import ProxyHeaders
from bluesminds.web.request_context import read_request_context

Headers = list[tuple[bytes, bytes]]

PREFIXES = ("/v1/", "/api/v1/")
_ENDPOINTS = {"/chat/completions": ("POST", "chat.completions"), "/models": ("GET", "models")}
_JSON = (b"content-type", b"application/json")


class ASGIResponseWriter:
    """The walk's Out over ASGI. `begun` tells whether an error can still be answered."""

    def __init__(self, scope: Scope, send: Send, request_id: str) -> None:
        self._send = send
        self._id = (b"x-request-id", request_id.encode())
        self._disconnect: Disconnect = scope["extensions"]["disconnect"]
        self.begun = False

    @property
    def gone(self) -> bool:
        return self._disconnect.disconnected

    def on_gone(self, callback: Callable[[], object]) -> None:
        self._disconnect.add_callback(callback)

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        await self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self.end(body)

    async def start(self, status: int, headers: Headers) -> None:
        self.begun = True
        headers = [*headers, self._id]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def piece(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": False})


class DataPlane:
    """The application the listener serves. `control` is the rest of the site; `bodies` is what all request
    bodies share. With `proxies`, every part of the site sees the client that they tell of.
    """

    def __init__(
        self,
        gateway: Gateway,
        control: ASGIApp,
        *,
        bodies: BodyMemory,
        clock: Clock,
        log: Log,
        proxies: ProxyHeaders | None = None,
    ) -> None:
        self._gateway = gateway
        self._control = control
        self._bodies = bodies
        self._clock = clock
        self._log = log
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._proxies is not None and scope["type"] != "lifespan":
            self._proxies.apply(scope)
        path = scope.get("path", "")
        if scope["type"] != "http" or not path.startswith(PREFIXES):
            await self._control(scope, receive, send)
            return
        route = path[path.index("/v1/") + 3 :]
        endpoint = "models" if route.startswith("/models/") else _ENDPOINTS.get(route, ("", "unknown"))[1]
        context = read_request_context(scope, endpoint, self._clock)
        out = ASGIResponseWriter(scope, send, context.request_id)
        await self._answer(scope, route, context, receive, out)

    async def _answer(
        self, scope: Scope, route: str, context: RequestContext, receive: Receive, out: ASGIResponseWriter
    ) -> None:
        body = Body(self._bodies)
        try:
            await self._dispatch(
                scope["method"], route, context, lambda: read_body(scope, receive, body), out
            )
        except GatewayError as exc:
            await self._refuse(exc, context, out)
        except OSError:
            if not out.gone:
                raise
        except Exception as exc:
            self._log.exception("request_failed", exc, request_id=context.request_id)
            if out.begun:
                raise
            await self._refuse(INTERNAL, context, out)
        finally:
            body.release()

    async def _dispatch(
        self,
        method: str,
        route: str,
        context: RequestContext,
        body: Callable[[], Awaitable[Body]],
        out: ASGIResponseWriter,
    ) -> None:
        if route == "/chat/completions" and method == "POST":
            await self._gateway.answer(context, body, out)
        elif context.endpoint == "models" and method in ("GET", "HEAD"):
            await self._models(route, context, out)
        else:
            refusal = _no_such_route(method, route)
            self._gateway.accounting.note(context, refusal.status, code=refusal.code)
            raise refusal

    async def _models(self, route: str, context: RequestContext, out: ASGIResponseWriter) -> None:
        name = route.removeprefix("/models").removeprefix("/")
        if name:
            row, rates = await self._gateway.model(context, name)
            answer: object = _model(row)
        else:
            rows, rates = await self._gateway.models(context)
            answer = {"object": "list", "data": [_model(row) for row in rows]}
        await out.whole(200, [_JSON, *rates], msgspec.json.encode(answer))

    async def _refuse(self, exc: GatewayError, context: RequestContext, out: ASGIResponseWriter) -> None:
        await out.whole(exc.status, error_headers(exc), error_body(exc, context.request_id))


def _model(row: ModelRow) -> dict[str, object]:
    return {
        "id": row.id,
        "object": "model",
        "created": row.created or 0,
        "owned_by": row.owned_by or "bluesminds",
    }


def _no_such_route(method: str, route: str) -> GatewayError:
    allowed = "GET" if route.startswith("/models/") else _ENDPOINTS.get(route, ("", ""))[0]
    if allowed:
        return GatewayError(
            405,
            "method_not_allowed",
            f"Use {allowed} for this path, not {method}.",
            headers={"allow": allowed},
        )
    return NotFound("unknown_url", "Not found. Check the base URL: it should end in /v1.")


async def read_body(scope: Scope, receive: Receive, body: Body) -> Body:
    """Fill body with all of the request's. Raises InvalidRequest when it is empty or compressed, Unavailable
    when there is no room for it, and ConnectionResetError when the client leaves first.
    """
    if any(name == b"content-encoding" and coding != b"identity" for name, coding in scope["headers"]):
        raise InvalidRequest("unsupported_encoding", "Send the request body without compression.", status=415)
    body.data = await _collect(receive, body)
    if not body.data:
        raise InvalidRequest(
            "empty_body", "The request has no body. Send a JSON object with `model` and `messages`."
        )
    return body


async def _collect(receive: Receive, body: Body) -> bytes:
    pieces = []
    while (message := await receive())["type"] != "http.disconnect":
        piece: bytes = message.get("body", b"")
        body.acquire(len(piece))
        pieces.append(piece)
        if not message.get("more_body", False):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    raise ConnectionResetError
