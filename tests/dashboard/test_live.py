"""Pages that change by themselves: the list of requests, and the health of servers."""

from pathlib import Path

import trio
from playwright.sync_api import Page, expect

from tests import gateways
from tests.browser import Chromium
from tests.dashboard.site import DashboardSite
from tests.dashboard.test_in_browser import HOSTILE
from tests.deployment import create_callers
from tests.fakes.model_server import ModelServer
from tests.gateways import entry, eventually
from tests.web.api.test_live import reading

MODEL = f"m{HOSTILE}"


async def test_live_requests_are_those_of_the_page_and_then_new_ones(both_engines: DashboardSite) -> None:
    site = both_engines
    await site.add_usage("other", 1)
    await site.add_usage("user", 2, model=MODEL, cost_nano=1_800_000)
    async with site.browser_client("user") as client:
        async with reading(client, "/dashboard/live/requests") as reader:
            await eventually(lambda: len(reader.data) == 2)
            assert {(row["model"], row["cost"], row["key_id"]) for row in reader.data} == {
                (MODEL, "$0.0018", site.key_id)
            }
            await site.gateway.chat(key=site.callers.keys["good"])
            await eventually(lambda: len(reader.data) == 3)
            assert reader.data[-1]["model"] == "m"
        await site.add_usage("user", 1, status=502, outcome="upstream_error")
        async with reading(client, "/dashboard/live/requests?status=failed") as reader:
            await eventually(lambda: len(reader.data) == 1)
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
        expect(page.locator("[data-running=two]")).to_have_text("\N{EN DASH}")

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
        page.evaluate("document.querySelector('[data-down]').hidden = false")
        page.evaluate("document.querySelector('[data-state=one]').textContent = 'Down'")
        expect(mark).to_have_text("Up")
        expect(page.locator("[data-down]")).to_be_hidden()
        expect(page.locator("[data-running=one]")).to_contain_text("0 of ")

    await site.look(chromium, "admin", watch)
