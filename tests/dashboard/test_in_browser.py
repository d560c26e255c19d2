"""Pages in Chromium: work with the keyboard, accessibility, hostile names, and pages without scripts."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from bluesminds.accounts.audit import OPERATOR
from bluesminds.web.guard import Access
from tests.browser import Chromium
from tests.dashboard.site import DashboardSite
from tests.dashboard.test_pages import pages_of
from tests.deployment import PASSWORD
from tests.fakes.model_server import ModelServer

WIDE = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}
HOSTILE = '"><img src=x onerror="window.pwned=1">{{7*7}}javascript:alert(1)'


def violations(page: Page) -> list[str]:
    """What axe finds. The dark scheme only changes colours, and each test of it is also one of the light
    scheme, so only the rules about colours run in it.
    """
    axe = Axe("") if page.evaluate("'axe' in window") else Axe()  # the script is large, so it is added once
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches"):
        options["runOnly"] = ["color-contrast", "link-in-text-block"]
    found = axe.run(page, options=options).response["violations"]
    return [f"{one['id']}: {[node['html'] for node in one['nodes']]}" for one in found]


def press(page: Page, *keys: str) -> None:
    """Once the scripts of the page are loaded."""
    page.wait_for_load_state()
    for key in keys:
        page.keyboard.press(key)


@pytest.mark.parametrize("rows", [0, 40])
@pytest.mark.parametrize("name", ["user", "admin"])
async def test_pages_have_no_accessibility_violation(
    site: DashboardSite, chromium: Chromium, name: str, rows: int
) -> None:
    """Each page is loaded once: no script of the pages asks for the size or for the colours."""
    await site.add_usage("user", rows, model="a-model-with-a-very-long-name/" * 4)
    await site.add_usage("user", rows // 20, status=502, outcome="upstream_error")
    if rows:
        await site.add_credit("user", reference="a-very-long-reference-of-an-invoice/" * 5)
        await site.add_route("m", fallback=["a-very-long-name-of-a-model/" * 3], when={"tier": ["free"]})
        await site.add_codes("a-very-long-name-of-a-batch/" * 3)
        await site.add_credit("user", "grant", ends_at=site.gateway.services.clock.now_ms() + 10**9)
    await site.add_chat("# Title\n\n- one\n- two\n\n```\ncode\n```\n\nlong " + "word" * 100)
    paths = pages_of(site, Access.ADMIN if name == "admin" else Access.SESSION)

    def look(page: Page) -> None:
        for path in paths:
            page.goto(site.gateway.url + path)
            for scheme, size in product(("light", "dark"), (WIDE, PHONE)):
                page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
                page.set_viewport_size(size)  # type: ignore[arg-type]
                assert violations(page) == [], (path, scheme, size)
                assert not page.evaluate("document.documentElement.scrollWidth > innerWidth"), (path, size)

    # axe adds a script, which the policy of the pages does not allow
    await site.look(chromium, name, look, bypass_csp=True)


async def test_dialogs_and_open_table_have_no_accessibility_violation(
    site: DashboardSite, chromium: Chromium
) -> None:
    await site.add_usage("user", 5)

    def look(page: Page) -> None:
        page.goto(f"{site.gateway.url}/dashboard")
        page.get_by_text("Show as a table").click()
        press(page, "?")
        expect(page.get_by_role("dialog")).to_be_visible()
        assert violations(page) == []
        page.goto(f"{site.gateway.url}/dashboard/keys?new=1")
        page.get_by_text("More limits and restrictions").click()
        assert violations(page) == []
        page.goto(f"{site.gateway.url}/dashboard/keys/{site.key_id}")
        page.get_by_role("button", name="Revoke").click()
        assert violations(page) == []

    await site.look(chromium, "user", look, bypass_csp=True)


async def test_login_by_keyboard_opens_the_page_that_was_asked_for(
    site: DashboardSite, chromium: Chromium
) -> None:
    def look(page: Page) -> None:
        page.goto(f"{site.gateway.url}/dashboard/keys")
        expect(page).to_have_title("Sign in - BluesMinds")
        press(page, "Tab")
        page.keyboard.type("user@example.com")
        press(page, "Tab")
        page.keyboard.type("wrong password")
        press(page, "Enter")
        expect(page.get_by_role("alert")).to_be_focused()
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        press(page, "Enter")
        expect(page).to_have_url(f"{site.gateway.url}/dashboard/keys")
        expect(page.get_by_role("heading", level=1)).to_have_text("API keys")
        page.get_by_role("button", name="user@example.com").press("Enter")
        page.get_by_role("button", name="Sign out").press("Enter")
        expect(page).to_have_title("Sign in - BluesMinds")
        page.goto(f"{site.gateway.url}/dashboard")
        expect(page).to_have_title("Sign in - BluesMinds")

    await site.look(chromium, None, look)


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example", "/\\evil.example", "/docs"])
async def test_login_ignores_another_address_to_go_to(
    site: DashboardSite, chromium: Chromium, target: str
) -> None:
    def look(page: Page) -> None:
        page.goto(f"{site.gateway.url}/account/login?next={target}")
        page.get_by_label("E-mail address").fill("user@example.com")
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        press(page, "Enter")
        expect(page).to_have_url(f"{site.gateway.url}/dashboard")

    await site.look(chromium, None, look)


async def test_key_made_by_keyboard_works_once_shown(site: DashboardSite, chromium: Chromium) -> None:
    def make(page: Page) -> str:
        page.goto(f"{site.gateway.url}/dashboard")
        press(page, "g", "k")
        expect(page.get_by_role("heading", level=1)).to_have_text("API keys")
        page.get_by_role("button", name="New key").press("Enter")
        page.keyboard.type("laptop")
        press(page, "Tab", "Tab")
        page.keyboard.type("much")
        press(page, "Enter")
        wrong = page.get_by_label("Budget per month, USD")
        expect(wrong).to_be_focused()
        expect(wrong).to_have_attribute("aria-invalid", "true")
        wrong.fill("5")
        press(page, "Enter")
        expect(page.get_by_role("heading", name="Your new key")).to_be_focused()
        secret = page.locator(".secret code").inner_text()
        curl = page.locator("[data-made] [data-example=curl] pre")
        expect(curl).to_contain_text(secret)
        page.get_by_role("radio", name="curl").focus()
        press(page, "ArrowRight")
        expect(page.get_by_label("Example for Python").first).to_contain_text(f'api_key="{secret}"')
        expect(curl).to_be_hidden()
        page.get_by_role("button", name="Done").press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("You have not copied it")
        page.get_by_role("button", name="Done").press("Enter")
        expect(page.get_by_role("link", name="laptop")).to_be_visible()
        assert secret not in page.content()
        return secret

    secret = await site.look(chromium, "user", make)
    assert (await site.gateway.chat(key=secret)).status_code in (200, 403)
    assert secret not in site.gateway.log


async def test_key_is_rotated_changed_and_revoked_by_keyboard(
    site: DashboardSite, chromium: Chromium
) -> None:
    old = site.callers.keys["good"]
    address = f"{site.gateway.url}/dashboard/keys/{site.key_id}"

    def rotate(page: Page) -> str:
        page.goto(address)
        page.get_by_label("Name", exact=True).fill("renamed")
        page.get_by_role("button", name="Save").press("Enter")
        expect(page.get_by_text("The key is changed.")).to_be_visible()
        expect(page.get_by_role("heading", level=1)).to_contain_text("renamed")
        page.get_by_role("button", name="Rotate").press("Enter")
        page.get_by_label("The old secret is accepted for").select_option("0")
        page.get_by_role("dialog").get_by_role("button", name="Rotate").press("Enter")
        expect(page.get_by_role("heading", name="The new secret")).to_be_focused()
        return page.locator(".secret code").inner_text()

    new = await site.look(chromium, "user", rotate)
    assert (await site.gateway.chat(key=new)).status_code == 200
    assert (await site.gateway.chat(key=old)).status_code == 401

    def revoke(page: Page) -> None:
        page.goto(address)
        page.get_by_role("button", name="Revoke").press("Enter")
        expect(page.get_by_role("button", name="Cancel")).to_be_focused()
        press(page, "Escape")
        expect(page.get_by_role("button", name="Revoke")).to_be_focused()
        press(page, "Enter", "Tab", "Enter")
        expect(page).to_have_url(f"{site.gateway.url}/dashboard/keys")
        expect(page.get_by_text("The key is revoked.")).to_be_visible()

    await site.look(chromium, "user", revoke)
    assert (await site.gateway.chat(key=new)).status_code == 401


async def test_overview_shows_the_first_request_when_it_arrives(
    site: DashboardSite, chromium: Chromium
) -> None:
    def wait(page: Page) -> None:
        page.goto(f"{site.gateway.url}/dashboard")
        expect(page.get_by_text("Waiting for your first request")).to_be_visible()
        answer = page.request.post(
            f"{site.gateway.url}/v1/chat/completions",
            headers={"authorization": f"Bearer {site.callers.keys['good']}"},
            data={"model": "m", "messages": [{"role": "user", "content": "hello"}]},
        )
        assert answer.ok
        expect(page.get_by_text("Waiting for your first request")).to_be_hidden()
        expect(page.get_by_role("cell", name="m", exact=True).first).to_be_visible()

    await site.look(chromium, "user", wait)


async def test_chart_is_read_with_the_arrow_keys(site: DashboardSite, chromium: Chromium) -> None:
    await site.add_usage("user", 3, cost_nano=1_000_000_000, model="m")

    def read(page: Page) -> None:
        page.goto(f"{site.gateway.url}/dashboard?range=7d")
        plot = page.get_by_role("slider")
        plot.focus()
        press(page, "Home", "End")
        expect(plot).to_have_attribute("aria-valuenow", "7")
        text = plot.get_attribute("aria-valuetext") or ""
        assert "$" in text and "m $" in text
        expect(page.locator(".tip")).to_be_visible()

    await site.look(chromium, "user", read)


async def test_hostile_names_are_shown_as_text(site: DashboardSite, chromium: Chromium) -> None:
    key_id, _ = await site.gateway.new_key(user_id=site.callers.users["user"])
    async with site.browser_client("user") as client:
        await client.patch(f"/api/keys/{key_id}", json={"name": HOSTILE})
        await client.patch("/api/auth/me", json={"full_name": HOSTILE})
    fields = {"model": HOSTILE, "server": HOSTILE, "request_id": HOSTILE, "key_id": key_id}
    await site.add_usage("user", 2, **fields)
    await site.add_chat(f"{HOSTILE}\n\n![x](https://evil.example/x.png)\n\n[x](javascript:alert(1))")
    paths = [*pages_of(site, Access.SESSION), f"/dashboard/keys/{key_id}", "/dashboard?by=key"]

    def look(page: Page) -> None:
        for path in paths:
            page.goto(site.gateway.url + path)
            assert page.evaluate("window.pwned") is None, path
            assert page.locator("img").count() == 0, path
            assert "49javascript" not in page.content(), path
        expect(page.get_by_text(HOSTILE).first).to_be_attached()
        page.locator(".plot").focus()
        press(page, "End")
        assert page.evaluate("window.pwned") is None

    await site.look(chromium, "user", look)


async def test_pages_without_scripts_can_be_read(site: DashboardSite, chromium: Chromium) -> None:
    await site.add_usage("user", 3, model="m", cost_nano=1_000_000_000)

    def look(page: Page) -> None:
        page.goto(f"{site.gateway.url}/dashboard")
        expect(page.locator("noscript p")).to_be_visible()
        expect(page.locator(".marks path").first).to_be_visible()
        page.get_by_role("link", name="API keys").click()
        expect(page.get_by_role("link", name="good")).to_be_visible()

    await site.look(chromium, "user", look, java_script_enabled=False)


async def test_page_loads_at_most_five_files(site: DashboardSite, chromium: Chromium) -> None:
    """Cold, with the icon. The playground has more scripts."""
    await site.add_usage("user", 40, model="m")
    await site.add_route()
    await site.add_codes()
    paths = {"user": pages_of(site, Access.SESSION), "admin": pages_of(site, Access.ADMIN)}

    def check(paths: list[str]) -> Callable[[Page], None]:
        def look(page: Page) -> None:
            for path in paths:
                loaded: list[str] = []
                sizes: list[int] = []
                page.on("response", lambda one, loaded=loaded: loaded.append(one.url))
                page.on("response", lambda one, sizes=sizes: sizes.append(len(one.body())))
                page.goto(site.gateway.url + path, wait_until="load")
                assert len(loaded) <= (6 if "/playground/" in path else 5), (path, loaded)
                assert sum(sizes) <= 100_000, path

        return look

    for name, visited in paths.items():
        await site.look(chromium, name, check(visited))


async def test_settings_are_changed_by_keyboard(site: DashboardSite, chromium: Chromium) -> None:
    await site.callers.session("user")

    def change(page: Page) -> None:
        page.goto(f"{site.gateway.url}/dashboard/settings")
        page.get_by_label("Name", exact=True).fill("Ada Lovelace")
        press(page, "Enter")
        expect(page.get_by_role("button", name="Ada Lovelace")).to_be_visible()
        page.get_by_role("main").get_by_label("Dark").check()
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        page.get_by_label("Time zone").select_option("Asia/Tokyo")
        expect(page.get_by_text("The time zone is changed.")).to_be_visible()
        expect(page.get_by_label("Time zone")).to_have_value("Asia/Tokyo")
        page.get_by_role("button", name="End all other sessions").press("Enter")
        page.get_by_role("button", name="End them").press("Enter")
        expect(page.get_by_role("button", name="End all other sessions")).to_be_hidden()
        page.get_by_label("Current password").fill("wrong password")
        page.get_by_label("New password").fill("another long password")
        press(page, "Enter")
        expect(page.get_by_role("alert")).to_contain_text("Wrong")
        page.get_by_label("Current password").fill(PASSWORD)
        press(page, "Enter")
        expect(page.get_by_text("Your password is changed.")).to_be_visible()

    await site.look(chromium, "user", change)


async def test_requests_are_searched_by_keyboard(site: DashboardSite, chromium: Chromium) -> None:
    await site.add_usage("user", 5, model="common")
    await site.add_usage("user", 1, status=502, outcome="upstream_error", model="rare")

    def search(page: Page) -> None:
        page.goto(f"{site.gateway.url}/dashboard")
        press(page, "g", "r")
        expect(page.get_by_role("heading", level=1)).to_have_text("Requests")
        press(page, "/")
        page.keyboard.type("status:5xx")
        press(page, "Enter")
        expect(page.get_by_role("row")).to_have_count(2)
        press(page, "j")
        expect(page.get_by_role("row").nth(1).get_by_role("link").first).to_be_focused()

    await site.look(chromium, "user", search)


async def test_go_to_finds_pages_keys_and_requests_by_keyboard(
    site: DashboardSite, chromium: Chromium
) -> None:
    await site.add_usage("user", 1, model="m")

    def work(page: Page) -> None:
        page.goto(f"{site.gateway.url}/dashboard")
        for typed, heading in (("sett", "Settings"), ("good", "good"), ("request-0", "Requests")):
            page.keyboard.press("Control+k")
            expect(page.get_by_role("dialog").get_by_role("combobox")).to_be_focused()
            page.keyboard.type(typed)
            expect(page.locator("#found li").first).to_have_attribute("aria-selected", "true")
            expect(page.locator("#found li").first).to_contain_text(typed, ignore_case=True)
            assert violations(page) == []
            press(page, "Enter")
            expect(page.get_by_role("heading", level=1)).to_contain_text(heading)
            page.wait_for_load_state()
        expect(page.get_by_role("row")).to_have_count(2)

    await site.look(chromium, "user", work, bypass_csp=True)


async def test_button_that_cannot_be_undone_asks_first(site: DashboardSite, chromium: Chromium) -> None:
    def work(page: Page) -> None:
        page.goto(f"{site.gateway.url}/dashboard/admin/users/{site.callers.users['user']}")
        page.get_by_role("button", name="Revoke good", exact=True).press("Enter")
        expect(page.get_by_role("button", name="Cancel")).to_be_focused()
        assert violations(page) == []
        press(page, "Enter")
        expect(page.get_by_role("dialog")).to_have_count(0)
        page.get_by_role("button", name="Revoke good", exact=True).press("Enter")
        press(page, "Tab", "Enter")
        expect(page.get_by_text("The key is revoked.")).to_be_visible()

    await site.look(chromium, "admin", work, bypass_csp=True)


async def test_server_is_added_tested_and_removed_by_keyboard(
    site: DashboardSite, chromium: Chromium, models: ModelServer
) -> None:
    def work(page: Page) -> None:
        page.goto(f"{site.gateway.url}/dashboard/admin/servers")
        page.get_by_role("button", name="Add a server").press("Enter")
        page.keyboard.type("second")
        page.get_by_label("URL").fill("no url")
        press(page, "Enter")
        expect(page.get_by_label("URL")).to_be_focused()
        expect(page.get_by_label("URL")).to_have_attribute("aria-invalid", "true")
        page.get_by_label("URL").fill(models.url)
        press(page, "Enter")
        expect(page.get_by_text("The server is added.")).to_be_visible()
        page.get_by_role("button", name="Test second").press("Enter")
        expect(page.get_by_text("second answered in")).to_be_visible()
        page.get_by_role("link", name="second").press("Enter")
        page.get_by_label("Weight").fill("7")
        press(page, "Enter")
        expect(page.get_by_text("The server is changed.")).to_be_visible()
        expect(page.get_by_label("Weight")).to_have_value("7")
        page.get_by_role("button", name="Remove").press("Enter")
        expect(page.get_by_role("button", name="Cancel")).to_be_focused()
        press(page, "Tab", "Enter")
        expect(page.get_by_text("The server is removed.")).to_be_visible()
        expect(page.get_by_role("link", name="second")).to_be_hidden()

    await site.look(chromium, "admin", work)


async def test_user_is_limited_and_disabled_by_keyboard(site: DashboardSite, chromium: Chromium) -> None:
    def work(page: Page) -> None:
        page.goto(f"{site.gateway.url}/dashboard/admin/users")
        page.get_by_role("link", name="user@example.com").press("Enter")
        page.get_by_label("Requests per minute").fill("3")
        press(page, "Enter")
        expect(page.get_by_text("The limits are changed.")).to_be_visible()
        expect(page.get_by_label("Requests per minute")).to_have_value("3")
        page.get_by_role("button", name="Disable").press("Enter")
        press(page, "Tab", "Enter")
        expect(page.get_by_text("The user is disabled.")).to_be_visible()
        page.goto(f"{site.gateway.url}/dashboard/admin/audit")
        page.get_by_role("button", name="Verify").press("Enter")
        expect(page.get_by_text("The log is complete")).to_be_visible()

    await site.look(chromium, "admin", work)
    assert (await site.gateway.chat(key=site.callers.keys["good"])).status_code == 401


async def test_local_link_signs_in_once(site: DashboardSite, chromium: Chromium) -> None:
    services = site.gateway.services
    user_id, _ = await services.accounts.users.local_user(OPERATOR)
    token = await services.accounts.local_sign_in.new_token(OPERATOR, user_id)
    link = f"{site.gateway.url}/account/enter#token={token}"

    def enter(page: Page) -> None:
        page.goto(link)
        expect(page).to_have_url(f"{site.gateway.url}/dashboard")
        expect(page.get_by_role("button", name="Local operator")).to_be_visible()

    def again(page: Page) -> None:
        page.goto(link)
        expect(page.get_by_role("alert")).to_contain_text("already used")

    await site.look(chromium, None, enter)
    await site.look(chromium, None, again)
    assert token not in site.gateway.log


async def test_account_is_requested_on_the_page(site: DashboardSite, chromium: Chromium) -> None:
    def join(page: Page) -> None:
        page.goto(f"{site.gateway.url}/account/login")
        page.get_by_role("link", name="Create an account").press("Enter")
        page.get_by_label("E-mail address").fill("new@example.com")
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        press(page, "Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Check your mail")
        page.get_by_role("link", name="Sign in").press("Enter")
        page.get_by_role("link", name="Forgotten your password?").press("Enter")
        page.get_by_label("E-mail address").fill("user@example.com")
        press(page, "Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Check your mail")

    await site.look(chromium, None, join)
