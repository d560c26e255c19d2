"""The pages that mailed links open, in a real browser."""

import email
import email.policy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from playwright.sync_api import Locator, Page, expect

from bluesminds.web.assets import asset
from tests import browser, gateways
from tests.browser import Chromium
from tests.deployment import PASSWORD, anonymous_client
from tests.gateways import Gateway

ADA = "ada@example.com"
NEW = "another horse battery"
PATHS = ("/account/verify", "/account/reset", "/account/signup")
WRONG_LINK = "This link is invalid, expired or already used. Request a new one."


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with browser.running() as found:
        yield found


@pytest.fixture
async def site(nursery: trio.Nursery, home: Path) -> Gateway:
    """Open sign-up; mail is written to the outbox directory."""
    return await gateways.start(nursery, home, servers=[], accounts={"signup": "open"})


async def send(gateway: Gateway, path: str, body: Any, *, status: int) -> Any:
    async with anonymous_client(gateway) as client:
        answer = await client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json() if answer.content else None


async def can_sign_in(gateway: Gateway, password: str) -> bool:
    async with anonymous_client(gateway) as client:
        answer = await client.post("/api/auth/login", json={"email": ADA, "password": password})
    return answer.status_code == 200


def mail_texts(gateway: Gateway) -> list[str]:
    """The texts of all mail so far, the oldest first."""
    files = sorted((gateway.settings.state_dir / "outbox").glob("*.eml"))
    read = [email.message_from_bytes(file.read_bytes(), policy=email.policy.default) for file in files]
    texts = (message.get_body(("plain",)) for message in read)
    return [text.get_content() for text in texts if text is not None]


async def link_of(gateway: Gateway, path: str, count: int = 1) -> str:
    """The link to this page of the mail numbered `count` that has one, at the port the gateway found."""

    def links() -> list[str]:
        return [
            found for text in mail_texts(gateway) for found in re.findall(rf"http://\S+({path}#\S+)", text)
        ]

    await gateways.eventually(lambda: len(links()) >= count)
    return gateway.url + links()[count - 1]


def open_link(page: Page, link: str) -> None:
    page.goto(link)
    expect(page.get_by_role("button")).to_be_visible()
    assert "#" not in page.evaluate("location.href"), "the token has left the address bar"


def type_in(page: Page, *texts: str) -> None:
    """With the keyboard: Tab to each field, Enter in the last one."""
    for text in texts:
        page.keyboard.press("Tab")
        page.keyboard.type(text)
    page.keyboard.press("Enter")


def expect_alert(page: Page, sentence: str) -> None:
    """An alert with this text has the focus."""
    alert = page.get_by_role("alert")
    expect(alert).to_have_text(sentence)
    expect(alert).to_be_focused()


def expect_done(page: Page, title: str) -> None:
    expect(page.get_by_role("heading", level=1)).to_have_text(title)
    expect(page).to_have_title(title)
    expect(page.locator("#done")).to_be_focused()
    expect(page.get_by_role("button")).to_be_hidden()


async def signed_up(gateway: Gateway) -> str:
    """The link to confirm the address by."""
    await send(gateway, "/api/auth/signup", {"email": ADA, "password": PASSWORD}, status=202)
    return await link_of(gateway, "/account/verify")


@pytest.mark.process
async def test_verify_page_by_keyboard_confirms_the_address(site: Gateway, chromium: Chromium) -> None:
    link = await signed_up(site)

    def confirm(page: Page) -> None:
        open_link(page, link)
        type_in(page, "wrong password")
        expect_alert(page, "Wrong e-mail address or password, or the address is not confirmed yet.")
        type_in(page, "")
        expect_alert(page, "Wrong e-mail address or password, or the address is not confirmed yet.")
        page.keyboard.press("Tab")
        page.keyboard.press("Control+A")
        page.keyboard.type(PASSWORD)
        for name in ("Show the password", "Confirm the address"):
            page.keyboard.press("Tab")
            expect(page.locator(":focus")).to_have_accessible_name(name)
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Enter")
        expect_done(page, "Your address is confirmed")

    assert not await can_sign_in(site, PASSWORD)
    await chromium.visit(site.url, confirm)
    assert await can_sign_in(site, PASSWORD)
    assert link.partition("=")[2] not in site.log

    def again(page: Page) -> None:
        open_link(page, link)
        type_in(page, PASSWORD)
        expect_alert(page, WRONG_LINK)

    await chromium.visit(site.url, again)


