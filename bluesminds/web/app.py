"""The Quart application: everything that is not model traffic, mounted from the route tables.

Quart's own deadlines are switched off: the listener has its own for reading and writing, and a second clock
that cuts answers silently is worse than none. Every answer carries a request id and is not to be cached;
every error leaves in OpenAI's body; an unexpected one is logged and told as 500 without detail.
"""

import re
from collections.abc import Iterable
from typing import Final, cast

from quart import Response, abort, g, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from bluesminds.common.clock import Clock
from bluesminds.common.crypto import uuid7
from bluesminds.common.errors import GatewayError, NotFound, Unavailable
from bluesminds.common.log import Log
from bluesminds.http.asgi import ASGIApp, Receive, Scope, Send
from bluesminds.web.errors import INTERNAL, error_body, error_headers
from bluesminds.web.guard import Guard
from bluesminds.web.request_context import sane_id
from bluesminds.web.routes import Route, mount
from storage.base import StorageBroken, StorageUnavailable

MAX_INPUT = 1024 * 1024  # bytes; control-plane bodies are small forms
ALWAYS: Final = (("cache-control", "no-store"), ("x-content-type-options", "nosniff"))
_PLAIN_PATH: Final = re.compile(r"/(?!/)")
_SENTENCES: Final = {
    404: "There is nothing at this path. Models are asked under /v1.",
    405: "This path exists, but not for this method; the allow header names those it has.",
    413: "The request body is larger than 1 MiB.",
}


def create_app(routes: Iterable[Route], guard: Guard, *, clock: Clock, log: Log) -> ASGIApp:
    app = QuartTrio("bluesminds", static_folder=None)
    app.config.update(
        RESPONSE_TIMEOUT=None,
        BODY_TIMEOUT=None,
        MAX_CONTENT_LENGTH=MAX_INPUT,
        PROPAGATE_EXCEPTIONS=False,
        PROVIDE_AUTOMATIC_OPTIONS=False,
    )
    app.url_map.merge_slashes = False  # by a redirect, whose body is a page of HTML
    mount(app, routes, guard)
    _add_headers(app, clock)
    _add_error_handlers(app, log)
    inner = cast(ASGIApp, app.asgi_app)
    app.asgi_app = _reject_websockets(inner, clock, log)  # type: ignore[assignment,method-assign]
    return cast(ASGIApp, app)


def _reject_websockets(app: ASGIApp, clock: Clock, log: Log) -> ASGIApp:
    """There are no WebSocket routes: a handshake gets 404 in place of the 500 that Quart would send."""

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            await app(scope, receive, send)
            return
        given = [value for name, value in scope["headers"] if name == b"x-request-id"]
        request_id = sane_id(given[0] if given else None) or uuid7(clock.now_ms())
        rejection = NotFound("unknown_url", "There is no WebSocket at this path.")
        log.info("websocket_rejected", request_id=request_id, path=scope["path"])
        body = error_body(rejection, request_id)
        headers = [
            *error_headers(rejection),
            (b"x-request-id", request_id.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        start = {"type": "websocket.http.response.start", "headers": headers, "status": rejection.status}
        await send(start)
        await send({"type": "websocket.http.response.body", "body": body})

    return dispatch


def _add_headers(app: QuartTrio, clock: Clock) -> None:
    @app.before_request
    async def name_request() -> None:
        g.request_id = sane_id(request.headers.get("x-request-id", "").encode()) or uuid7(clock.now_ms())
        # The router ignores extra slashes at the start; a reverse proxy that blocks paths may not.
        if not _PLAIN_PATH.match(request.scope["path"]):
            abort(404)

    @app.after_request
    async def add(response: Response) -> Response:
        response.headers["x-request-id"] = g.request_id
        for name, value in ALWAYS:
            response.headers.setdefault(name, value)
        return response


def _add_error_handlers(app: QuartTrio, log: Log) -> None:
    def error_response(exc: GatewayError) -> Response:
        response = Response(error_body(exc, g.request_id), status=exc.status)
        for name, value in error_headers(exc):
            response.headers[name.decode()] = value.decode()
        return response

    @app.errorhandler(GatewayError)
    async def refused(exc: GatewayError) -> Response:
        return error_response(exc)

    @app.errorhandler(StorageUnavailable)
    async def no_storage(exc: StorageUnavailable) -> Response:
        return error_response(
            Unavailable("storage_unavailable", "The database cannot be reached right now. Try again.")
        )

    @app.errorhandler(StorageBroken)
    async def broken_storage(exc: StorageBroken) -> Response:
        return error_response(
            Unavailable("storage_unavailable", "The database cannot be used until it is mended.", retry=False)
        )

    @app.errorhandler(HTTPException)
    async def http_error(exc: HTTPException) -> Response:
        status = exc.code or 500
        code = {404: "unknown_url", 405: "method_not_allowed", 413: "body_too_large"}.get(
            status, "invalid_request"
        )
        sentence = _SENTENCES.get(status) or exc.description or exc.name
        methods = (exc.valid_methods or []) if isinstance(exc, MethodNotAllowed) else []
        headers = {"allow": ", ".join(sorted(methods))} if methods else {}
        return error_response(GatewayError(status, code, sentence, headers=headers))

    @app.errorhandler(Exception)
    async def unexpected(exc: Exception) -> Response:
        log.exception("control_failed", exc, request_id=g.request_id, path=request.path)
        return error_response(INTERNAL)
