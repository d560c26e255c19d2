"""Renders pages: a template with what every page shows, and the headers of every page."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import jinja2
from msgspec import Struct

from bluesminds.common.clock import Clock
from bluesminds.common.errors import GatewayError
from bluesminds.dashboard import charts, words
from bluesminds.dashboard.assets import PageAssets
from bluesminds.web.browser_request import BrowserRequest
from bluesminds.web.guard import Principal
from bluesminds.web.routes import HandlerResponse, RawBody

HOME: Final = "/dashboard"
LOGIN: Final = "/account/login"
HTML: Final = "text/html; charset=utf-8"
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script';"
    " trusted-types 'none'"
)
_HEADERS: Final = (
    ("content-security-policy", POLICY),
    ("cross-origin-opener-policy", "same-origin"),
    ("referrer-policy", "same-origin"),
)
_TITLES: Final = {
    400: "Invalid address",
    403: "This page is for administrators",
    404: "Not found",
    429: "Too many requests",
    503: "The database is busy",
}


MenuEntry: TypeAlias = tuple[str, str, str]
# Address, icon and text of the menu.
USER_PAGES: Final = (
    (HOME, "overview", "Overview"),
    (f"{HOME}/playground", "playground", "Playground"),
    (f"{HOME}/requests", "requests", "Requests"),
    (f"{HOME}/prompts", "prompts", "Prompt log"),
    (f"{HOME}/usage", "usage", "Usage"),
    (f"{HOME}/keys", "keys", "API keys"),
    (f"{HOME}/models", "models", "Models"),
    (f"{HOME}/billing", "subscription", "Billing"),
    (f"{HOME}/credit", "billing", "Credit"),
    (f"{HOME}/webhooks", "webhooks", "Webhooks"),
    (f"{HOME}/settings", "settings", "Settings"),
)
ADMIN_PAGES: Final = (
    (f"{HOME}/admin/usage", "usage", "Usage of all"),
    (f"{HOME}/admin/requests", "requests", "Requests of all"),
    (f"{HOME}/admin/servers", "servers", "Servers"),
    (f"{HOME}/admin/routes", "routes", "Routes"),
    (f"{HOME}/admin/models", "prices", "Models and prices"),
    (f"{HOME}/admin/users", "users", "Users"),
    (f"{HOME}/admin/tiers", "plans", "Tiers"),
    (f"{HOME}/admin/plans", "sales", "Plans"),
    (f"{HOME}/admin/ledger", "ledger", "Ledger"),
    (f"{HOME}/admin/codes", "codes", "Redeem codes"),
    (f"{HOME}/admin/drift", "drift", "Drift"),
    (f"{HOME}/admin/prompts", "prompts", "Prompts of all"),
    (f"{HOME}/admin/webhooks", "webhooks", "Webhooks of all"),
    (f"{HOME}/admin/alerts", "alerts", "Alerts"),
    (f"{HOME}/admin/audit", "audit", "Audit log"),
    (f"{HOME}/admin/mail", "mail", "Mail"),
    (f"{HOME}/admin/system", "system", "System"),
)


class PageAccount(Struct, frozen=True):
    """The signed-in user, as the menu shows it. `label` is never empty."""

    label: str
    email: str
    is_admin: bool

    @property
    def initial(self) -> str:
        return self.label[0].upper()


class Frame:
    """`public_url` is the URL of the gateway for clients, None for that of the request. `servers_down` is the
    number of servers that are down now. `expose_servers`: users see the names of servers. `left_out`:
    icons of the pages that the settings do not enable.
    """

    def __init__(
        self,
        assets: PageAssets,
        *,
        public_url: str | None,
        servers_down: Callable[[], int],
        expose_servers: bool,
        left_out: frozenset[str],
        clock: Clock,
    ) -> None:
        self._public_url = public_url
        self._expose_servers = expose_servers
        self._servers_down = servers_down
        self._clock = clock
        self._shown = {
            "assets": assets.path,
            "user_pages": _menu(USER_PAGES, left_out),
            "admin_pages": _menu(ADMIN_PAGES, left_out),
        }

    def base_url(self, browser: BrowserRequest) -> str:
        """The base URL for SDKs."""
        return f"{(self._public_url or browser.origin).rstrip('/')}/v1"

    def shows_servers(self, principal: Principal) -> bool:
        return self._expose_servers or principal.role == "admin"

    def times(self, browser: BrowserRequest) -> words.Times:
        """Times in the zone of the reader."""
        return words.Times(browser.zone, self._clock.now_ms())

    def page(
        self,
        template: str,
        browser: BrowserRequest,
        principal: Principal,
        *,
        status: int | None = None,
        **values: Any,  # noqa: ANN401 - what the template shows
    ) -> HandlerResponse[RawBody]:
        account = _account(principal)
        found = _environment().get_template(template)
        html = found.render(
            self._shown,
            path=browser.path,
            theme=browser.theme,
            csrf=principal.csrf,
            account=account,
            servers_down=self._servers_down() if account.is_admin else 0,
            base_url=self.base_url(browser),
            shows_servers=self.shows_servers(principal),
            times=self.times(browser),
            **values,
        )
        return HandlerResponse(RawBody(html.encode(), HTML), status, _HEADERS)

    def error(
        self, browser: BrowserRequest, principal: Principal | None, exc: GatewayError, request_id: str
    ) -> HandlerResponse[RawBody]:
        """The error as a page. Without a session it leads to the login page, and from there back."""
        if exc.status == 401:
            next_ = quote(browser.path + (f"?{browser.query}" if browser.query else ""), safe="/")
            return HandlerResponse(RawBody(b"", HTML), 303, (("location", f"{LOGIN}?next={next_}"),))
        title = _TITLES.get(exc.status, "The request failed")
        known = principal is not None and principal.kind != "anonymous"
        found = self.page(
            "error.html" if known else "error_alone.html",
            browser,
            principal or Principal(kind="anonymous", address=""),
            status=exc.status,
            title=title,
            message=exc.message,
            request_id=request_id,
        )
        kept = tuple((name, value) for name, value in exc.headers.items() if name in ("retry-after", "allow"))
        return HandlerResponse(found.body, found.status, (*found.headers, *kept))


@cache
def _environment() -> jinja2.Environment:
    """Templates are compiled at their first use."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bluesminds.dashboard"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(words.FILTERS)
    environment.globals.update(
        sparkline=charts.sparkline,
        percent=words.percent,
        share=words.share,
        change=words.change,
        link=link,
        request_state=words.request_state,
    )
    return environment


def _menu(pages: Sequence[MenuEntry], left_out: frozenset[str]) -> Sequence[MenuEntry]:
    return [entry for entry in pages if entry[1] not in left_out]


def _account(principal: Principal) -> PageAccount:
    label = "Local operator" if principal.kind == "operator" else principal.full_name or principal.email
    return PageAccount(label or "You", principal.email or "", principal.role == "admin")


def link(path: str, **query: str | None) -> str:
    """A path of the dashboard with a query; empty parameters are left out."""
    return address(f"{HOME}{path}", **query)


def address(path: str, **query: str | None) -> str:
    """A path with a query; empty parameters are left out."""
    given = "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items() if value)
    return f"{path}?{given}" if given else path
