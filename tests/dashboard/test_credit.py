"""The pages of prepaid credit: balance, ledger, filters, and what administrators post."""

import re

from playwright.sync_api import Page, expect

from bluesminds.accounts.audit import OPERATOR
from storage.usage import DAY
from tests.browser import Chromium
from tests.dashboard.site import DashboardSite
from tests.dashboard.test_in_browser import HOSTILE, press, violations


def amounts(text: str) -> list[str]:
    return re.findall(r"<td>([+\N{MINUS SIGN}]\$[\d.]+)</td>", text)


async def test_credit_page_shows_balance_and_entries(both_engines: DashboardSite) -> None:
    site = both_engines
    async with site.browser_client("user") as client:
        text = (await client.get("/dashboard/credit")).text
        assert "has no prepaid credit" in text and "No entries yet" in text
        await site.add_credit("user", reference="invoice <7>")
        await site.add_credit("user", "grant", 5, ends_at=site.gateway.services.clock.now_ms() + DAY)
        await site.add_credit("user", "adjustment", -1)
        await site.add_credit("other", usd=77)
        (row,) = await site.add_usage("user", 1, cost_nano=10**9, charged_nano=10**9)
        text = (await client.get("/dashboard/credit")).text
        assert '<p class="figure">$28.00</p>' in text
        assert '<p class="figure">$3.00</p>' in text, "a grant is used before other credit"
        assert "invoice &lt;7&gt;" in text and "77" not in amounts(text)
        assert f'href="/dashboard/requests/{row.id}"' in text
        assert amounts(text) == [
            "\N{MINUS SIGN}$1.00",
            "\N{MINUS SIGN}$1.00",
            "+$5.00",
            "+$25.00",
        ]
        assert amounts((await client.get("/dashboard/credit?kind=grant")).text) == ["+$5.00"]
        assert "Nothing matches" in (await client.get("/dashboard/credit?since=2099-01-01")).text
        assert "a day that exists" in (await client.get("/dashboard/credit?until=2026-02-30")).text
        csv = re.findall(r'href="([^"]+)" download', (await client.get("/dashboard/credit?kind=grant")).text)
        assert (await client.get(csv[0])).text.count("\n") == 2


async def test_credit_that_is_used_up_is_said(site: DashboardSite) -> None:
    await site.add_credit("user", usd=1)
    await site.add_credit("user", "adjustment", -1)
    async with site.browser_client("user") as client:
        assert "The credit is used up" in (await client.get("/dashboard/credit")).text


async def test_ledger_page_shows_all_users_and_filters(both_engines: DashboardSite) -> None:
    site = both_engines
    for number in range(26):
        await site.add_credit("user", usd=1 + number)
        await site.add_credit("other", usd=1 + number)
    async with site.browser_client("admin") as client:
        text = (await client.get("/dashboard/admin/ledger")).text
        assert len(amounts(text)) == 50
        assert "user@example.com" in text and "other@example.com" in text
        (more,) = re.findall(r'rel="next" href="([^"]+)"', text)
        assert len(amounts((await client.get(more.replace("&amp;", "&"))).text)) == 2
        text = (await client.get("/dashboard/admin/ledger?user=other@example.com")).text
        assert len(amounts(text)) == 26 and "user@example.com</a>" not in text
        text = (await client.get("/dashboard/admin/ledger?user=none@example.com")).text
        assert "Nothing matches" in text


async def test_administrator_posts_an_entry_after_a_second_look(
    site: DashboardSite, chromium: Chromium
) -> None:
    user_id = site.callers.users["user"]

    def work(page: Page) -> None:
        page.goto(f"{site.gateway.url}/dashboard/admin/users/{user_id}")
        page.get_by_role("button", name="Post an entry").press("Enter")
        page.get_by_label("Amount, USD").fill("much")
        page.get_by_label("Reference").fill(HOSTILE)
        press(page, "Enter")
        page.get_by_role("button", name="Post the entry").press("Enter")
        expect(page.get_by_label("Amount, USD")).to_be_focused()
        expect(page.get_by_label("Amount, USD")).to_have_attribute("aria-invalid", "true")
        page.get_by_label("Amount, USD").fill("5")
        press(page, "Enter")
        expect(page.get_by_text("Give 5 USD? It is used before other credit.")).to_be_focused()
        assert violations(page) == []
        page.get_by_label("Kind").select_option("refund")
        expect(page.get_by_text("Give 5 USD?")).to_be_hidden()
        page.get_by_role("button", name="Continue").press("Enter")
        expect(page.get_by_text("Give back 5 USD that was charged?")).to_be_visible()
        page.get_by_role("button", name="Post the entry").press("Enter")
        expect(page.get_by_text("The entry is posted.")).to_be_visible()
        expect(page.get_by_text("$5.00").first).to_be_visible()
        page.get_by_role("link", name="Ledger", exact=True).last.press("Enter")
        expect(page.get_by_role("cell", name=HOSTILE)).to_be_visible()
        page.get_by_role("button", name="Verify").press("Enter")
        expect(page.get_by_text("The ledger is correct. Entries: 1. Balances: 1.")).to_be_visible()
        assert violations(page) == []
        assert page.evaluate("window.pwned") is None

    await site.look(chromium, "admin", work, bypass_csp=True)
    async with site.browser_client("user") as client:
        assert "+$5.00" in (await client.get("/dashboard/credit")).text


async def test_code_is_redeemed_on_the_credit_page(site: DashboardSite, chromium: Chromium) -> None:
    async with site.browser_client("user") as client:
        assert "Redeem a code" not in (await client.get("/dashboard/credit")).text, "there is none"
    codes = site.gateway.services.accounts.redeem_codes
    (code,) = (await codes.create(OPERATOR, HOSTILE, 5 * 10**9, 1, expires_at=None, ends_at=None)).codes

    def work(page: Page) -> None:
        page.goto(f"{site.gateway.url}/dashboard/credit")
        page.get_by_label("Code", exact=True).fill("BM-0000")
        page.get_by_role("button", name="Redeem the code").press("Enter")
        expect(page.get_by_text("This code does not exist.")).to_be_visible()
        page.get_by_label("Code", exact=True).fill(code)
        page.get_by_role("button", name="Redeem the code").press("Enter")
        expect(page.get_by_text("+$5.00")).to_be_visible()
        expect(page.get_by_text("The code is redeemed.")).to_be_visible()
        assert violations(page) == []

    await site.look(chromium, "user", work, bypass_csp=True)
