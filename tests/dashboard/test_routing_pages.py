"""The pages of models, prices and routes, and what administrators change on them."""

import re
from datetime import UTC, datetime
from pathlib import Path

import trio
from playwright.sync_api import Page, expect

from tests import gateways
from tests.browser import Chromium
from tests.dashboard.site import DashboardSite
from tests.dashboard.test_in_browser import HOSTILE, press, violations
from tests.deployment import create_callers
from tests.fakes.model_server import ModelServer
from tests.gateways import entry


async def test_models_page_finds_a_name_and_has_a_next_page(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    names = [f"model-{number:03}" for number in range(120)]
    servers = [entry("one", models.url, models=names)]
    prices = [{"model": "model-000", "input_usd": "1.25", "output_usd": "10"}]
    gateway = await gateways.start(nursery, home, servers=servers, prices=prices)
    site = DashboardSite(await create_callers(gateway, ("user", "admin")))
    await site.add_usage("user", 2, model="model-001", cost_nano=10**9)
    async with site.browser_client("admin") as client:
        text = (await client.get("/dashboard/admin/models")).text
        assert "119 models have no price" in text and "<td>$2.00</td>" in text
        shown = re.findall(r">(model-\d+)</a></th>", text)
        (more,) = re.findall(r'rel="next" href="([^"]+)"', text)
        shown += re.findall(r">(model-\d+)</a></th>", (await client.get(more.replace("&amp;", "&"))).text)
        assert shown == [*names[1:], names[0]], "the model with a price comes last"
        text = (await client.get("/dashboard/admin/models?q=MODEL-11")).text
        assert text.count('<th scope="row"') == 10
        text = (await client.get("/dashboard/admin/models?q=model-000&show=unpriced")).text
        assert "Nothing matches" in text
        text = (await client.get("/dashboard/admin/models/prices?model=model-000")).text
        assert "<td>$1.25</td>" in text and "configuration" in text and "Remove the price" not in text


async def test_price_is_set_for_a_server_and_removed_by_keyboard(
    site: DashboardSite, chromium: Chromium
) -> None:
    def work(page: Page) -> None:
        page.goto(f"{site.gateway.url}/dashboard/admin/models")
        page.get_by_role("link", name="m", exact=True).press("Enter")
        expect(page.get_by_text("There is no price now.")).to_be_visible()
        page.get_by_role("button", name="Set a price").press("Enter")
        page.get_by_label("Server").select_option("one")
        page.get_by_label("Input", exact=True).fill("much")
        page.get_by_label("Output", exact=True).fill("10")
        page.get_by_label("Before").first.fill("2099-01-01")
        press(page, "Enter")
        expect(page.get_by_label("Input", exact=True)).to_be_focused()
        page.get_by_label("Input", exact=True).fill("1.25")
        page.get_by_text("More rates and conditions").click()
        assert violations(page) == []
        page.get_by_label("Reasoning").fill("12")
        press(page, "Enter")
        expect(page.get_by_text("The price is set.")).to_be_visible()
        row = page.get_by_role("region", name="In force now").get_by_role("row", name="one")
        expect(row).to_contain_text("$1.25")
        expect(row).to_contain_text("Reasoning $12")
        expect(row).to_contain_text("set for this server")
        own = page.get_by_role("region", name="Your prices").get_by_role("row", name="one")
        expect(own).to_contain_text("2099-01-01")
        page.get_by_role("button", name="Remove the price for one").press("Enter")
        page.get_by_role("button", name="Remove the price", exact=True).press("Enter")
        expect(page.get_by_text("The price is removed.")).to_be_visible()
        expect(page.get_by_text("There is no price now.")).to_be_visible()
        page.goto(f"{site.gateway.url}/dashboard/admin/models/prices?model={HOSTILE}")
        assert page.evaluate("window.pwned") is None

    await site.look(chromium, "admin", work, bypass_csp=True)


async def test_costs_are_computed_again_after_a_second_look(site: DashboardSite, chromium: Chromium) -> None:
    await site.add_usage("user", 2, model="m", cost_nano=1000, input_tokens=10, output_tokens=0)
    body = {"model": "m", "input_usd": "100", "output_usd": "0"}
    async with site.gateway.operator() as operator:
        assert (await operator.put("/api/admin/prices", json=body)).status_code == 200

    def work(page: Page) -> None:
        page.goto(f"{site.gateway.url}/dashboard/admin/models/prices?model=m")
        page.get_by_role("button", name="Compute costs again").press("Enter")
        page.get_by_label("From").last.fill(f"{datetime.now(UTC).year - 1}-01-01")
        page.get_by_role("button", name="Show what would change").press("Enter")
        expect(page.get_by_text("The costs of 2 of 2 requests would change by 0.001998 USD")).to_be_visible()
        page.get_by_role("button", name="Change the costs").press("Enter")
        expect(page.get_by_text("The costs of 2 requests were changed.")).to_be_visible()

    await site.look(chromium, "admin", work)


async def test_route_is_made_changed_and_removed_by_keyboard(site: DashboardSite, chromium: Chromium) -> None:
    def work(page: Page) -> None:
        page.goto(f"{site.gateway.url}/dashboard/admin/routes")
        page.get_by_role("link", name="New route").first.press("Enter")
        page.get_by_label("Model", exact=True).fill("fast")
        press(page, "Enter")
        expect(page.get_by_text("this route has no effect")).to_be_visible()
        page.get_by_role("button", name="Add a server").press("Enter")
        expect(page.get_by_role("combobox", name="Server", exact=True)).to_be_focused()
        page.get_by_role("combobox", name="Server", exact=True).select_option("one")
        page.get_by_label("Model there").fill("m")
        page.get_by_label("Weight").fill("7")
        page.get_by_label("Fallback models").fill("m")
        page.get_by_text("Conditions").click()
        page.get_by_label("The request needs").fill("tools")
        assert violations(page) == []
        page.get_by_role("button", name="Make the route").press("Enter")
        expect(page.get_by_text("The route is made.")).to_be_visible()
        page.get_by_role("link", name="fast").press("Enter")
        expect(page.get_by_label("Weight")).to_have_value("7")
        expect(page.get_by_label("The request needs")).to_have_value("tools")
        page.get_by_label("The request needs").fill("")
        page.get_by_text("Failures, timeouts and queue").click()
        page.get_by_label("the servers are at a limit").uncheck()
        page.get_by_label("Requests that wait at once").fill("5")
        page.get_by_text("Hedged requests and shadow traffic").click()
        page.get_by_label("Seconds without content before the next server gets the request too").fill("2.5")
        page.get_by_label("Server that gets copies").select_option("one")
        page.get_by_label("USD a day for copies").fill("0.5")
        assert violations(page) == []
        press(page, "Enter")
        expect(page.get_by_text("The route is changed.")).to_be_visible()
        expect(page.get_by_text("with the model m").first).to_be_visible()
        expect(page.get_by_text("Streams are not hedged")).to_be_visible()
        expect(page.get_by_text("one gets copies of 5.0% of the requests")).to_be_visible()
        expect(page.get_by_label("USD a day for copies")).to_have_value("0.5")
        page.get_by_role("button", name="Remove", exact=True).press("Enter")
        expect(page.get_by_role("button", name="Cancel")).to_be_focused()
        page.get_by_role("button", name="Remove the route").press("Enter")
        expect(page.get_by_text("No routes yet")).to_be_visible()

    await site.look(chromium, "admin", work, bypass_csp=True)


async def test_route_of_the_configuration_is_read_only(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    routes = [
        {
            "model": "m",
            "targets": [{"server": "one", "weight": 3}],
            "fallback": ["other"],
            "hedge_after": 2.5,
            "shadow": "one",
            "shadow_share": 0.25,
        }
    ]
    gateway = await gateways.start(nursery, home, servers=[entry("one", models.url)], routes=routes)
    site = DashboardSite(await create_callers(gateway, ("user", "admin")))
    async with site.browser_client("admin") as client:
        text = (await client.get("/dashboard/admin/routes")).text
        path = re.findall(r'href="(/dashboard/admin/routes/(?!new)[^"]+)"', text)
        text = (await client.get(path[0])).text
        assert "This route is in the configuration" in text and "data-route" not in text
        assert "First <b>one</b> with the model m" in text
        assert "after 2.50 s without content, at most 5.0% of the streams and 1 USD a day" in text
        assert "one, at most 25% of the requests" in text
        assert (await client.get("/dashboard/admin/routes/none")).status_code == 404
        text = (await client.get("/dashboard/admin/routes?model=m&key=none")).text
        assert 'class="notice"' in text
