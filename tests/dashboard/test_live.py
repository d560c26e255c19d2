"""Pages that change by themselves: the list of requests, and the health of servers."""

from pathlib import Path

import pytest
import trio
from playwright.sync_api import Page, expect

from bluesminds.common.errors import RateLimited
from bluesminds.dashboard.requests import TAILS, TAILS_OF_USER, OpenTails
from tests import gateways
from tests.browser import Chromium
from tests.dashboard.test_in_browser import HOSTILE
from tests.dashboard.visitors import DashboardSite
from tests.deployment import create_callers
from tests.fakes.model_server import ModelServer
from tests.gateways import entry

MODEL = f"m{HOSTILE}"


def test_live_pages_of_a_user_are_bounded() -> None:
    tails = OpenTails()
    opened = [tails.one("ada") for _ in range(TAILS_OF_USER)]
    for one in opened:
        one.__enter__()
    with pytest.raises(RateLimited), tails.one("ada"):
        pass
    with tails.one("bob"):
        pass
    opened.pop().__exit__(None, None, None)
    with tails.one("ada"):
        pass
    others = [tails.one(f"user-{number}") for number in range(TAILS - len(opened))]
    for one in others:
        one.__enter__()
    with pytest.raises(RateLimited), tails.one("bob"):
        pass


async def test_live_requests_are_sent_when_they_are_not_on_the_page(both_engines: DashboardSite) -> None:
    site = both_engines
    await site.add_usage("other", 1)
    async with site.visitor("user") as client:
        empty = (await client.get("/dashboard/live/requests?mark=0")).json()
        assert empty["rows"] == []
        await site.add_usage("user", 2, model=MODEL, cost_nano=1_800_000)
        found = (await client.get(f"/dashboard/live/requests?mark={empty['mark']}")).json()
        assert [(row["model"], row["cost"], row["key"]) for row in found["rows"]] == 2 * [
            (MODEL, "$0.0018", "good")
        ]
        other = (await client.get("/dashboard/live/requests?status=failed")).json()
        assert other == empty | {"rows": []}
        assert (await client.get("/dashboard/live/requests?mark=x")).status_code == 400


async def test_new_request_appears_in_the_list_while_live_is_on(
    site: DashboardSite, chromium: Chromium
) -> None:
    await site.add_usage("user", 1, model="first")

    def watch(page: Page) -> None:
        page.goto(f"{site.gateway.url}/dashboard/requests")
        expect(page.locator("tbody tr")).to_have_count(1)
        page.get_by_label("Live").press("Space")
        answer = page.request.post(
            f"{site.gateway.url}/v1/chat/completions",
            headers={"authorization": f"Bearer {site.callers.keys['good']}"},
            data={"model": "m", "messages": [{"role": "user", "content": "hello"}]},
        )
        assert answer.ok
        expect(page.locator("tbody tr")).to_have_count(2)
        row = page.locator("tbody tr").first
        expect(row.get_by_role("cell", name="m", exact=True)).to_be_visible()
        assert page.evaluate("window.pwned") is None
        row.get_by_role("link").first.press("Enter")
        expect(page.get_by_role("link", name="Download JSON")).to_be_visible()

    await site.look(chromium, "user", watch)


async def test_server_is_drained_activated_and_turned_off(
    site: DashboardSite, chromium: Chromium, models: ModelServer
) -> None:
    async with site.gateway.operator() as operator:
        made = await operator.post("/api/admin/servers", json={"name": "two", "url": models.url})
        assert made.status_code == 201, made.text

    def work(page: Page) -> None:
        page.goto(f"{site.gateway.url}/dashboard/admin/servers/two")
        page.get_by_role("button", name="Drain").press("Enter")
        expect(page.get_by_text("This server is draining")).to_be_visible()
        page.get_by_role("button", name="Activate").press("Enter")
        expect(page.get_by_role("button", name="Drain")).to_be_visible()
        page.get_by_role("button", name="Turn off").press("Enter")
        expect(page.get_by_role("button", name="Cancel")).to_be_focused()
        page.get_by_role("button", name="Turn it off").press("Enter")
        expect(page.get_by_text("This server is turned off")).to_be_visible()
        page.goto(f"{site.gateway.url}/dashboard/admin/servers")
        expect(page.get_by_role("row", name="two")).to_contain_text("Off")

    await site.look(chromium, "admin", work)


async def test_servers_page_follows_the_health(
    nursery: trio.Nursery, home: Path, models: ModelServer, chromium: Chromium
) -> None:
    servers = [entry("one", models.url)]
    gateway = await gateways.start(nursery, home, servers=servers)
    site = DashboardSite(await create_callers(gateway, ("user", "admin")))

    def watch(page: Page) -> None:
        page.goto(f"{gateway.url}/dashboard/admin/servers")
        mark = page.locator("[data-state=one]")
        expect(mark).to_have_text("Up")
        page.evaluate("document.querySelector('[data-state=one]').textContent = 'Down'")
        expect(mark).to_have_text("Up")
        expect(page.locator("[data-running=one]")).to_contain_text("0 of ")

    await site.look(chromium, "admin", watch)
