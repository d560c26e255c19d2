"""In front of the routes that have a password computed for whoever asks: so many at a time pass, and the rest
is refused at once, before it costs more than the reading of a small form. So is a login that has to wait.

Without it a flood of logins would take the event loop's time even though each of them is refused in the end.
A request counts only when all of its body is there, so slow senders take nobody's place.
"""

from typing import Final

import msgspec

from bluesminds.accounts.throttle import Throttle
from bluesminds.common.clock import Clock
from bluesminds.common.crypto import uuid7
from bluesminds.common.errors import GatewayError, InvalidRequest
from bluesminds.http.asgi import ASGIApp, Message, Receive, Scope, Send
from bluesminds.identity.password import MAX_WAITING, too_many
from bluesminds.web.app import ALWAYS
from bluesminds.web.data_plane import ASGIResponseWriter
from bluesminds.web.errors import error_body, error_headers
from bluesminds.web.guard import address_of
from bluesminds.web.request_context import sane_id

PLACES: Final = 1 + MAX_WAITING
MAX_FORM: Final = 16_384  # bytes
LOGIN: Final = "/api/auth/login"
NARROW: Final = frozenset(
    (
        LOGIN,
        "/api/auth/signup",
        "/api/auth/password/reset",
        "/api/auth/email/verify",
        "/api/setup",
    )
)


class _Login(msgspec.Struct):
    email: str


class Turnstile:
    """The site as the public sees it."""

    def __init__(self, site: ASGIApp, clock: Clock, throttle: Throttle) -> None:
        self._site = site
        self._clock = clock
        self._throttle = throttle
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in NARROW:
            await self._site(scope, receive, send)
            return
        try:
            form = await _read(receive)
            if form is not None:
                self._check(scope, form)
                await self._pass(scope, form, receive, send)
        except GatewayError as exc:
            request_id = _request_id(scope) or uuid7(self._clock.now_ms())
            out = ASGIResponseWriter(scope, send, request_id)
            headers = [*error_headers(exc), *((name.encode(), value.encode()) for name, value in ALWAYS)]
            await out.whole(exc.status, headers, error_body(exc, request_id))

    def _check(self, scope: Scope, form: bytes) -> None:
        """Raises RateLimited for a login that must not be tried yet."""
        if (scope["method"], scope["path"]) != ("POST", LOGIN):
            return
        try:
            email = msgspec.json.decode(form, type=_Login).email
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return  # the site has words for what is wrong
        self._throttle.check_sign_in(email, address_of(scope["client"]))

    async def _pass(self, scope: Scope, form: bytes, receive: Receive, send: Send) -> None:
        if self._inside >= PLACES:
            raise too_many()
        messages: list[Message] = [{"type": "http.request", "body": form, "more_body": False}]

        async def again() -> Message:
            return messages.pop() if messages else await receive()

        self._inside += 1
        try:
            await self._site(scope, again, send)
        finally:
            self._inside -= 1


def _request_id(scope: Scope) -> str | None:
    """The client's own if it is sane."""
    return next((sane_id(value) for name, value in scope["headers"] if name == b"x-request-id"), None)


async def _read(receive: Receive) -> bytes | None:
    """The whole body; None when the client leaves first. Raises InvalidRequest for one that is no form."""
    form = b""
    while (message := await receive())["type"] != "http.disconnect":
        piece: bytes = message.get("body", b"")
        form += piece
        if len(form) > MAX_FORM:
            raise InvalidRequest("body_too_large", "The request body is larger than 16 KiB.", status=413)
        if not message.get("more_body", False):
            return form
    return None
