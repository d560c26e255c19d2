"""Settings of the own account: profile, password, sessions, appearance, and its deletion."""

from zoneinfo import available_timezones

from msgspec import Struct

from bluesminds.accounts.sessions import Sessions
from bluesminds.accounts.users import Users
from bluesminds.dashboard.frame import HOME, HTML, Frame
from bluesminds.web.browser_request import BrowserRequest
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, RawBody, Route, route


class SettingsPage(Struct, frozen=True):
    frame: Frame
    users: Users
    sessions: Sessions

    async def show(self, principal: Principal, browser: BrowserRequest) -> HandlerResponse[RawBody]:
        """Settings of the own account."""
        user = await self.users.get(principal.user_id)
        return self.frame.page(
            "settings.html",
            browser,
            principal,
            user=user,
            has_password=user.password_hash is not None,
            sessions=await self.sessions.list(user.id),
            current=principal.session_id,
            zones=sorted(zone for zone in available_timezones() if "/" in zone and zone[:3] != "Etc"),
        )


def routes(page: SettingsPage) -> list[Route]:
    return [route("GET", f"{HOME}/settings", Access.SESSION, page.show, tag="Pages", media=HTML)]
