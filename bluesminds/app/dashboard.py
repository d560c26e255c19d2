"""Builds the dashboard from the services and the running gateway."""

from collections.abc import Callable

from msgspec import Struct

from bluesminds.app.routing import Routing
from bluesminds.app.services import Services
from bluesminds.common.values import InUse
from bluesminds.dashboard import keys, overview
from bluesminds.dashboard.assets import PageAssets
from bluesminds.dashboard.frame import HOME, Frame
from bluesminds.web.app import BrowserPages
from bluesminds.web.routes import Route


class Dashboard(Struct, frozen=True):
    """`pages` redirects browsers to the dashboard and writes its errors."""

    routes: list[Route]
    pages: BrowserPages


def build_dashboard(
    services: Services, routing: Routing, usage_now: Callable[[str], InUse]
) -> Dashboard | None:
    """None if the settings turn it off. `usage_now` is what "key:ID" or "user:ID" uses at this moment."""
    if not services.settings.dashboard.enabled:
        return None
    assets, accounts = PageAssets(), services.accounts
    frame = Frame(
        assets,
        public_url=services.settings.server.public_url,
        servers_down=lambda: routing.states()["down"],
        clock=services.clock,
    )
    routes = [
        *assets.routes(),
        *overview.routes(
            overview.OverviewPage(
                frame=frame,
                usage=accounts.usage,
                keys=accounts.keys,
                limits=accounts.limits,
                calendar=services.calendar,
                clock=services.clock,
                usage_now=usage_now,
                example_model=routing.example_model,
            )
        ),
        *keys.routes(
            keys.KeysPages(
                frame=frame,
                keys=accounts.keys,
                reports=accounts.key_reports,
                limits=accounts.limits,
                usage=accounts.usage,
                calendar=services.calendar,
                clock=services.clock,
                usage_now=usage_now,
                example_model=routing.example_model,
            )
        ),
    ]
    return Dashboard(routes, BrowserPages(HOME, frame.error))
