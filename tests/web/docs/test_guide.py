"""/docs/guide: the documentation site in the gateway."""

import re
import zipfile
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path

import pytest
import trio
from playwright.sync_api import Page, expect

from bluesminds.common.errors import NotFound
from bluesminds.web.docs.guide import POLICY, Guide, packaged_site
from bluesminds.web.routes import HandlerResponse, RawBody
from tests import gateways
from tests.browser import Chromium, running
from tests.gateways import Gateway


@pytest.fixture
def chromium() -> Iterator[Chromium]:
    with running() as browser:
        yield browser


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "guide.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("index.html", "<h1>First</h1>")
        packed.writestr("assets/javascripts/workers/search.js", "1")
    return path


async def get(archive: Traversable, file: str) -> HandlerResponse[RawBody]:
    return await Guide(archive).get(file)


async def test_guide_file_has_its_type_and_the_policy(archive: Path) -> None:
    page = await get(archive, "index.html")
    assert page.body == RawBody(b"<h1>First</h1>", "text/html; charset=utf-8")
    assert ("content-security-policy", POLICY) in page.headers
    assert "unsafe" not in POLICY and "http" not in POLICY
    script = await get(archive, "assets/javascripts/workers/search.js")
    assert script.body.content_type.startswith("text/javascript")


@pytest.mark.parametrize("file", ["missing.html", "../index.html", "/index.html", "index.html/", "assets/"])
async def test_guide_unknown_file_is_not_found(archive: Path, file: str) -> None:
    with pytest.raises(NotFound, match=r"Start at /docs/guide/index\.html"):
        await get(archive, file)


async def test_guide_of_a_checkout_says_how_to_build_it(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="make docs"):
        await get(tmp_path / "missing.zip", "index.html")


async def test_guide_address_leads_to_its_first_page(gateway: Gateway) -> None:
    for path in ("/docs/guide", "/docs/guide/"):
        found = await gateway.get(path)
        assert (found.status_code, found.headers["location"]) == (303, "/docs/guide/index.html")


@pytest.mark.process
@pytest.mark.skipif(not packaged_site().is_file(), reason="needs `make docs`")
async def test_built_guide_works_under_its_policy_and_finds_words_offline(
    home: Path, nursery: trio.Nursery, chromium: Chromium
) -> None:
    gateway = await gateways.start(nursery, home, servers=[])

    def look(page: Page) -> list[str]:
        page.goto(f"{gateway.url}/docs/guide")
        expect(page.get_by_role("heading", level=1)).to_contain_text("BluesMinds")
        page.get_by_role("textbox", name="Search").fill("rotate")
        result = page.locator(".md-search-result__link").first
        result.click()
        expect(page).to_have_url(re.compile(r"/docs/guide/(?!index)[a-z]+\.html"))
        page.goto(f"{gateway.url}/docs/guide/settings.html")
        return page.locator("h2").all_inner_texts()

    assert any("[server]" in title for title in await chromium.visit(gateway.url, look))
