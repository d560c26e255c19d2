"""Who may call the control plane. Every route asks here, and nowhere else is anybody let in.

A caller is one of three. The operator: whoever can open the local socket owns the state directory; the
socket's listener marks its requests in the ASGI scope, where no client can write. A signed-in user: a session
token as a bearer, or in a cookie. Nobody. API keys call models; on this side they open nothing.

A browser sends cookies whoever asks it to, so a write by cookie needs the session's CSRF token, and no write
at all is taken from another site (https://web.dev/articles/fetch-metadata).
"""

import hmac
from contextlib import suppress
from enum import Enum
from typing import Final, Literal, Protocol
from urllib.parse import urlsplit

from msgspec import Struct
from quart import Request

from bluesminds.accounts.audit import OPERATOR, Actor
from bluesminds.accounts.throttle import Throttle
from bluesminds.common.errors import Forbidden, GatewayError, Unauthenticated
from bluesminds.http.asgi import ASGIApp, Receive, Scope, Send
from storage.users import Role

LOCAL: Final = "bluesminds.local"
COOKIE: Final = "__Host-bluesminds"
PLAIN_COOKIE: Final = "bluesminds"  # over plain http on this machine, where browsers refuse the other
CSRF_HEADER: Final = "x-csrf-token"
SESSION_PREFIX: Final = "bms_"
_SAFE_METHODS: Final = frozenset(("GET", "HEAD"))


class Access(Enum):
    """Who may call a route."""

    PUBLIC = "anybody"
    SESSION = "a signed-in user"
    ADMIN = "a signed-in administrator, or the operator on the local socket"


class SignedIn(Protocol):
    """A live session, as the accounts know it."""

    @property
    def user_id(self) -> str: ...

    @property
    def role(self) -> Role: ...

    @property
    def session_id(self) -> str: ...

    @property
    def csrf(self) -> str: ...


class Sessions(Protocol):
    async def find(self, token: str, address: str) -> SignedIn | None:
        """None for a token that is unknown, over, or of a disabled user."""


class Principal(Struct, frozen=True):
    """Who calls. Only a session has a user, an id and a CSRF token. `cookie` is what the caller's browser
    calls the cookie of its session.
    """

    kind: Literal["nobody", "session", "operator"]
    address: str
    user_id: str = ""
    role: Role = "user"
    session_id: str = ""
    csrf: str = ""
    user_agent: str = ""
    cookie: str = COOKIE

    @property
    def actor(self) -> Actor:
        if self.kind == "operator":
            return OPERATOR
        return Actor(name=self.user_id or "anonymous", address=self.address)


class Guard:
    """`public_url` is the site's own address where a proxy hides it."""

    def __init__(self, sessions: Sessions, throttle: Throttle, *, public_url: str | None) -> None:
        self._sessions = sessions
        self._throttle = throttle
        public = urlsplit(public_url or "")
        self._public_host = public.netloc.lower()
        self._over_https = public.scheme == "https"

    async def admit(self, access: Access, request: Request) -> Principal:
        """Raises Unauthenticated, Forbidden, or RateLimited for a user who changes too much."""
        local = bool(request.scope.get(LOCAL))
        if not local and request.method not in _SAFE_METHODS:
            self._refuse_other_sites(request)
        if access is Access.PUBLIC:
            return self._nobody(request) if not local else _operator()
        if local:
            if access is not Access.ADMIN:
                raise Forbidden("session_required", "Sign in as a user for this; the operator is none.")
            return _operator()
        principal = await self._signed_in(request)
        if access is Access.ADMIN and principal.role != "admin":
            raise Forbidden("admin_required", "Only an administrator may do this.")
        return principal

    async def _signed_in(self, request: Request) -> Principal:
        cookie = self._cookie(request)
        token, by_cookie = _token(request, cookie)
        address = address_of(request.scope["client"])
        found = await self._sessions.find(token, address)
        if found is None:
            raise Unauthenticated("invalid_session", "This session is over. Sign in again.")
        if request.method not in _SAFE_METHODS:
            if by_cookie:
                _require_csrf(request, found.csrf)
            if found.role != "admin":
                self._throttle.check_change(found.user_id)
        return Principal(
            kind="session",
            address=address,
            user_id=found.user_id,
            role=found.role,
            session_id=found.session_id,
            csrf=found.csrf,
            user_agent=_user_agent(request),
            cookie=cookie,
        )

    def _nobody(self, request: Request) -> Principal:
        return Principal(
            kind="nobody",
            address=address_of(request.scope["client"]),
            user_agent=_user_agent(request),
            cookie=self._cookie(request),
        )

    def _cookie(self, request: Request) -> str:
        """Plain for a browser that talks plain http to its own machine, where not all of them take the other.
        Not for a site that is reached over https: a proxy before it may ask in the name of this machine.
        """
        host = urlsplit(f"//{request.host}").hostname
        is_near = request.scheme == "http" and host in ("localhost", "127.0.0.1", "::1")
        return PLAIN_COOKIE if is_near and not self._over_https else COOKIE

    def _refuse_other_sites(self, request: Request) -> None:
        """Programs send neither header; browsers send at least one with every write."""
        site = request.headers.get("sec-fetch-site", "same-origin")
        origin = request.headers.get("origin")
        if site in ("same-origin", "none") and (origin is None or self._is_own(origin, request)):
            return
        raise Forbidden("cross_site_request", "Changes are not taken from pages of another site.")

    def _is_own(self, origin: str, request: Request) -> bool:
        try:
            scheme, host, *_ = urlsplit(origin.lower())
        except ValueError:
            return False
        if host and host == self._public_host:
            return scheme == "https" or not self._over_https
        return bool(host) and host == request.host.lower()


def mark_operator(app: ASGIApp) -> ASGIApp:
    """The application as the local socket serves it. Its lifespan belongs to the public listener."""

    async def marked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        scope[LOCAL] = True
        await app(scope, receive, send)

    return marked


def _operator() -> Principal:
    return Principal(kind="operator", address=OPERATOR.address, role="admin")


def address_of(client: tuple[str, int] | None) -> str:
    """Whom to count attempts for."""
    return client[0] if client else "local"


def _user_agent(request: Request) -> str:
    """Headers are read as Latin-1; what is UTF-8 was meant so."""
    sent = request.headers.get("user-agent", "")
    with suppress(UnicodeError):
        sent = sent.encode("latin-1").decode()
    return sent[:200]


def _token(request: Request, cookie: str) -> tuple[str, bool]:
    """The session token, and whether a cookie brought it. A credential in a header rules cookies out."""
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
        "session_required", "Sign in first (POST /api/auth/login). An API key calls models, and nothing here."
    )


def _require_csrf(request: Request, expected: str) -> None:
    given = request.headers.get(CSRF_HEADER, "")
    if not hmac.compare_digest(given.encode(), expected.encode()):
        raise Forbidden(
            "csrf_token_invalid",
            "Send the csrf_token of GET /api/auth/me in the X-CSRF-Token header, or the session as a bearer.",
        )
