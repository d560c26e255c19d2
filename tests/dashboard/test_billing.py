"""The pages of billing: only with [billing], and what they show and send."""

import json
import re
from pathlib import Path

import pytest
import trio
from playwright.sync_api import Page, expect

from tests import gateways
from tests.browser import Chromium
from tests.dashboard.site import DashboardSite
from tests.dashboard.test_in_browser import violations
from tests.dashboard.test_pages import check_page
from tests.deployment import create_callers


async def test_pages_of_billing_show_plan_payments_and_invoices(nursery: trio.Nursery, home: Path) -> None:
    billing = {"enabled": True, "manual": True, "seller": ["Example & Co"]}
    gateway = await gateways.start(nursery, home, servers=[], billing=billing)
    site = DashboardSite(await create_callers(gateway, ("user", "admin")))
    async with site.browser_client("user") as user, site.browser_client("admin") as admin:
        page = await user.get("/dashboard/billing")
        check_page(page)
        assert "Your account has no plan." in page.text
        for method, path, body in sent_by(page.text):
            answer = await user.request(method, path, json=body)
            assert answer.status_code < 300 or path.endswith("refresh"), (path, answer.text)
        orders = await admin.get("/dashboard/admin/plans")
        check_page(orders)
        assert orders.text.count("Mark as paid</button>") == 3
        (first, *_) = re.findall(r'data-send="POST ([^"]+)/paid"', orders.text)
        assert (await admin.post(f"{first}/paid")).status_code == 200
        shown = await user.get("/dashboard/billing?checkout_id=ch_1&signature=x")
        check_page(shown)
        assert "You are on Starter." in shown.text
        assert "data-returned" in shown.text
        linked = await user.get("/dashboard/billing?ref=ABCD2345&utm_source=a&utm_source=b&gclid=%00")
        check_page(linked)
        assert "data-returned" not in linked.text
        (invoice,) = re.findall(r'href="(/dashboard/billing/invoices/[^"]+)"', shown.text)
        printed = await user.get(invoice)
        check_page(printed)
        assert "Example &amp; Co" in printed.text
        assert "29.00 USD" in printed.text
        payments = await admin.get(f"/dashboard/admin/users/{site.callers.users['user']}/billing")
        check_page(payments)
        assert "/refund" in payments.text
        pdf = await user.get(invoice.replace("/dashboard/", "/api/") + "/pdf")
        assert pdf.headers["content-type"] == "application/pdf"
        assert pdf.content.startswith(b"%PDF-")
        assert (await admin.get(invoice)).status_code == 404
        check_page(await admin.get("/dashboard/admin/plans"))


def sent_by(text: str) -> list[tuple[str, str, object]]:
    """What the buttons with a body send."""
    found = re.findall(r'data-send="(\w+) ([^"]+)"(?: data-body=\'([^\']+)\')', text)
    return [(method, path, json.loads(body)) for method, path, body in found]


async def test_dashboard_without_billing_has_no_pages_of_it(nursery: trio.Nursery, home: Path) -> None:
    gateway = await gateways.start(nursery, home, servers=[])
    site = DashboardSite(await create_callers(gateway, ("user", "admin")))
    async with site.browser_client("admin") as admin:
        assert "/dashboard/admin/plans" not in (await admin.get("/dashboard")).text
        assert (await admin.get("/dashboard/billing")).status_code == 404


@pytest.mark.process
async def test_pages_of_billing_are_accessible_and_take_an_order(
    nursery: trio.Nursery, home: Path, chromium: Chromium
) -> None:
    billing = {"enabled": True, "manual": True, "instructions": "Transfer it to IBAN DE02."}
    gateway = await gateways.start(nursery, home, servers=[], billing=billing)
    site = DashboardSite(await create_callers(gateway, ("user", "admin")))

    def order(page: Page) -> None:
        for size in ({"width": 1280, "height": 800}, {"width": 360, "height": 740}):
            page.set_viewport_size(size)  # type: ignore[arg-type]
            page.goto(f"{gateway.url}/dashboard/billing")
            assert violations(page) == []
            assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
        page.get_by_label("Lines instead of your name").fill("Example Ltd\n1 Main Street, Dublin")
        page.get_by_role("button", name="Save the lines").click()
        expect(page.get_by_text("Your next invoices have these lines.")).to_be_visible()
        expect(page.get_by_label("Lines instead of your name")).to_have_value(
            "Example Ltd\n1 Main Street, Dublin"
        )
        page.get_by_role("button", name="Buy Pro").click()
        expect(page.get_by_text("Transfer it to IBAN DE02.")).to_be_visible()
        assert violations(page) == []

    def confirm(page: Page) -> None:
        page.goto(f"{gateway.url}/dashboard/admin/plans")
        assert violations(page) == []
        page.get_by_role("button", name=re.compile("Mark the order")).click()
        expect(page.get_by_text("The order is paid.")).to_be_visible()

    def look(page: Page) -> None:
        page.goto(f"{gateway.url}/dashboard/billing")
        expect(page.get_by_text("You are on Pro.")).to_be_visible()
        assert violations(page) == []
        page.get_by_role("link", name="INV-000001", exact=True).click()
        expect(page.get_by_text("1 Main Street, Dublin")).to_be_visible()
        assert violations(page) == []

    def refund(page: Page) -> None:
        page.goto(f"{gateway.url}/dashboard/admin/users/{site.callers.users['user']}/billing")
        assert violations(page) == []
        page.get_by_role("button", name="Refund 99.00 for Pro").click()
        assert violations(page) == []
        page.get_by_role("button", name="Refund", exact=True).click()
        expect(page.get_by_text("The payment is refunded.")).to_be_visible()
        expect(page.get_by_text("The plan is Free.")).to_be_visible()

    await site.look(chromium, "user", order, bypass_csp=True)
    await site.look(chromium, "admin", confirm, bypass_csp=True)
    await site.look(chromium, "user", look, bypass_csp=True)
    await site.look(chromium, "admin", refund, bypass_csp=True)
