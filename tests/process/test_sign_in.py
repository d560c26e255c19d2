"""Sign-in at a certified OpenID Connect provider, in Chromium."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from playwright.sync_api import Page, expect

from tests import browser, gateways
from tests.browser import Chromium

NODE = Path(__file__).parent / "node"
SECRET = "a secret of forty characters, or even more"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    with browser.running() as found:
        yield found


async def line_of(process: trio.Process) -> str:
    """The next line that it prints."""
    assert process.stdout is not None
    text = b""
    with trio.fail_after(60):
        while not text.endswith(b"\n"):
            data = await process.stdout.receive_some(1)
            assert data, "the provider has ended"
            text += data
    return text.decode().strip()


async def test_sign_in_at_a_certified_provider_opens_the_dashboard(
    nursery: trio.Nursery, home: Path, chromium: Chromium
) -> None:
    if not (NODE / "node_modules" / "oidc-provider").is_dir():
        pytest.skip("oidc-provider is not installed")
    process = await trio.lowlevel.open_process(
        ["node", "oidc_provider.mjs"],
        cwd=NODE,
        env={"PATH": os.environ["PATH"], "SECRET": SECRET},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        issuer = await line_of(process)
        row = {"name": "company", "issuer": issuer, "client_id": "gateway", "client_secret": SECRET}
        gateway = await gateways.start(
            nursery, home, servers=[], accounts={"signup": "open"}, identity={"providers": [row]}
        )
        assert process.stdin is not None
        await process.stdin.send_all(f"{gateway.url}/api/auth/oidc/company/callback\n".encode())
        assert await line_of(process) == "ready"

        def sign_in(page: Page) -> None:
            page.goto(f"{gateway.url}/dashboard/settings")
            page.get_by_role("link", name="Continue with company").click()
            expect(page).to_have_title("Provider")
            page.get_by_role("button", name="Allow").click()
            expect(page.get_by_role("heading", level=1)).to_have_text("Settings")
            expect(page.get_by_text("Your account ada@example.com.")).to_be_visible()
            assert page.url == f"{gateway.url}/dashboard/settings"
            names = {cookie["name"] for cookie in page.context.cookies(gateway.url)}
            assert "bluesminds" in names
            assert "bluesminds-sign-in" not in names

        await chromium.visit(gateway.url, sign_in, expected=issuer)
    finally:
        process.kill()
        await process.wait()
