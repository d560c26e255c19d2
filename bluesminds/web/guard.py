"""Authentication and authorization of the control plane. Every route calls `Guard.authorize`.

There are three kinds of callers. The operator uses the local socket, which only the owner of the state
directory can open; its listener marks the requests in the ASGI scope, which clients cannot set. A user sends
a session token as a bearer token or in a cookie. All others are anonymous. API keys are not accepted here.

Browsers also send cookies with requests that other sites start. So a change with a cookie needs the CSRF
token of the session, and all changes from other sites are rejected
(https://web.dev/articles/fetch-metadata).
"""

import hmac
from contextlib import suppress
from enum import Enum
from typing import Final, Literal
from urllib.parse import urlsplit

from msgspec import Struct
from quart import Request

from bluesminds.accounts.audit import OPERATOR, Actor
from bluesminds.accounts.sessions import Sessions
from bluesminds.accounts.throttle import Throttle
from bluesminds.common.errors import Forbidden, GatewayError, Unauthenticated
from bluesminds.http.asgi import ASGIApp, Receive, Scope, Send
from storage.users import Role

LOCAL: Final = "bluesminds.local"
COOKIE: Final = "__Host-bluesminds"
PLAIN_COOKIE: Final = "bluesminds"  # for http://localhost, where browsers reject the __Host- prefix
CSRF_HEADER: Final = "x-csrf-token"
SESSION_PREFIX: Final = "bms_"
_SAFE_METHODS: Final = frozenset(("GET", "HEAD"))


class Access(Enum):
    """The callers that a route allows."""

    PUBLIC = "all callers"
    SESSION = "a signed-in user"
    ADMIN = "a signed-in administrator, or the operator on the local socket"
    OPERATOR = "the operator on the local socket"


class Principal(Struct, frozen=True):
    """The caller. Only sessions have a user, an id, a name and a CSRF token. `cookie` is the name of the
    session cookie for this request. `lacks_second_factor`: of an administrator, whose role is "user" until
    the account has one.
    """

    kind: Literal["anonymous", "session", "operator"]
    address: str
    user_id: str = ""
    role: Role = "user"
    session_id: str = ""
    csrf: str = ""
    user_agent: str = ""
    cookie: str = COOKIE
    full_name: str = ""
    email: str | None = None
    lacks_second_factor: bool = False

    @property
    def actor(self) -> Actor:
        if self.kind == "operator":
            return OPERATOR
        return Actor(name=self.user_id or "anonymous", address=self.address)


