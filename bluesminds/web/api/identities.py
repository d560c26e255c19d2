"""/api/auth/identities: the identities at other services that the user's account is linked to."""

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, Struct

from bluesminds.accounts.federated import FederatedSignIn
from bluesminds.accounts.identities import Identities
from bluesminds.accounts.login import Login
from bluesminds.common.clock import format_time
from bluesminds.web.api.federated import attempt_cookie, callback_url
from bluesminds.web.browser_request import BrowserRequest
from bluesminds.web.fields import Password
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, Page, Route, route
from storage.identities import IdentityRow

SECONDS = 600
SETTINGS = "/dashboard/settings"


class LinkRequest(Struct, forbid_unknown_fields=True):
    """`password` is not needed in the first 15 minutes of a session."""

    provider: Annotated[str, Meta(max_length=32, description="the name of a sign-in service")]
    password: Password | None = None


class UnlinkRequest(Struct, forbid_unknown_fields=True):
    """`password` is not needed in the first 15 minutes of a session."""

    password: Password | None = None


class LinkStart(Struct, frozen=True):
    """`url` is where the browser must go next."""

    url: str


class IdentityView(Struct, frozen=True):
    """`email` is what the service last said."""

    id: str
    provider: str
    title: str
    email: str | None
    created_at: str
    last_used_at: str


class IdentityHandlers(Struct, frozen=True):
    """`public_url` is None without one in the settings."""

    identities: Identities
    federated: FederatedSignIn
    login: Login
    public_url: str | None

    async def list(self, principal: Principal) -> Page[IdentityView]:
        """List the services that your account is linked to."""
        titles = {policy.name: policy.title for policy in self.federated.providers}
        return Page([identity_view(row, titles) for row in await self.identities.list(principal.user_id)])

    async def link(
        self, principal: Principal, body: LinkRequest, browser: BrowserRequest
    ) -> HandlerResponse[LinkStart]:
        """Start to link your account to a service. The browser must then open the URL of the response."""
        await self.login.require_recent(
            principal.actor, principal.user_id, principal.session_id, body.password
        )
        started = await self.federated.start(
            body.provider,
            redirect_uri=callback_url(self.public_url, browser, body.provider),
            next_page=SETTINGS,
            user_id=principal.user_id,
            session_id=principal.session_id,
        )
        cookie = attempt_cookie(principal, started.cookie, SECONDS)
        return HandlerResponse(LinkStart(started.url), headers=(("set-cookie", cookie),))

    async def unlink(self, principal: Principal, body: UnlinkRequest, identity_id: str) -> None:
        """Remove the link to a service. You cannot sign in there any more."""
        await self.login.require_recent(
            principal.actor, principal.user_id, principal.session_id, body.password
        )
        await self.identities.unlink(principal.actor, principal.user_id, identity_id)


def routes(handlers: IdentityHandlers) -> list[Route]:
    path = "/api/auth/identities"
    return [
        route("GET", path, Access.SESSION, handlers.list, tag="Accounts"),
        route("POST", path, Access.SESSION, handlers.link, tag="Accounts"),
        route("POST", f"{path}/{{identity_id}}/unlink", Access.SESSION, handlers.unlink, tag="Accounts"),
    ]


def identity_view(row: IdentityRow, titles: Mapping[str, str]) -> IdentityView:
    """`titles`: of the services in the settings, by name."""
    return IdentityView(
        id=row.id,
        provider=row.provider,
        title=titles.get(row.provider, row.provider),
        email=row.email,
        created_at=format_time(row.created_at),
        last_used_at=format_time(row.last_used_at),
    )
