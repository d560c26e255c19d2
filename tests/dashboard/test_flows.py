"""What people do without a manual, in Chromium, by keyboard, and in few steps. Each flow starts at the
overview.
"""

from pathlib import Path

import pytest
import trio
from playwright.sync_api import Page, expect

from tests import gateways
from tests.browser import Chromium
from tests.dashboard.site import DashboardSite
from tests.dashboard.test_in_browser import press
from tests.deployment import create_callers
from tests.fakes.model_server import ModelServer
from tests.gateways import entry

ASK = {"messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
async def priced(nursery: trio.Nursery, home: Path, models: ModelServer) -> DashboardSite:
    """With a price for `m`, and a model `x` at a server that is down."""
    servers = [entry("one", models.url), entry("gone", "http://127.0.0.1:9/v1", models=["x"])]
    prices = [{"model": name, "input_usd": "1.25", "output_usd": "10"} for name in ("m", "x")]
    gateway = await gateways.start(nursery, home, servers=servers, prices=prices)
    return DashboardSite(await create_callers(gateway, ("user", "other", "admin")))


def call(page: Page, key: str, model: str) -> int:
    """The status of a request with this key, from outside of the page."""
    found = page.request.post(
        "/v1/chat/completions", headers={"authorization": f"Bearer {key}"}, data=ASK | {"model": model}
    )
    return found.status


def open_first_row(page: Page) -> None:
    """By keyboard. The script for the key is loaded at its first use."""
    press(page, "j")
    expect(page.locator(".rows tr.at a:focus")).to_have_count(1)
    press(page, "Enter")


async def test_user_makes_a_key_with_a_budget_and_calls_a_model(
    priced: DashboardSite, chromium: Chromium
) -> None:
    def work(page: Page) -> None:
        page.goto(f"{priced.gateway.url}/dashboard")
        page.get_by_role("link", name="New key").first.press("Enter")
        expect(page.locator("[name=name]:focus")).to_have_count(1)
        page.keyboard.type("laptop")
        page.get_by_label("Budget per month, USD").fill("5")
        press(page, "Enter")
        expect(page.get_by_role("heading", name="Your new key")).to_be_focused()
        key = str(page.locator(".secret code").text_content())
        assert call(page, key, "m") == 200
        page.goto(f"{priced.gateway.url}/dashboard/keys")
        expect(page.get_by_role("row", name="laptop")).to_contain_text("of $5.00")

    await priced.look(chromium, "user", work, base_url=priced.gateway.url)


async def test_user_finds_a_failed_request_and_reads_why_it_failed(
    priced: DashboardSite, chromium: Chromium
) -> None:
    await priced.add_usage("user", 3)
    assert (
        await priced.gateway.chat(ASK | {"model": "x"}, key=priced.callers.keys["good"])
    ).status_code >= 500
    await priced.gateway.settled(4)

    def work(page: Page) -> None:
        page.goto(f"{priced.gateway.url}/dashboard")
        page.get_by_role("region", name="Failed").get_by_role("link").press("Enter")
        expect(page.locator(".rows tbody tr")).to_have_count(1)
        open_first_row(page)
        expect(page.get_by_text("gone failed after").first).to_be_visible()

    await priced.look(chromium, "user", work)


async def test_user_sees_which_key_spent_most(priced: DashboardSite, chromium: Chromium) -> None:
    key_id, _ = await priced.gateway.new_key(name="expensive", user_id=priced.callers.users["user"])
    await priced.add_usage("user", 5, cost_nano=10**6)
    await priced.add_usage("user", 1, cost_nano=10**9, key_id=key_id)

    def work(page: Page) -> None:
        page.goto(f"{priced.gateway.url}/dashboard")
        press(page, "g", "u")
        page.get_by_role("link", name="By key").press("Enter")
        expect(page.locator(".rows tbody tr").first).to_contain_text("expensive")
        expect(page.locator(".rows tbody tr").first).to_contain_text("$1.00")

    await priced.look(chromium, "user", work)


async def test_user_proves_what_a_request_cost(priced: DashboardSite, chromium: Chromium) -> None:
    await priced.gateway.chat(key=priced.callers.keys["good"])
    (row,) = await priced.gateway.settled(1)
    total = f"{row['cost_nano'] / 10**9:.9f}".rstrip("0")

    def work(page: Page) -> None:
        page.goto(f"{priced.gateway.url}/dashboard")
        press(page, "g", "r")
        expect(page.get_by_role("heading", level=1)).to_have_text("Requests")
        open_first_row(page)
        costs = page.get_by_role("region", name="What it cost")
        expect(costs.get_by_role("row", name="Input")).to_contain_text("$1.25")
        expect(costs.get_by_role("row", name="Total")).to_contain_text(total)

    await priced.look(chromium, "user", work)


async def test_administrator_adds_a_server_and_sees_it_answer(
    priced: DashboardSite, chromium: Chromium, models: ModelServer
) -> None:
    def work(page: Page) -> None:
        page.goto(f"{priced.gateway.url}/dashboard")
        page.get_by_role("link", name="Servers").press("Enter")
        page.get_by_role("button", name="Add a server").press("Enter")
        expect(page.locator("[name=name]:focus")).to_have_count(1)
        page.keyboard.type("second")
        page.get_by_label("URL").fill(models.url)
        press(page, "Enter")
        page.get_by_role("button", name="Test second").press("Enter")
        expect(page.get_by_text("second answered in")).to_be_visible()

    await priced.look(chromium, "admin", work)


async def test_administrator_stops_the_user_who_spends_most(
    priced: DashboardSite, chromium: Chromium
) -> None:
    await priced.add_usage("user", 3, cost_nano=50 * 10**9)

    def work(page: Page) -> None:
        page.goto(f"{priced.gateway.url}/dashboard")
        page.get_by_role("link", name="Users").press("Enter")
        expect(page.get_by_role("row", name="user@example.com")).to_contain_text("$150.00")
        page.get_by_role("link", name="user@example.com").press("Enter")
        page.get_by_role("button", name="Disable").press("Enter")
        press(page, "Tab", "Enter")
        expect(page.get_by_text("The user is disabled.")).to_be_visible()
        assert call(page, priced.callers.keys["good"], "m") == 401

    await priced.look(chromium, "admin", work, base_url=priced.gateway.url)
