"""The page of alerts."""

from playwright.sync_api import Page, expect

from tests.browser import Chromium
from tests.dashboard.site import DashboardSite
from tests.dashboard.test_pages import check_page

RULE = {"name": "busy", "kind": "queue", "above": 1e9, "channels": ["mail"]}


async def test_alert_of_an_administrator_is_shown_with_its_values(site: DashboardSite) -> None:
    async with site.browser_client("admin") as client:
        assert (await client.post("/api/admin/alerts", json=RULE)).status_code == 201
        shown = await client.get("/dashboard/admin/alerts")
        check_page(shown)
        assert 'name="above" value="1000000000"' in shown.text


async def test_alert_is_added_changed_and_tested_with_the_keyboard(
    site: DashboardSite, chromium: Chromium
) -> None:
    def work(page: Page) -> None:
        page.goto(f"{site.gateway.url}/dashboard/admin/alerts")
        page.get_by_role("button", name="New alert").first.press("Enter")
        new = page.get_by_role("dialog", name="New alert")
        new.get_by_label("Name").fill("busy")
        new.get_by_label("Above").fill("5")
        new.get_by_label("Above").press("Enter")
        page.get_by_role("button", name="Change busy").press("Enter")
        change = page.get_by_role("dialog", name="Change busy")
        change.get_by_label("Above").fill("7.5")
        change.get_by_label("Channels").fill("nothing")
        change.get_by_label("Above").press("Enter")
        expect(change.get_by_label("Channels")).to_be_focused()
        expect(change).to_contain_text("There is no channel 'nothing'.")
        change.get_by_label("Channels").fill("mail")
        change.get_by_label("Channels").press("Enter")
        expect(page.get_by_role("row", name="busy")).to_contain_text("above 7.5% of the requests fail")
        page.get_by_role("button", name="Test busy").press("Enter")
        expect(page.get_by_text("mail: the message was sent.")).to_be_visible()

    await site.look(chromium, "admin", work)
