"""/api/auth/google, /api/auth/github and /api/auth/oidc/{name}: sign-in at a provider, in a browser.

The routes exist if the settings name providers. The browser is sent to the provider and comes back with a
code. The cookie of a started sign-in binds both steps to one browser.
"""

import re
from collections.abc import Awaitable, Callable
from html import escape
from typing import Annotated, Final
from urllib.parse import parse_qsl, quote

from msgspec import Meta, Struct
from quart import request

from bluesminds.accounts.federated import FederatedSignIn, FinishedSignIn
from bluesminds.accounts.sessions import Sessions
from bluesminds.common.errors import GatewayError, InvalidRequest
from bluesminds.web.api.auth import session_cookie
from bluesminds.web.api.second_factors import pending_cookie
from bluesminds.web.browser_request import BrowserRequest
from bluesminds.web.guard import COOKIE, Access, Principal
from bluesminds.web.pages.account_pages import (
    CODE_PAGE,
    HTML,
    MAILED_CODE_PAGE,
    PAGE_HEADERS,
    message_page,
)
from bluesminds.web.routes import HandlerResponse, RawBody, Route, route

MAX_ANSWER: Final = 8192  # characters of the query that a provider sends back
_OWN_PAGE: Final = re.compile(r"/dashboard(?:[/?][^\\\x00-\x20\x7f]*)?")
_SECONDS: Final = 600
BY_NAME: Final = frozenset(("github", "google"))
"""Providers whose routes do not start with oidc/."""


class SignInStart(Struct, frozen=True, forbid_unknown_fields=True):
    next: Annotated[str, Meta(max_length=2000, description="a page of the dashboard to open afterwards")] = ""


class FederatedHandlers(Struct, frozen=True):
    """`public_url` is None without one in the settings. `home` is the page that a sign-in leads to."""

    federated: FederatedSignIn
    sessions: Sessions
    public_url: str | None
    home: str

    async def start(
        self, principal: Principal, query: SignInStart, browser: BrowserRequest, name: str
    ) -> HandlerResponse[RawBody]:
        """Sign in at a service: redirects the browser to it."""

        async def started() -> HandlerResponse[RawBody]:
            url = callback_url(self.public_url, browser, name)
            next_page = query.next if _OWN_PAGE.fullmatch(query.next) else ""
            begun = await self.federated.start(name, redirect_uri=url, next_page=next_page)
            return _redirect(begun.url, attempt_cookie(principal, begun.cookie, _SECONDS))

        return await _or_page(browser, started)

    async def finish(
        self, principal: Principal, browser: BrowserRequest, name: str
    ) -> HandlerResponse[RawBody]:
        """Come back from the service: the browser gets a session."""

        async def finished() -> HandlerResponse[RawBody]:
            token = request.cookies.get(principal.cookie, "")
            done = await self.federated.finish(
                principal.actor,
                name,
                _answer(browser.query),
                cookie=request.cookies.get(_attempt_name(principal), ""),
                session=await self.sessions.find(token, principal.address),
                session_token=token,
                user_agent=principal.user_agent,
            )
            ended = attempt_cookie(principal, "", 0)
            if done.pending:
                wait = pending_cookie(principal, done.pending, _SECONDS)
                page = MAILED_CODE_PAGE if done.missing == "mailed code" else CODE_PAGE
                return _redirect(f"{page}?next={quote(done.next)}" if done.next else page, wait, ended)
            return _redirect(done.next or self.home, *_session_cookies(principal, done), ended)

        return await _or_page(browser, finished)


class _NamedProvider(Struct, frozen=True):
    """The handlers of a provider with its own routes."""

    handlers: FederatedHandlers
    name: str

    async def start(
        self, principal: Principal, query: SignInStart, browser: BrowserRequest
    ) -> HandlerResponse[RawBody]:
        """Sign in at this service: redirects the browser to it."""
        return await self.handlers.start(principal, query, browser, self.name)

    async def finish(self, principal: Principal, browser: BrowserRequest) -> HandlerResponse[RawBody]:
        """Come back from this service: the browser gets a session."""
        return await self.handlers.finish(principal, browser, self.name)


def routes(handlers: FederatedHandlers) -> list[Route]:
    found: list[Route] = []
    names = [policy.name for policy in handlers.federated.providers]
    for name in sorted(BY_NAME.intersection(names)):
        named = _NamedProvider(handlers, name)
        found += _routes(f"/api/auth/{name}", named.start, named.finish)
    if not BY_NAME.issuperset(names):
        found += _routes("/api/auth/oidc/{name}", handlers.start, handlers.finish)
    return found


def provider_path(name: str) -> str:
    """Where a sign-in at a provider starts."""
    return f"/api/auth/{name}" if name in BY_NAME else f"/api/auth/oidc/{name}"


def callback_url(public_url: str | None, browser: BrowserRequest, name: str) -> str:
    """The address that must be registered at the provider."""
    return f"{(public_url or browser.origin).rstrip('/')}{provider_path(name)}/callback"


def attempt_cookie(principal: Principal, value: str, seconds: int) -> str:
    """The cookie of a started sign-in. The browser sends it when it comes from the provider's pages."""
    secure = "; Secure" if principal.cookie == COOKIE else ""
    name = _attempt_name(principal)
    return f"{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"


def _attempt_name(principal: Principal) -> str:
    return f"{principal.cookie}-sign-in"


def _routes(
    path: str, start: Callable[..., Awaitable[object]], finish: Callable[..., Awaitable[object]]
) -> list[Route]:
    return [
        route("GET", path, Access.PUBLIC, start, tag="Accounts", status=303, media=HTML),
        route("GET", f"{path}/callback", Access.PUBLIC, finish, tag="Accounts", status=303, media=HTML),
    ]


def _redirect(location: str, *cookies: str) -> HandlerResponse[RawBody]:
    headers = (("location", location), *(("set-cookie", cookie) for cookie in cookies))
    return HandlerResponse(RawBody(b"", HTML), 303, headers)


def _session_cookies(principal: Principal, done: FinishedSignIn) -> tuple[str, ...]:
    if done.session is None:
        return ()
    row = done.session.row
    return (session_cookie(principal, done.session.token, (row.expires_at - row.created_at) // 1000),)


def _answer(query: str) -> dict[str, str]:
    """The query that a provider sent. Raises InvalidRequest if a parameter is repeated (RFC 6749, 3.1)."""
    pairs = parse_qsl(query, keep_blank_values=True) if len(query) <= MAX_ANSWER else []
    if len(dict(pairs)) != len(pairs):
        raise InvalidRequest(
            "invalid_value", "The response of the sign-in service contains a parameter twice."
        )
    return dict(pairs)


async def _or_page(
    browser: BrowserRequest, handle: Callable[[], Awaitable[HandlerResponse[RawBody]]]
) -> HandlerResponse[RawBody]:
    """An error as a page, if the client is a browser."""
    try:
        return await handle()
    except GatewayError as exc:
        if not browser.wants_html:
            raise
        page = message_page("You are not signed in", escape(exc.message))
        kept = tuple((name, value) for name, value in exc.headers.items() if name == "retry-after")
        return HandlerResponse(RawBody(page.encode(), HTML), exc.status, (*PAGE_HEADERS, *kept))
