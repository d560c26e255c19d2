"""The pages of statements, drift and redeem codes."""

import re
from pathlib import Path

from playwright.sync_api import Page, expect

from bluesminds.accounts.audit import OPERATOR
from storage.usage import DAY
from tests.browser import Chromium
from tests.dashboard.site import DashboardSite
from tests.dashboard.test_in_browser import HOSTILE, press, violations


async def test_statement_page_adds_up_and_can_be_downloaded(both_engines: DashboardSite) -> None:
    site = both_engines
    await site.add_credit("user", usd=25)
    await site.add_usage("user", 2, cost_nano=10**9, charged_nano=10**9, model="<m>")
    month = site.gateway.services.accounts.statements.this_month()
    path, user_id = f"/dashboard/credit/statements?month={month}", site.callers.users["user"]
    async with site.browser_client("user") as client:
        text = (await client.get(path)).text
        assert "Balance now" in text and "<td>$23.00</td>" in text and "&lt;m&gt;" in text
        assert text.count(f'value="{month}"') == 1
        found = [link.replace("&amp;", "&") for link in re.findall(r'href="(/api/[^"]+)" download', text)]
        csv, lines, summary = [(await client.get(link)) for link in found]
        assert csv.text.count("\n") == lines.text.count("\n") + 1 == 4
        assert summary.json()["closing_usd"] == "23"
        text = (await client.get("/dashboard/credit/statements?month=2024-02")).text
        assert "Statement of February 2024" in text and "Balance at the end" in text
        assert "No requests in this month" in text
        assert (await client.get("/dashboard/credit/statements?month=2024-13")).status_code == 400
    async with site.browser_client("admin") as client:
        text = (await client.get(f"/dashboard/admin/users/{user_id}/statements")).text
        assert "<td>$23.00</td>" in text
        assert f"/api/admin/users/{user_id}/statement/export?month={month}&amp;format=csv" in text


async def test_drift_page_shows_rows_that_differ_first(both_engines: DashboardSite) -> None:
    meters = {"own_input_tokens": 10, "own_output_tokens": 20, "input_tokens": 10, "output_tokens": 20}
    await both_engines.add_usage("user", 25, model="agrees", **meters, cost_nano=10, reported_cost_nano=10)
    await both_engines.add_usage("user", 25, model="differs", **meters, cost_nano=10, reported_cost_nano=20)
    await both_engines.add_usage("user", 2, model="few", **meters)
    async with both_engines.browser_client("admin") as client:
        text = (await client.get("/dashboard/admin/drift")).text
        found = re.findall(
            r'<th scope="row" class="clip">(?:<a[^>]*>)?(\w+)<.*?<span class="state (\w+)', text
        )
        assert found == [("differs", "warn"), ("agrees", "good"), ("few", "good")]
        assert "2.00\N{MULTIPLICATION SIGN}</small>" in text and "1 row differs" in text
        text = (await client.get("/dashboard/admin/drift?model=few&days=30")).text
        assert "too few" in text and "differs</span>" not in text
        text = (await client.get("/dashboard/admin/drift?server=none")).text
        assert "Nothing matches" in text


async def test_redeem_codes_are_made_shown_once_and_downloaded(
    site: DashboardSite, chromium: Chromium, tmp_path: Path
) -> None:
    def work(page: Page) -> list[str]:
        page.goto(f"{site.gateway.url}/dashboard/admin/codes")
        page.get_by_role("button", name="New codes").first.press("Enter")
        page.get_by_label("Name", exact=True).fill(HOSTILE)
        page.get_by_label("Each code gives, USD").fill("much")
        page.get_by_label("Number of codes").fill("3")
        press(page, "Enter")
        expect(page.get_by_label("Each code gives, USD")).to_be_focused()
        page.get_by_label("Each code gives, USD").fill("5")
        press(page, "Enter")
        expect(page.get_by_role("heading", name="Your new codes")).to_be_focused()
        assert violations(page) == []
        codes = str(page.get_by_label("Codes", exact=True).text_content()).split()
        press(page, "Escape")
        expect(page.get_by_text("You have not copied or downloaded them.")).to_be_visible()
        with page.expect_download() as download:
            page.get_by_role("link", name="Download").press("Enter")
        download.value.save_as(tmp_path / "codes.txt")
        page.get_by_role("button", name="Done").press("Enter")
        page.get_by_role("link", name=HOSTILE).press("Enter")
        expect(page.get_by_text("No redeemed codes yet")).to_be_visible()
        assert codes[0] not in page.content()
        page.get_by_role("button", name="Revoke").press("Enter")
        expect(page.get_by_role("button", name="Cancel")).to_be_focused()
        page.get_by_role("button", name="Revoke the codes").press("Enter")
        expect(page.get_by_text("The codes are revoked.")).to_be_visible()
        assert page.evaluate("window.pwned") is None
        return codes

    codes = await site.look(chromium, "admin", work, bypass_csp=True, accept_downloads=True)
    assert len(codes) == 3
    assert (tmp_path / "codes.txt").read_text().split() == codes


async def test_redeem_codes_page_says_who_redeemed_which(both_engines: DashboardSite) -> None:
    codes = await both_engines.add_codes("<b>", 60)
    redeem = both_engines.gateway.services.accounts.redeem_codes
    for code in codes[1:53]:
        await redeem.redeem(OPERATOR, both_engines.callers.users["other"], code)
    soon = both_engines.gateway.services.clock.now_ms() + DAY
    await redeem.create(OPERATOR, "ends", 1, 1, expires_at=soon, ends_at=soon)
    path = f"/dashboard/admin/codes/{both_engines.batch_id}"
    async with both_engines.browser_client("admin") as client:
        text = (await client.get("/dashboard/admin/codes")).text
        assert "&lt;b&gt;" in text and "<td>53</td>" in text and "no end" in text
        text = (await client.get(path)).text
        assert f"…{codes[0][-4:]}" in text and codes[0] not in text
        assert "user@example.com" in text and text.count('<th scope="row"') == 50
        (more,) = re.findall(r'rel="next" href="([^"]+)"', text)
        assert (await client.get(more.replace("&amp;", "&"))).text.count('<th scope="row"') == 3
        assert (await client.get("/dashboard/admin/codes/none")).status_code == 404