class Guard:
    """`public_url` is the URL of the gateway for clients, if it is behind a proxy. `admin_second_factor`:
    administrators without a second factor have the rights of users.
    """

    def __init__(
        self,
        sessions: Sessions,
        throttle: Throttle,
        *,
        public_url: str | None,
        admin_second_factor: bool = False,
    ) -> None:
        self._sessions = sessions
        self._throttle = throttle
        self._admin_second_factor = admin_second_factor
        public = urlsplit(public_url or "")
        self._public_host = public.netloc.lower()
        self._over_https = public.scheme == "https"

    async def authorize(self, access: Access, request: Request) -> Principal:
        """Raises Unauthenticated, Forbidden, or RateLimited for too many changes by one user."""
        local = bool(request.scope.get(LOCAL))
        if not local and request.method not in _SAFE_METHODS:
            self._reject_other_sites(request)
        if access is Access.PUBLIC:
            return _operator() if local else self._anonymous(request)
        if local:
            if access is Access.SESSION:
                raise Forbidden(
                    "session_required",
                    "This endpoint needs a signed-in user; the operator socket cannot use it.",
                )
            return _operator()
        principal = await self._authenticate(request)
        if access is Access.OPERATOR:
            raise Forbidden(
                "operator_required", "Use the command line on the machine of the gateway for this."
            )
        if principal.lacks_second_factor and access is Access.ADMIN:
            raise Forbidden(
                "second_factor_needed",
                "Administrators need a second factor here. Turn it on in the settings of your account.",
            )
        if access is Access.ADMIN and principal.role != "admin":
            raise Forbidden("admin_required", "This endpoint needs an administrator.")
        return principal

    async def _authenticate(self, request: Request) -> Principal:
        cookie = self._cookie(request)
        token, by_cookie = _token(request, cookie)
        address = address_of(request.scope["client"])
        found = await self._sessions.find(token, address)
        if found is None:
            raise Unauthenticated("invalid_session", "Session expired or signed out. Sign in again.")
        if request.method not in _SAFE_METHODS:
            if by_cookie:
                _require_csrf(request, found.csrf)
            if found.role != "admin":
                self._throttle.check_change(found.user_id)
        lacks_factor = self._admin_second_factor and found.role == "admin" and not found.has_second_factor
        return Principal(
            kind="session",
            address=address,
            user_id=found.user_id,
            role="user" if lacks_factor else found.role,
            lacks_second_factor=lacks_factor,
            session_id=found.session_id,
            csrf=found.csrf,
            user_agent=_user_agent(request),
            cookie=cookie,
            full_name=found.full_name,
            email=found.email,
        )

    def _anonymous(self, request: Request) -> Principal:
        return Principal(
            kind="anonymous",
            address=address_of(request.scope["client"]),
            user_agent=_user_agent(request),
            cookie=self._cookie(request),
        )

    def _cookie(self, request: Request) -> str:
        """PLAIN_COOKIE for http://localhost, unless the public URL is https: then the host name may come from
        the proxy.
        """
        host = urlsplit(f"//{request.host}").hostname
        is_local = request.scheme == "http" and host in ("localhost", "127.0.0.1", "::1")
        return PLAIN_COOKIE if is_local and not self._over_https else COOKIE

    def _reject_other_sites(self, request: Request) -> None:
        """Browsers send at least one of these headers with every change, other programs none."""
        site = request.headers.get("sec-fetch-site", "same-origin")
        origin = request.headers.get("origin")
        if site in ("same-origin", "none") and (origin is None or self._is_own_origin(origin, request)):
            return
        raise Forbidden("cross_site_request", "Changes from pages of other sites are rejected.")

    def _is_own_origin(self, origin: str, request: Request) -> bool:
        try:
            scheme, host, *_ = urlsplit(origin.lower())
        except ValueError:
            return False
        if host and host == self._public_host:
            return scheme == "https" or not self._over_https
        return bool(host) and host == request.host.lower()


def mark_operator(app: ASGIApp) -> ASGIApp:
    """The application for the local socket. The public listener runs its lifespan."""

    async def marked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        scope[LOCAL] = True
        await app(scope, receive, send)

    return marked


def _operator() -> Principal:
    return Principal(kind="operator", address=OPERATOR.address, role="admin")


def address_of(client: tuple[str, int] | None) -> str:
    """The address that attempts are counted for."""
    return client[0] if client else "local"


def _user_agent(request: Request) -> str:
    """Headers are decoded as Latin-1; valid UTF-8 is decoded again."""
    sent = request.headers.get("user-agent", "")
    with suppress(UnicodeError):
        sent = sent.encode("latin-1").decode()
    return sent[:200]


def _token(request: Request, cookie: str) -> tuple[str, bool]:
    """The session token, and whether it was in the cookie. With a credential in a header, cookies are
    ignored.
    """
    header = request.headers.get("authorization")
    if header is not None or "x-api-key" in request.headers or "api-key" in request.headers:
        scheme, _, token = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip().startswith(SESSION_PREFIX):
            raise _session_required()
        return token.strip(), False
    token = request.cookies.get(cookie, "")
    if not token:
        raise _session_required()
    return token, True


def _session_required() -> GatewayError:
    return Unauthenticated(
        "session_required",
        "Sign in first (POST /api/auth/login). API keys are only accepted under /v1.",
    )


def _require_csrf(request: Request, expected: str) -> None:
    given = request.headers.get(CSRF_HEADER, "")
    if not hmac.compare_digest(given.encode(), expected.encode()):
        raise Forbidden(
            "csrf_token_invalid",
            "Send the csrf_token of GET /api/auth/me in the X-CSRF-Token header, or use a bearer token.",
        )
