"""Pages without a browser: status, headers and content for each kind of visitor.

The list of pages comes from the routes, so that a new page is tested as well.
"""

import re
from typing import Any, cast

import httpx
import pytest

from bluesminds.app.dashboard import build_dashboard
from bluesminds.common.values import InUse
from bluesminds.dashboard.frame import POLICY
from bluesminds.web.guard import Access
from bluesminds.web.routes import Route
from tests.dashboard.visitors import DashboardSite
from tests.deployment import anonymous_client

HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class _NoParts:
    """Stands for parts that are not used while the routes are built."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *args: Any) -> Any:
        return self


def routes_of(site: DashboardSite) -> list[Route]:
    built = build_dashboard(site.gateway.services, cast("Any", _NoParts()), lambda _: InUse())
    assert built is not None
    return built.routes


def address(site: DashboardSite, route: Route) -> str:
    """The address of a page that the user may see."""
    values = {"key_id": site.key_id, "user_id": site.callers.users["user"], "name": "one"}
    return route.path.format_map(values)


def pages_of(site: DashboardSite, access: Access) -> list[str]:
    found = [
        address(site, route) for route in routes_of(site) if route.access is access and "html" in route.media
    ]
    assert found or access is Access.ADMIN
    return found


def check_page(answer: httpx.Response) -> None:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert answer.headers["server-timing"].startswith("page;dur=")
    assert re.search(r"<title>[^<]+ · BluesMinds</title>", answer.text)
    assert len(re.findall("<h1", answer.text)) == 1


async def test_every_route_is_read_only(site: DashboardSite) -> None:
    assert {route.method for route in routes_of(site)} == {"GET"}
    async with site.visitor("user") as client:
        answer = await client.post("/dashboard/keys")
    assert answer.status_code == 405


@pytest.mark.parametrize("rows", [0, 1, 60])
async def test_page_of_a_user_is_shown_to_all_roles(both_engines: DashboardSite, rows: int) -> None:
    await both_engines.add_usage("user", rows)
    for name in ("user", "admin"):
        async with both_engines.visitor(name) as client:
            for path in pages_of(both_engines, Access.SESSION):
                if name == "admin" and both_engines.key_id in path:
                    continue
                check_page(await client.get(path))
    assert both_engines.gateway.events("control_failed") == []


async def test_page_of_administrators_is_shown_to_them_only(both_engines: DashboardSite) -> None:
    await both_engines.add_usage("user", 5)
    paths = pages_of(both_engines, Access.ADMIN)
    async with both_engines.visitor("admin") as client:
        for path in paths:
            check_page(await client.get(path))
    async with both_engines.visitor("user") as client:
        for path in paths:
            answer = await client.get(path)
            assert answer.status_code == 403
            assert "This page is for administrators" in answer.text
    async with both_engines.gateway.operator() as operator:
        for path in paths:
            assert (await operator.get(path)).status_code == 200
    assert both_engines.gateway.events("control_failed") == []


async def test_page_without_a_session_leads_to_the_login_page(site: DashboardSite) -> None:
    async with site.visitor(None) as client:
        for access in (Access.SESSION, Access.ADMIN):
            for path in pages_of(site, access):
                answer = await client.get(f"{path}?range=7d")
                assert answer.status_code == 303
                assert answer.headers["location"] == f"/account/login?next={path}%3Frange%3D7d"


async def test_page_for_a_program_without_a_session_is_a_json_error(site: DashboardSite) -> None:
    async with anonymous_client(site.gateway) as client:
        answer = await client.get("/dashboard")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "session_required")


async def test_key_of_another_user_is_not_found(site: DashboardSite) -> None:
    for name in ("other", "admin"):
        async with site.visitor(name) as client:
            answer = await client.get(f"/dashboard/keys/{site.key_id}")
            assert answer.status_code == 404
            assert "There is no key with this id." in answer.text
            assert answer.headers["x-request-id"] in answer.text
            assert 'aria-label="Pages"' in answer.text, "the menu stays"


@pytest.mark.parametrize(
    "path",
    ["/dashboard?range=1y", "/dashboard?x=1", "/dashboard?range=7d&range=7d", "/dashboard/keys?after=x"],
)
async def test_page_with_a_wrong_query_says_what_is_wrong(site: DashboardSite, path: str) -> None:
    async with site.visitor("user") as client:
        answer = await client.get(path)
    assert answer.status_code == 400
    assert "This address is not right" in answer.text
    assert answer.headers["content-security-policy"] == POLICY


async def test_unknown_page_is_a_page(site: DashboardSite) -> None:
    async with site.visitor("user") as client:
        answer = await client.get("/dashboard/no/such")
    assert answer.status_code == 404
    assert "Not found" in answer.text
    assert answer.headers["content-type"].startswith("text/html")


async def test_root_redirects_browsers_only(site: DashboardSite) -> None:
    async with site.visitor(None) as client:
        answer = await client.get("/")
        assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard")
        assert answer.headers["vary"] == "Accept"
        assert (await client.get("/dashboard/")).headers["location"] == "/dashboard"
        assert (await client.get("/health")).headers["content-type"] == "application/json"
    async with anonymous_client(site.gateway) as client:
        answer = await client.get("/")
    assert answer.json()["name"] == "BluesMinds"
    assert answer.headers["vary"] == "Accept"


async def test_assets_have_an_address_of_their_content(site: DashboardSite) -> None:
    async with site.visitor("user") as client:
        text = (await client.get("/dashboard")).text
        for path in set(re.findall(r"/dashboard/assets/[^\"]+", text)):
            answer = await client.get(path)
            assert answer.status_code == 200
            assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
            old = re.sub("assets/[0-9a-f]+", "assets/0123456789abcdef", path)
            assert (await client.get(old)).status_code == 404
        assert (await client.get(path.rpartition("/")[0] + "/none.js")).status_code == 404


async def test_page_contains_the_data_of_the_account(site: DashboardSite) -> None:
    fields = {"cost_nano": 2_500_000_000, "input_tokens": 10, "output_tokens": 5, "model": "big-model"}
    await site.add_usage("user", 2, **fields)
    async with site.visitor("user") as client:
        text = (await client.get("/dashboard?range=24h")).text
        assert "$5.00" in text
        assert "big-model" in text
        text = (await client.get("/dashboard?range=24h&by=key")).text
        assert "good" in text, "the name of the key"
    async with site.visitor("other") as client:
        text = (await client.get("/dashboard")).text
        assert "big-model" not in text
        assert "Waiting for your first request" in text


async def test_page_of_appearance_follows_the_cookie(site: DashboardSite) -> None:
    async with site.visitor("user") as client:
        for cookie, expected in (("dark", 'data-theme="dark"'), ("x", '<html lang="en">')):
            client.cookies.set("theme", cookie)
            assert expected in (await client.get("/dashboard")).text
        client.cookies.set("zone", "Asia/Tokyo")
        await site.add_usage("user", 1)
        assert "When (Asia/Tokyo)" in (await client.get("/dashboard")).text


async def test_key_page_shows_its_limits(site: DashboardSite) -> None:
    key_id, _ = await site.gateway.new_key(
        user_id=site.callers.users["user"], limits={"usd_per_month": "12.5", "rpm": 7}
    )
    async with site.visitor("user") as client:
        text = (await client.get(f"/dashboard/keys/{key_id}")).text
        listed = (await client.get("/dashboard/keys")).text
    assert 'name="limits.usd_per_month" value="12.5"' in text
    assert 'name="limits.rpm" value="7"' in text
    assert "$0.00 of $12.50" in listed


async def test_keys_page_with_many_keys_has_a_next_page(site: DashboardSite) -> None:
    for _ in range(51):
        await site.gateway.new_key(user_id=site.callers.users["other"])
    async with site.visitor("other") as client:
        text = (await client.get("/dashboard/keys")).text
        assert text.count('<th scope="row"') == 50
        (more,) = re.findall(r'rel="next" href="([^"]+)"', text)
        text = (await client.get(more.replace("&amp;", "&"))).text
        assert text.count('<th scope="row"') == 1
