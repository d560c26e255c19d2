"""The pages of the prompt log: own requests, those of all accounts, and texts of others."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from playwright.sync_api import Page, expect

from tests import gateways
from tests.browser import Chromium
from tests.dashboard.site import DashboardSite
from tests.dashboard.test_in_browser import HOSTILE, PHONE, WIDE, violations
from tests.deployment import create_callers
from tests.fakes.model_server import ModelServer
from tests.gateways import ASK, entry, eventually

Start = Callable[..., Any]


@pytest.fixture
def start(nursery: trio.Nursery, home: Path, models: ModelServer) -> Start:
    async def started(**settings: Any) -> DashboardSite:
        servers = [entry("one", models.url)]
        gateway = await gateways.start(nursery, home, servers=servers, prompt_log=settings)
        site = DashboardSite(await create_callers(gateway, ("user", "other", "admin")))
        body = ASK | {"messages": [{"role": "user", "content": HOSTILE}]}
        answer = await gateway.chat(body, key=site.callers.keys["good"])
        assert answer.status_code == 200
        return site

    return started


async def kept(site: DashboardSite) -> str:
    """The id of the request, when it is stored."""

    async def ids() -> list[str]:
        async with site.browser_client("user") as client:
            return [row["id"] for row in (await client.get("/api/prompt-log")).json()["data"]]

    async def is_kept() -> bool:
        return bool(await ids())

    await eventually(is_kept)
    return (await ids())[0]


async def test_prompt_of_a_user_is_shown_to_the_user_only(start: Start) -> None:
    site = await start(default=True)
    request_id = await kept(site)
    async with site.browser_client("user") as client:
        assert "&gt;&lt;img src=x" in (await client.get("/dashboard/prompts")).text
        text = (await client.get(f"/dashboard/prompts/{request_id}")).text
        assert "&lt;img src=x" in text and "<img" not in text
    async with site.browser_client("other") as client:
        assert (await client.get(f"/dashboard/prompts/{request_id}")).status_code == 404
        assert "No requests are kept" in (await client.get("/dashboard/prompts")).text
    async with site.browser_client("admin") as client:
        text = (await client.get("/dashboard/admin/prompts")).text
        assert "user@example.com" in text and "img src=x" not in text
        answer = await client.get(f"/dashboard/admin/prompts/{request_id}")
        assert answer.status_code == 403 and "may not read the prompts" in answer.text


async def test_look_of_an_administrator_is_in_the_audit_log(start: Start) -> None:
    site = await start(default=True, administrators=True)
    request_id = await kept(site)
    async with site.browser_client("admin") as client:
        text = (await client.get(f"/dashboard/admin/prompts/{request_id}")).text
        assert "&lt;img src=x" in text
        text = (await client.get("/dashboard/admin/audit?action=prompt_log.read")).text
        assert request_id in text


async def test_prompt_log_that_keeps_nothing_is_not_in_the_menu(start: Start) -> None:
    site = await start(retention_days=0)
    async with site.browser_client("admin") as client:
        assert "Prompt log" not in (await client.get("/dashboard")).text
        assert (await client.get("/dashboard/prompts")).status_code == 404


async def test_prompt_is_read_and_deleted_by_keyboard(start: Start, chromium: Chromium) -> None:
    site = await start(default=True)
    await kept(site)

    def work(page: Page) -> None:
        for size in (WIDE, PHONE):
            page.set_viewport_size(size)  # type: ignore[arg-type]
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
                page.goto(f"{site.gateway.url}/dashboard/prompts")
                assert violations(page) == []
                page.locator(".rows a").first.press("Enter")
                expect(page.get_by_role("heading", name="Answer")).to_be_visible()
                assert violations(page) == []
                assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
        assert page.evaluate("window.pwned") is None
        page.get_by_role("button", name="Delete").press("Enter")
        expect(page.get_by_role("button", name="Cancel")).to_be_focused()
        page.get_by_role("dialog").get_by_role("button", name="Delete").press("Enter")
        expect(page.get_by_text("No requests are kept")).to_be_visible()
        page.get_by_label("Store the requests of your keys").select_option("off")
        page.get_by_role("button", name="Save").press("Enter")
        expect(page.get_by_label("Store the requests of your keys")).to_have_value("off")

    await site.look(chromium, "user", work, bypass_csp=True)


async def test_replay_of_a_request_shows_both_answers(start: Start, chromium: Chromium) -> None:
    site = await start(default=True)
    request_id = await kept(site)

    def work(page: Page) -> None:
        page.goto(f"{site.gateway.url}/dashboard/requests/{request_id}")
        page.get_by_role("link", name="Replay").press("Enter")
        expect(page.get_by_text("The request has not been sent again yet.")).to_be_visible()
        page.get_by_label("Model").fill("unknown-model")
        page.get_by_role("button", name="Send again").press("Enter")
        expect(page.get_by_role("alert").or_(page.locator(".wrong")).first).to_contain_text("unknown-model")
        page.get_by_label("Model").fill("")
        page.get_by_role("button", name="Send again").press("Enter")
        expect(page.get_by_text("The request was sent again.")).to_be_visible()
        answers = page.locator("pre.text").all_inner_texts()
        assert len(answers) == 2 and answers[0] == answers[1] != ""
        for size in (WIDE, PHONE):
            page.set_viewport_size(size)  # type: ignore[arg-type]
            assert violations(page) == []
            assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
        page.get_by_role("link", name="Receipt").press("Enter")
        expect(page.get_by_role("link", name=request_id)).to_be_visible()
        assert page.evaluate("window.pwned") is None

    await site.look(chromium, "user", work, bypass_csp=True)


async def test_replay_page_of_another_user_needs_the_permission(start: Start) -> None:
    site = await start(default=True)
    request_id = await kept(site)
    async with site.browser_client("other") as client:
        assert (await client.get(f"/dashboard/prompts/{request_id}/replay")).status_code == 404
    async with site.browser_client("admin") as client:
        answer = await client.get(f"/dashboard/admin/prompts/{request_id}/replay")
        assert answer.status_code == 403
        assert "Replay" not in (await client.get(f"/dashboard/requests/{request_id}")).text