@pytest.mark.process
async def test_reset_page_sets_a_new_password(site: Gateway, chromium: Chromium) -> None:
    await signed_up(site)
    await send(site, "/api/auth/password/forgot", {"email": ADA}, status=202)
    link = await link_of(site, "/account/reset")

    def reset(page: Page) -> None:
        open_link(page, link)
        field = page.get_by_label("New password")
        expect(field).to_have_accessible_description(re.compile("^At least 10 characters"))
        field.fill("too short")
        show = page.get_by_label("Show the password")
        show.check()
        expect(field).to_have_attribute("type", "text")
        page.get_by_role("button").click()
        expect_alert(page, "A password must have 10 to 1024 characters.")
        expect(field).to_have_attribute("type", "password")
        expect(show).not_to_be_checked()
        field.fill(NEW)
        page.get_by_role("button").click()
        expect_done(page, "Your password is changed")

    await chromium.visit(site.url, reset)
    assert await can_sign_in(site, NEW)
    assert not await can_sign_in(site, PASSWORD)


@pytest.mark.process
async def test_signup_page_accepts_an_invitation(
    nursery: trio.Nursery, home: Path, chromium: Chromium
) -> None:
    site = await gateways.start(nursery, home, servers=[], accounts={"signup": "invite"})
    async with site.operator() as operator:
        assert (await operator.post("/api/admin/invites", json={"email": ADA})).status_code == 201
    link = await link_of(site, "/account/signup")

    def accept(page: Page) -> None:
        open_link(page, link)
        type_in(page, "eve@example.com", "Ada Lovelace", NEW)
        expect_alert(page, WRONG_LINK)
        page.get_by_label("E-mail address").fill(ADA)
        page.get_by_role("button").click()
        expect_done(page, "Your account is ready")

    await chromium.visit(site.url, accept)
    async with anonymous_client(site) as client:
        answer = await client.post("/api/auth/login", json={"email": ADA, "password": NEW})
    assert answer.status_code == 200
    assert answer.json()["user"]["full_name"] == "Ada Lovelace"


@pytest.mark.process
async def test_page_without_token_shows_an_error(site: Gateway, chromium: Chromium) -> None:
    link = await signed_up(site)

    def look(page: Page) -> None:
        for path in PATHS:
            for rest in ("", "#", "#other=1"):
                page.goto(site.url + path + rest)
                expect(page.get_by_role("alert")).to_contain_text("This link is incomplete")
                expect(page.get_by_role("button")).to_be_hidden()
        page.goto(site.url + PATHS[0])
        page.evaluate("link => { location.href = link }", link)
        expect(page.get_by_role("alert")).to_be_hidden()
        type_in(page, PASSWORD)
        expect_done(page, "Your address is confirmed")

    await chromium.visit(site.url, look)


@pytest.mark.process
async def test_page_without_javascript_shows_a_notice(site: Gateway, chromium: Chromium) -> None:
    def look(page: Page) -> None:
        for path in PATHS:
            page.goto(f"{site.url}{path}#token=1&invite=1")
            reason = page.locator("noscript p")
            expect(reason).to_be_visible()
            expect(reason).to_contain_text("This page needs JavaScript.")
            expect(page.get_by_role("button")).to_be_hidden()

    await chromium.visit(site.url, look, java_script_enabled=False)


