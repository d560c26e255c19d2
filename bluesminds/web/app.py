"""The Quart application of the control plane, mounted from the route tables.

Quart's own timeouts are disabled, because they end responses silently; the listener has timeouts for reading
and writing. Every response has a request id and is not cached. Errors have OpenAI's format; an unexpected one
is logged and returned as 500 without details.
"""

import re
from collections.abc import Callable, Iterable
from typing import Final, cast

import trio
from msgspec import Struct
from quart import Response, abort, g, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from bluesminds.common.clock import Clock
from bluesminds.common.crypto import uuid7
from bluesminds.common.errors import GatewayError, Unavailable
from bluesminds.common.log import Log
from bluesminds.gateway.operations import clean_path, suggested_path
from bluesminds.http.asgi import ASGIApp
from bluesminds.web.browser_request import BrowserRequest, read_browser_request
from bluesminds.web.errors import INTERNAL, error_body, error_headers
from bluesminds.web.guard import Guard, Principal
from bluesminds.web.request_context import valid_request_id
from bluesminds.web.routes import HandlerResponse, RawBody, Route, mount
from storage.base import StorageBroken, StorageUnavailable

MAX_BODY = 1024 * 1024  # bytes
_DEFAULT_HEADERS: Final = (("cache-control", "no-store"), ("x-content-type-options", "nosniff"))
_PLAIN_PATH: Final = re.compile(r"/(?!/)")
_MESSAGES: Final = {
    405: "This path does not support this method. The Allow header lists the supported ones.",
    413: "The request body is larger than 1 MiB.",
}


ErrorPage = Callable[[BrowserRequest, Principal | None, GatewayError, str], HandlerResponse[RawBody]]


class BrowserPages(Struct, frozen=True):
    """Browsers that ask for / are redirected to `home`. Below it, they get errors as pages: `error_page`
    makes one for a request, its caller if known, the error and the request id.
    """

    home: str
    error_page: ErrorPage


def create_app(
    routes: Iterable[Route], guard: Guard, *, clock: Clock, log: Log, pages: BrowserPages | None = None
) -> ASGIApp:
    return cast(ASGIApp, build_quart_app(routes, guard, clock=clock, log=log, pages=pages))


def build_quart_app(
    routes: Iterable[Route], guard: Guard, *, clock: Clock, log: Log, pages: BrowserPages | None = None
) -> QuartTrio:
    app = QuartTrio("bluesminds", static_folder=None)
    app.config.update(
        RESPONSE_TIMEOUT=None,
        BODY_TIMEOUT=None,
        MAX_CONTENT_LENGTH=MAX_BODY,
        PROPAGATE_EXCEPTIONS=False,
        PROVIDE_AUTOMATIC_OPTIONS=False,
    )
    mount(app, routes, guard)
    _add_headers(app, clock)
    if pages is not None:
        _add_pages(app, pages)
    _add_error_handlers(app, log, pages)
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


def _add_pages(app: QuartTrio, pages: BrowserPages) -> None:
    @app.before_request
    async def redirect_to_home() -> Response | None:
        g.started = trio.current_time()
        is_root = request.path == "/" and read_browser_request(request).wants_html
        if request.method == "GET" and (is_root or request.path == f"{pages.home}/"):
            return Response(b"", 303, headers={"location": pages.home, "vary": "Accept"})
        return None

    @app.after_request
    async def add_page_headers(response: Response) -> Response:
        if request.path == "/":
            response.headers["vary"] = "Accept"
        if request.path.startswith(pages.home) and "started" in g:
            milliseconds = (trio.current_time() - g.started) * 1000
            response.headers["server-timing"] = f"page;dur={milliseconds:.1f}"
        return response


def _not_found_message(path: str) -> str:
    """Names the endpoint that was probably meant: most such requests come from a base URL without /v1."""
    if meant := suggested_path(clean_path(path)):
        return f"Not found. Did you mean {meant}? The base URL of an SDK ends in /v1."
    return "Not found. The OpenAI-compatible API is under /v1."


def _add_error_handlers(app: QuartTrio, log: Log, pages: BrowserPages | None) -> None:
    def error_response(exc: GatewayError) -> Response:
        if pages is not None and request.method == "GET" and request.path.startswith(pages.home):
            browser = read_browser_request(request)
            if browser.wants_html:
                page = pages.error_page(browser, g.get("principal"), exc, g.request_id)
                return Response(
                    page.body.content, page.status, dict(page.headers), content_type=page.body.content_type
                )
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
