"""A gateway with users, a browser, and clients that ask for pages as browsers do."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests import browser, gateways
from tests.browser import Chromium
from tests.dashboard.site import DashboardSite
from tests.deployment import create_callers
from tests.fakes.model_server import ModelServer
from tests.gateway.conftest import models
from tests.gateways import entry
from tests.storage.conftest import postgres, postgres_url

__all__ = ["models", "postgres", "postgres_url"]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with browser.running() as found:
        yield found


@pytest.fixture(params=["sqlite", "postgres"])
async def both_engines(
    request: pytest.FixtureRequest, nursery: trio.Nursery, home: Path, models: ModelServer
) -> DashboardSite:
    storage = {} if request.param == "sqlite" else {"url": request.getfixturevalue("postgres_url")}
    servers = [entry("one", models.url)]
    accounts = {"signup": "open"}
    gateway = await gateways.start(nursery, home, servers=servers, storage=storage, accounts=accounts)
    return DashboardSite(await create_callers(gateway, ("user", "other", "admin")))


@pytest.fixture
async def site(nursery: trio.Nursery, home: Path, models: ModelServer) -> DashboardSite:
    servers = [entry("one", models.url)]
    gateway = await gateways.start(nursery, home, servers=servers, accounts={"signup": "open"})
    return DashboardSite(await create_callers(gateway, ("user", "other", "admin")))