@pytest.mark.process
@pytest.mark.parametrize("failure", ["no response", "response of a proxy"])
async def test_form_after_failed_request_can_be_sent_again(
    failure: str, site: Gateway, chromium: Chromium
) -> None:
    link = await signed_up(site)

    def look(page: Page) -> None:
        open_link(page, link)
        if failure == "no response":
            page.route("**/api/**", lambda call: call.abort())
        else:
            page.route("**/api/**", lambda call: call.fulfill(status=502, body="<h1>Bad Gateway</h1>"))
        type_in(page, PASSWORD)
        expect_alert(page, "The gateway did not respond. Try again later.")
        page.unroute("**/api/**")
        page.get_by_role("button").click()
        expect_done(page, "Your address is confirmed")

    await chromium.visit(site.url, look)


@pytest.mark.process
async def test_form_submitted_repeatedly_is_sent_once(site: Gateway, chromium: Chromium) -> None:
    link = await signed_up(site)

    def look(page: Page) -> int:
        calls: list[str] = []
        page.on("request", lambda call: calls.append(call.url) if call.method == "POST" else None)
        open_link(page, link)
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.evaluate("for (let i = 0; i < 3; i++) document.querySelector('form').requestSubmit()")
        expect_done(page, "Your address is confirmed")
        return len(calls)

    assert await chromium.visit(site.url, look) == 1


@pytest.mark.process
async def test_pages_fit_a_phone_screen(site: Gateway, chromium: Chromium) -> None:
    def look(page: Page) -> None:
        for path in PATHS:
            open_link(page, f"{site.url}{path}#token=1&invite=1")
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
            for one in (*page.get_by_role("textbox").all(), page.get_by_role("button")):
                assert is_within(one, 360), path
            assert page.evaluate("[...document.scripts].every((one) => one.src)")
            page.goto("about:blank")

    await chromium.visit("", look, viewport={"width": 360, "height": 640})


def is_within(one: Locator, width: int) -> bool:
    box = one.bounding_box()
    return box is not None and box["x"] >= 0 and box["x"] + box["width"] <= width and box["height"] >= 40


async def test_page_fields_have_autocomplete_and_labels(site: Gateway) -> None:
    expected = {
        "/account/verify": {"password": "current-password"},
        "/account/reset": {"password": "new-password"},
        "/account/signup": {"email": "username", "full_name": "name", "password": "new-password"},
    }
    async with anonymous_client(site) as client:
        for path, fields in expected.items():
            text = (await client.get(path)).text
            inputs = re.findall(r'<input id="(\w+)" name="\1" type="\w+" autocomplete="([\w-]+)"', text)
            assert dict(inputs) == fields
            labels = re.findall(r'<label for="(\w+)">', text)
            assert labels == list(fields)


async def test_page_headers_block_other_sources(site: Gateway) -> None:
    kinds = {
        **dict.fromkeys(PATHS, "text/html; charset=utf-8"),
        "/account/style.css": "text/css; charset=utf-8",
        "/account/script.js": "text/javascript; charset=utf-8",
    }
    async with anonymous_client(site) as client:
        for path, kind in kinds.items():
            answer = await client.get(path)
            assert answer.status_code == 200
            assert answer.headers["content-type"] == kind
            assert answer.headers["content-security-policy"] == (
                "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self';"
                " form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
            )
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "://" not in answer.text
            assert not re.search(r"innerHTML|eval\(|\son\w+=|style=", answer.text)


def test_colors_in_both_schemes_have_enough_contrast() -> None:
    """WCAG 2.2, AA: 4.5 to 1 for text, 3 to 1 for the edges of what can be used."""
    light, dark = asset("base.css").split("@media (prefers-color-scheme: dark)")
    for scheme in (light, dark):
        found: dict[str, str] = dict(re.findall(r"--([\w-]+): (#\w+)", scheme))
        for ink in ("ink", "soft", "link", "bad", "good"):
            for paper in ("paper", "raised"):
                assert contrast(found[ink], found[paper]) >= 4.5, (ink, paper)
        assert contrast(found["on-link"], found["link"]) >= 4.5
        assert contrast(found["edge"], found["paper"]) >= 3


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    digits = colour.removeprefix("#")
    wide = digits if len(digits) == 6 else "".join(digit * 2 for digit in digits)
    parts = [int(wide[start : start + 2], 16) / 255 for start in (0, 2, 4)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
