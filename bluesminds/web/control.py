"""The Quart application: everything that is not model traffic.

Quart's own deadlines are switched off: the listener has its own for reading and writing, and a second clock
that cuts answers silently is worse than none. Every error leaves in OpenAI's body with a request id; an
unexpected one is logged and told as 500 without detail.
"""

from typing import Final, cast

from quart import Blueprint, Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from bluesminds.clock import Clock
from bluesminds.crypto import uuid7
from bluesminds.errors import GatewayError, Unavailable
from bluesminds.http.asgi import ASGIApp
from bluesminds.log import Log
from bluesminds.web.errors import INTERNAL, error_body, error_headers
from storage.base import StorageBroken, StorageUnavailable

MAX_INPUT = 1024 * 1024  # bytes; control-plane bodies are small forms
_SENTENCES: Final = {
    404: "There is nothing at this path. Models are asked under /v1.",
    405: "This path exists, but not for this method; the allow header names those it has.",
    413: "The request body is larger than 1 MiB.",
}


def create(*blueprints: Blueprint, clock: Clock, log: Log) -> ASGIApp:
    app = QuartTrio("bluesminds", static_folder=None)
    app.config.update(
        RESPONSE_TIMEOUT=None,
        BODY_TIMEOUT=None,
        MAX_CONTENT_LENGTH=MAX_INPUT,
        PROPAGATE_EXCEPTIONS=False,
        PROVIDE_AUTOMATIC_OPTIONS=False,
    )
    for blueprint in blueprints:
        app.register_blueprint(blueprint)
    _add_error_handlers(app, clock, log)
    return cast(ASGIApp, app)


def _add_error_handlers(app: QuartTrio, clock: Clock, log: Log) -> None:
    def told(exc: GatewayError) -> Response:
        request_id = uuid7(clock.now_ms())
        response = Response(error_body(exc, request_id), status=exc.status)
        for name, value in (*error_headers(exc), (b"x-request-id", request_id.encode())):
            response.headers[name.decode()] = value.decode()
        return response

    @app.errorhandler(GatewayError)
    async def refused(exc: GatewayError) -> Response:
        return told(exc)

    @app.errorhandler(StorageUnavailable)
    async def no_storage(exc: StorageUnavailable) -> Response:
        return told(
            Unavailable("storage_unavailable", "The database cannot be reached right now. Try again.")
        )

    @app.errorhandler(StorageBroken)
    async def broken_storage(exc: StorageBroken) -> Response:
        return told(
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
        return told(GatewayError(status, code, sentence, headers=headers))

    @app.errorhandler(Exception)
    async def unexpected(exc: Exception) -> Response:
        log.exception("control_failed", exc, path=request.path)
        return told(INTERNAL)
