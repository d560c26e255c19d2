"""The Quart application of the control plane, mounted from the route tables.

Quart's own timeouts are disabled, because they end responses silently; the listener has timeouts for reading
and writing. Every response has a request id and is not cached. Errors have OpenAI's format; an unexpected one
is logged and returned as 500 without details.
"""

import re
from collections.abc import Iterable
from typing import Final, cast

from quart import Response, abort, g, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from bluesminds.common.clock import Clock
from bluesminds.common.crypto import uuid7
from bluesminds.common.errors import GatewayError, Unavailable
from bluesminds.common.log import Log
from bluesminds.gateway.operations import clean_path, suggested_path
from bluesminds.http.asgi import ASGIApp
from bluesminds.web.errors import INTERNAL, error_body, error_headers
from bluesminds.web.guard import Guard
from bluesminds.web.request_context import valid_request_id
from bluesminds.web.routes import Route, mount
from storage.base import StorageBroken, StorageUnavailable

MAX_BODY = 1024 * 1024  # bytes
_DEFAULT_HEADERS: Final = (("cache-control", "no-store"), ("x-content-type-options", "nosniff"))
_PLAIN_PATH: Final = re.compile(r"/(?!/)")
_MESSAGES: Final = {
    405: "This path does not support this method. The Allow header lists the supported ones.",
    413: "The request body is larger than 1 MiB.",
}


def create_app(routes: Iterable[Route], guard: Guard, *, clock: Clock, log: Log) -> ASGIApp:
    return cast(ASGIApp, build_quart_app(routes, guard, clock=clock, log=log))


def build_quart_app(routes: Iterable[Route], guard: Guard, *, clock: Clock, log: Log) -> QuartTrio:
    app = QuartTrio("bluesminds", static_folder=None)
    app.config.update(
        RESPONSE_TIMEOUT=None,
        BODY_TIMEOUT=None,
        MAX_CONTENT_LENGTH=MAX_BODY,
        PROPAGATE_EXCEPTIONS=False,
        PROVIDE_AUTOMATIC_OPTIONS=False,
    )
    app.url_map.merge_slashes = False  # they are merged by a redirect with an HTML body
    mount(app, routes, guard)
    _add_headers(app, clock)
    _add_error_handlers(app, log)
    return app


def _add_headers(app: QuartTrio, clock: Clock) -> None:
    @app.before_request
    async def set_request_id() -> None:
        g.request_id = valid_request_id(request.headers.get("x-request-id", "").encode()) or uuid7(
            clock.now_ms()
        )
        # The router ignores extra slashes at the start; a reverse proxy that blocks paths may not.
        if not _PLAIN_PATH.match(request.scope["path"]):
            abort(404)

    @app.after_request
    async def add_headers(response: Response) -> Response:
        response.headers["x-request-id"] = g.request_id
        for name, value in _DEFAULT_HEADERS:
            response.headers.setdefault(name, value)
        return response


def _not_found_message(path: str) -> str:
    """Names the endpoint that was probably meant: most such requests come from a base URL without /v1."""
    if meant := suggested_path(clean_path(path)):
        return f"Not found. Did you mean {meant}? The base URL of an SDK ends in /v1."
    return "Not found. The OpenAI-compatible API is under /v1."


def _add_error_handlers(app: QuartTrio, log: Log) -> None:
    def error_response(exc: GatewayError) -> Response:
        response = Response(error_body(exc, g.request_id), status=exc.status)
        for name, value in error_headers(exc):
            response.headers[name.decode()] = value.decode()
        return response

    @app.errorhandler(GatewayError)
    async def gateway_error(exc: GatewayError) -> Response:
        return error_response(exc)

    @app.errorhandler(StorageUnavailable)
    async def storage_unavailable(exc: StorageUnavailable) -> Response:
        return error_response(
            Unavailable("storage_unavailable", "The database is unavailable. Try again later.")
        )

    @app.errorhandler(StorageBroken)
    async def storage_broken(exc: StorageBroken) -> Response:
        return error_response(
            Unavailable("storage_unavailable", "The database is damaged and must be repaired.", retry=False)
        )

    @app.errorhandler(HTTPException)
    async def http_error(exc: HTTPException) -> Response:
        status = exc.code or 500
        code = {404: "unknown_url", 405: "method_not_allowed", 413: "body_too_large"}.get(
            status, "invalid_request"
        )
        if status == 404:
            message = _not_found_message(request.scope["path"])
        else:
            message = _MESSAGES.get(status) or exc.description or exc.name
        methods = (exc.valid_methods or []) if isinstance(exc, MethodNotAllowed) else []
        headers = {"allow": ", ".join(sorted(methods))} if methods else {}
        return error_response(GatewayError(status, code, message, headers=headers))

    @app.errorhandler(Exception)
    async def unexpected_error(exc: Exception) -> Response:
        log.exception("control_failed", exc, request_id=g.request_id, path=request.path)
        return error_response(INTERNAL)
