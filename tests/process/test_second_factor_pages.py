"""The second factor in Chromium: set up in the settings, and asked for on the page to sign in."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from playwright.sync_api import Page, expect

from bluesminds.identity.totp import STEP_MS, code_at
from tests import browser
from tests.browser import Chromium
from tests.deployment import PASSWORD, deploy

ADA = "ada@example.com"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with browser.running() as found:
        yield found


def next_code(secret: str) -> str:
    """Of the next step, which is accepted already, so that it differs from the first code."""
    return code_at(secret, time.time_ns() // 1_000_000 // STEP_MS + 1)


async def test_second_factor_is_set_up_and_asked_for(
    nursery: trio.Nursery, home: Path, chromium: Chromium
) -> None:
    site = await deploy(nursery, home)
    await site.create_user(ADA)

    def sign_in(page: Page) -> None:
        page.goto(f"{site.gateway.url}/account/login?next=/dashboard/settings")
        expect(page.get_by_label("Code")).to_be_hidden()
        page.get_by_label("E-mail address").fill(ADA)
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()

    def set_up(page: Page) -> str:
        sign_in(page)
        part = page.get_by_role("region", name="Second factor")
        part.get_by_label("Your password").fill(PASSWORD)
        part.get_by_role("button", name="Set it up").click()
        image = part.get_by_role("img", name="QR code of the secret")
        expect(image).to_be_visible()
        assert (
            image.evaluate("image => image.complete && image.naturalWidth > 0 || image.decode()") is not False
        )
        secret = part.locator(".mono").inner_text().strip()
        first = code_at(secret, time.time_ns() // 1_000_000 // STEP_MS)
        part.get_by_label("Code that the app shows").fill(first)
        part.get_by_role("button", name="Turn it on").click()
        expect(part.locator("pre")).to_contain_text("-")
        return secret

    def enter(page: Page, secret: str) -> None:
        sign_in(page)
        expect(page.get_by_role("alert")).to_have_text(
            "Enter a code from your authenticator app, or a recovery code."
        )
        page.get_by_label("Code").fill(next_code(secret))
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_text("You have 10 recovery codes left.")).to_be_visible()

    secret = await chromium.visit(site.gateway.url, set_up)
    await chromium.visit(site.gateway.url, lambda page: enter(page, secret))
