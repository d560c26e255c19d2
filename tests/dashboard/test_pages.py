"""Pages without a browser: status, headers and content for each kind of user.

The list of pages comes from the routes, so that a new page is tested as well.
"""

import csv
import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
import trio
from playwright.sync_api import Page, expect

from bluesminds.accounts.audit import OPERATOR
from bluesminds.accounts.vendor_keys import VendorKeyTest
from bluesminds.app.dashboard import build_dashboard
from bluesminds.dashboard.frame import POLICY
from bluesminds.dashboard.receipts import _why
from bluesminds.web.guard import Access
from bluesminds.web.routes import Route
from tests import gateways
from tests.browser import Chromium
from tests.dashboard.site import HTML, DashboardSite
from tests.deployment import PASSWORD, anonymous_client, create_callers
from tests.fakes.model_server import ModelServer
from tests.gateways import entry
from tests.plain_client import connect

HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
# What pages need that show one of something by its name.
QUERIES = {"/dashboard/admin/models/prices": "?model=m"}


class _NoParts:
    """Stands for parts that are not used while the routes are built."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *args: Any) -> Any:
        return self


def routes_of(site: DashboardSite) -> list[Route]:
    built = build_dashboard(site.gateway.services, *(cast("Any", _NoParts()) for _ in range(4)))
    assert built is not None
    return built.routes


def address(site: DashboardSite, route: Route) -> str:
    """The address of a page that the user may see."""
    values = {
        "key_id": site.key_id,
        "user_id": site.callers.users["user"],
        "name": "one",
        "request_id": site.request_id,
        "chat_id": site.chat_id,
        "batch_id": site.batch_id,
        "route_id": site.route_id,
    }
    return route.path.format_map(values) + QUERIES.get(route.path, "")


def pages_of(site: DashboardSite, access: Access) -> list[str]:
    """All but those of one prompt and one webhook, which must exist first, and previews of mail; see
    test_prompts.py, test_webhooks.py and test_mail.py. Those of a batch of codes and of a route only if
    there is one.
    """
    found = [
        address(site, route)
        for route in routes_of(site)
        if route.access is access
        and "html" in route.media
        and not re.search("(prompts|webhooks|mail)/{", route.path)
        and ("{batch_id}" not in route.path or site.batch_id)
        and ("{route_id}" not in route.path or site.route_id)
    ]
    assert found
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
    async with site.browser_client("user") as client:
        answer = await client.post("/dashboard/keys")
    assert answer.status_code == 405


@pytest.mark.parametrize("rows", [0, 1, 60])
async def test_page_of_a_user_is_shown_to_all_roles(both_engines: DashboardSite, rows: int) -> None:
    await both_engines.add_usage("user", rows)
    await both_engines.add_chat()
    for name in ("user", "admin"):
        async with both_engines.browser_client(name) as client:
            for path in pages_of(both_engines, Access.SESSION):
                is_missing = both_engines.request_id in path and not rows
                is_of_user = both_engines.key_id in path or both_engines.chat_id in path
                if is_missing or (name == "admin" and is_of_user):
                    continue
                check_page(await client.get(path))
    assert both_engines.gateway.events("control_failed") == []


async def test_page_of_administrators_is_shown_to_them_only(both_engines: DashboardSite) -> None:
    await both_engines.add_usage("user", 5, own_input_tokens=3, own_output_tokens=2)
    await both_engines.add_codes()
    await both_engines.add_route()
    paths = pages_of(both_engines, Access.ADMIN)
    async with both_engines.browser_client("admin") as client:
        for path in paths:
            check_page(await client.get(path))
    async with both_engines.browser_client("user") as client:
        for path in paths:
            answer = await client.get(path)
            assert answer.status_code == 403
            assert "This page is for administrators" in answer.text
    async with both_engines.gateway.operator() as operator:
        for path in paths:
            assert (await operator.get(path)).status_code == 200
    assert both_engines.gateway.events("control_failed") == []


async def test_page_without_a_session_leads_to_the_login_page(site: DashboardSite) -> None:
    async with site.browser_client(None) as client:
        for access in (Access.SESSION, Access.ADMIN):
            for path in pages_of(site, access):
                if "?" in path:
                    continue
                answer = await client.get(f"{path}?range=7d")
                assert answer.status_code == 303
                assert answer.headers["location"] == f"/account/login?next={path}%3Frange%3D7d"


async def test_page_for_a_program_without_a_session_is_a_json_error(site: DashboardSite) -> None:
    async with anonymous_client(site.gateway) as client:
        answer = await client.get("/dashboard")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "session_required")


async def test_key_of_another_user_is_not_found(site: DashboardSite) -> None:
    for name in ("other", "admin"):
        async with site.browser_client(name) as client:
            answer = await client.get(f"/dashboard/keys/{site.key_id}")
            assert answer.status_code == 404
            assert "There is no key with this id." in answer.text
            assert answer.headers["x-request-id"] in answer.text
            assert 'aria-label="Pages"' in answer.text, "the menu stays"


WRONG_QUERIES: list[str] = [
    "/dashboard?range=1y",
    "/dashboard?x=1",
    "/dashboard?range=7d&range=7d",
    "/dashboard/keys?after=x",
]


async def test_page_with_a_wrong_query_says_what_is_wrong(
    site: DashboardSite, subtests: pytest.Subtests
) -> None:
    for path in WRONG_QUERIES:
        with subtests.test(path=path):
            async with site.browser_client("user") as client:
                answer = await client.get(path)
            assert answer.status_code == 400
            assert "Invalid address" in answer.text
            assert answer.headers["content-security-policy"] == POLICY


async def test_unknown_page_is_a_page(site: DashboardSite) -> None:
    async with site.browser_client("user") as client:
        answer = await client.get("/dashboard/no/such")
    assert answer.status_code == 404
    assert "Not found" in answer.text
    assert answer.headers["content-type"].startswith("text/html")


async def test_root_redirects_browsers_only(site: DashboardSite) -> None:
    async with site.browser_client(None) as client:
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
    async with site.browser_client("user") as client:
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
    async with site.browser_client("user") as client:
        text = (await client.get("/dashboard?range=24h")).text
        assert "$5.00" in text
        assert "big-model" in text
        text = (await client.get("/dashboard?range=24h&by=key")).text
        assert "good" in text, "the name of the key"
    async with site.browser_client("other") as client:
        text = (await client.get("/dashboard")).text
        assert "big-model" not in text
        assert "Waiting for your first request" in text


async def test_page_of_appearance_follows_the_cookie(site: DashboardSite) -> None:
    async with site.browser_client("user") as client:
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
    async with site.browser_client("user") as client:
        text = (await client.get(f"/dashboard/keys/{key_id}")).text
        listed = (await client.get("/dashboard/keys")).text
    assert 'name="limits.usd_per_month" value="12.5"' in text
    assert 'name="limits.rpm" value="7"' in text
    assert "$0.00 of $12.50" in listed


async def test_keys_page_with_many_keys_has_a_next_page(site: DashboardSite) -> None:
    async with connect(site.gateway, local=True) as operator:
        body = {"name": "tests", "user_id": site.callers.users["other"]}
        for _ in range(51):
            made = await operator.send("POST", "/api/admin/keys", {}, body)
            assert made.status_code == 201, made.text
    async with site.browser_client("other") as client:
        text = (await client.get("/dashboard/keys")).text
        assert text.count('<th scope="row"') == 50
        (more,) = re.findall(r'rel="next" href="([^"]+)"', text)
        text = (await client.get(more.replace("&amp;", "&"))).text
        assert text.count('<th scope="row"') == 1


def times_in(text: str) -> list[str]:
    return re.findall(r'<tr[^>]*><td class="left"><a[^>]*><time datetime="([^"]+)"', text)


async def test_requests_page_shows_each_request_once(both_engines: DashboardSite) -> None:
    await both_engines.add_usage("user", 120)
    await both_engines.add_usage("other", 3)
    seen: list[str] = []
    path = "/dashboard/requests"
    async with both_engines.browser_client("user") as client:
        while path:
            text = (await client.get(path)).text
            seen += times_in(text)
            path = "".join(re.findall(r'rel="next" href="([^"]+)"', text)).replace("&amp;", "&")
    assert len(seen) == len(set(seen)) == 120
    assert seen == sorted(seen, reverse=True)


FILTERS: list[tuple[str, int]] = [
    ("status=failed", 2),
    ("status=ok", 5),
    ("status=5xx", 2),
    ("q=status:502", 2),
    ("q=status:9", 0),
    ("q=model:rare", 1),
    ("model=rare", 1),
    ("server=two", 1),
    ("q=request-0+status:200", 1),
    ("key=nope", 0),
]


async def test_requests_page_with_a_filter_shows_what_matches(
    both_engines: DashboardSite, subtests: pytest.Subtests
) -> None:
    await both_engines.add_usage("user", 3, model="common")
    await both_engines.add_usage("user", 1, model="rare", server="two", request_id="r-1")
    await both_engines.add_usage("user", 2, status=502, outcome="upstream_error", request_id="r-2")
    await both_engines.add_usage("user", 1, outcome="stopped", model="stopped", request_id="r-3")
    for query, count in FILTERS:
        with subtests.test(query=query):
            async with both_engines.browser_client("user") as client:
                text = (await client.get(f"/dashboard/requests?{query}")).text
            assert len(times_in(text)) == count
            assert ("Nothing matches" in text) == (count == 0)


async def test_request_is_found_by_its_id(site: DashboardSite) -> None:
    answer = await site.gateway.chat(key=site.callers.keys["good"])
    await site.gateway.settled(1)
    async with site.browser_client("user") as client:
        text = (await client.get(f"/dashboard/requests?q={answer.headers['x-request-id']}")).text
    assert len(times_in(text)) == 1


async def test_usage_csv_has_a_line_for_each_day_and_group(both_engines: DashboardSite) -> None:
    await both_engines.add_usage("user", 2, model="=cmd()", cost_nano=1_500_000_000)
    async with both_engines.browser_client("user") as client:
        answer = await client.get("/dashboard/usage.csv?range=90d")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    head, *lines = list(csv.DictReader(io.StringIO(answer.text)))
    assert lines == [] or len(lines) == 1, "the rows may be of two days"
    assert head["model"] == "'=cmd()", "a spreadsheet must not run it"
    assert head["cost_usd"] in ("3", "1.5")


async def test_usage_page_with_a_filter_sums_only_its_rows(site: DashboardSite) -> None:
    await site.add_usage("user", 2, model="a", cost_nano=1_000_000_000)
    await site.add_usage("user", 1, model="b", cost_nano=5_000_000_000)
    async with site.browser_client("user") as client:
        text = (await client.get("/dashboard/usage?range=24h&by=key&model=a")).text
    assert "$2.00" in text and "$5.00" not in text
    assert "Model: a" in text


async def test_pages_of_all_show_every_user_and_filter_one(both_engines: DashboardSite) -> None:
    site, other = both_engines, both_engines.callers.users["other"]
    await site.add_usage("user", 2, model="a", cost_nano=1_000_000_000)
    await site.add_usage("other", 1, model="b", cost_nano=5_000_000_000, status=502, outcome="upstream_error")
    requests, usage = "/dashboard/admin/requests", "/dashboard/admin/usage?range=24h"
    async with site.browser_client("admin") as client:
        everything = (await client.get(requests)).text
        assert "user@example.com" in everything and "other@example.com" in everything
        assert f'<a href="{requests}?key={site.key_id}">good</a>' in everything
        for query in (
            f"user={other}",
            "user=other%40example.com",
            "q=user:other@example.com",
            "status=failed",
        ):
            shown = (await client.get(f"{requests}?{query}")).text
            assert shown.count("data-row=") == 1, query
        for query in ("user=unknown%40example.com", "until=2020-01-01"):
            assert "Nothing matches" in (await client.get(f"{requests}?{query}")).text
        assert (
            f"/api/admin/usage/export?format=csv&amp;user={other}"
            in (await client.get(f"{requests}?user={other}")).text
        )
        by_user = (await client.get(f"{usage}&by=user")).text
        assert "other@example.com" in by_user and "$7.00" in by_user
        assert "$7.00" not in (await client.get(f"{usage}&by=model&user={other}")).text
        lines = (await client.get(f"/dashboard/admin/usage.csv?range=24h&by=key&user={other}")).text
        assert lines.splitlines()[1].endswith(",1,1,10,20,5,0")


async def test_export_of_the_account_has_no_secret(site: DashboardSite) -> None:
    await site.add_usage("user", 1)
    async with site.browser_client("user") as client:
        found = (await client.get("/api/auth/me/export")).json()
    assert found["user"]["email"] == "user@example.com"
    assert site.key_id in [key["id"] for key in found["keys"]]
    assert sum(day["requests"] for day in found["usage"]) == 1
    assert len(found["sessions"]) == 1
    assert "digest" not in str(found) and site.callers.keys["good"] not in str(found)


async def test_settings_page_shows_own_keys_for_vendors(site: DashboardSite) -> None:
    keys = site.gateway.services.accounts.vendor_keys
    test = VendorKeyTest(("a", "b"), "completion: a: 402: no credit")
    async with site.browser_client("user") as client:
        before = (await client.get("/dashboard/settings")).text
        await keys.add(
            OPERATOR,
            site.callers.users["user"],
            vendor="openai",
            api_key="sk-own-0123456789-Abcd",
            mode="only",
            models=(),
            test=test,
        )
        after = (await client.get("/dashboard/settings")).text
    async with site.browser_client("admin") as client:
        of_user = (await client.get(f"/dashboard/admin/users/{site.callers.users['user']}")).text
    assert "Keys for vendors" in of_user and "…Abcd" in of_user and "0123456789" not in of_user
    assert '<option value="openai">OpenAI</option>' in before
    assert '<option value="openai">' not in after
    assert '<option value="anthropic">' in after
    for text in ("…Abcd", "<td>2</td>", "instead of the gateway", "completion: a: 402: no credit"):
        assert text in after, text
    assert "0123456789" not in after


async def test_account_deleted_by_its_user_is_gone(site: DashboardSite) -> None:
    async with site.browser_client("user") as client:
        wrong = await client.post("/api/auth/me/delete", json={"password": "wrong password"})
        assert wrong.json()["error"]["code"] == "invalid_credentials"
        answer = await client.post("/api/auth/me/delete", json={"password": PASSWORD})
        assert answer.status_code == 204
        assert "Max-Age=0" in answer.headers["set-cookie"]
    assert (await site.gateway.chat(key=site.callers.keys["good"])).status_code == 401
    async with site.browser_client("admin") as client:
        answer = await client.post("/api/auth/me/delete", json={"password": PASSWORD})
    assert answer.json()["error"]["code"] == "last_admin"


async def test_servers_page_says_which_server_is_down(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    servers = [entry("one", models.url), entry("gone", "http://127.0.0.1:9/v1", models=["x"])]
    gateway = await gateways.start(nursery, home, servers=servers)
    site = DashboardSite(await create_callers(gateway, ("user", "admin")))
    await site.add_usage("user", 3, server="one")
    async with site.browser_client("admin") as client:
        text = (await client.get("/dashboard/admin/servers")).text
        assert re.search(r"<b>gone</b></a> is down: [^<]*127.0.0.1", text)
        assert '<span class="note" data-down>1 down</span>' in text
        assert re.findall(r'servers/(\w+)">\1</a>', text) == ["gone", "one"], "what is down comes first"
        text = (await client.get("/dashboard/admin/servers/one")).text
        assert '<p class="figure">3</p>' in text
        assert (await client.get("/dashboard/admin/servers/none")).status_code == 404
    async with site.browser_client("user") as client:
        assert " down</span>" not in (await client.get("/dashboard")).text


async def test_routes_page_explains_what_would_happen(site: DashboardSite) -> None:
    async with site.browser_client("admin") as client:
        text = (await client.get("/dashboard/admin/routes?model=m")).text
        assert "First <b>one</b> with the model m" in text
        text = (await client.get("/dashboard/admin/routes?model=no-such-model")).text
        assert "The client would get status 404" in text


async def test_models_page_lists_models_without_a_price_first(site: DashboardSite) -> None:
    async with site.browser_client("admin") as client:
        text = (await client.get("/dashboard/admin/models")).text
    assert "1 model has no price" in text


async def test_users_page_finds_an_address_and_shows_invitations(both_engines: DashboardSite) -> None:
    await both_engines.add_usage("user", 2, cost_nano=1_000_000_000)
    async with both_engines.browser_client("admin") as client:
        await client.post("/api/admin/invites", json={"email": "new@example.com"})
        text = (await client.get("/dashboard/admin/users")).text
        assert "new@example.com" in text and "$2.00" in text
        text = (await client.get("/dashboard/admin/users?q=user@example.com")).text
        assert "user@example.com" in text and "other@example.com" not in text
        assert "Nothing matches" in (await client.get("/dashboard/admin/users?q=none@example.com")).text
        user_id = both_engines.callers.users["user"]
        limits = {"usd_per_month": "7.5"}
        await client.patch(f"/api/admin/users/{user_id}/limits", json=limits)
        text = (await client.get(f"/dashboard/admin/users/{user_id}")).text
        assert 'name="usd_per_month" value="7.5"' in text and "good" in text


async def test_audit_page_shows_changes_and_filters(both_engines: DashboardSite) -> None:
    async with both_engines.browser_client("admin") as client:
        user_id = both_engines.callers.users["user"]
        await client.patch(f"/api/admin/users/{user_id}", json={"full_name": "Ada <b>"})
        text = (await client.get("/dashboard/admin/audit?action=user.update")).text
        assert text.count("<tr><td") == 1
        assert "<dt>full_name</dt><dd> → Ada &lt;b&gt;</dd>" in text
        assert "Nothing matches" in (await client.get("/dashboard/admin/audit?action=x")).text
        for _ in range(51):
            await client.post("/api/keys", json={"name": "more"})
        text = (await client.get("/dashboard/admin/audit?action=key.create")).text
        (more,) = re.findall(r'rel="next" href="([^"]+)"', text)
        text = (await client.get(more.replace("&amp;", "&"))).text
        assert text.count("<tr><td") >= 1


async def test_system_page_masks_secrets(nursery: trio.Nursery, home: Path) -> None:
    pepper = "a pepper of the tests"
    gateway = await gateways.start(nursery, home, servers=[], keys={"pepper": pepper})
    site = DashboardSite(await create_callers(gateway, ("user", "admin")))
    async with site.browser_client("admin") as client:
        text = (await client.get("/dashboard/admin/system")).text
    assert "pepper" in text and pepper not in text
    assert "no usable server" in text
    assert "SQLite" in text


async def test_dashboard_that_is_turned_off_is_not_served(nursery: trio.Nursery, home: Path) -> None:
    gateway = await gateways.start(nursery, home, servers=[], dashboard={"enabled": False})
    async with anonymous_client(gateway, **HTML) as client:
        for path in ("/dashboard", "/dashboard/keys", "/account/login", "/account/enter"):
            assert (await client.get(path)).status_code == 404
        assert (await client.get("/")).json()["name"] == "BluesMinds"
        assert (await client.get("/account/verify")).status_code == 200


async def test_receipt_page_says_where_the_request_was_sent(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    servers = [entry("one", models.url), entry("gone", "http://127.0.0.1:9/v1", priority=-1)]
    prices = [{"model": "m", "input_usd": "1.25", "output_usd": "10"}]
    gateway = await gateways.start(nursery, home, servers=servers, prices=prices)
    site = DashboardSite(await create_callers(gateway, ("user", "other", "admin")))
    await gateway.chat(key=site.callers.keys["good"])
    (row,) = await gateway.settled(1)
    async with site.browser_client("user") as client:
        text = (await client.get(f"/dashboard/requests/{row['id']}")).text
    assert "<b>one</b> answered" in text
    assert "What it cost" in text and "$1.25" in text
    async with site.browser_client("other") as client:
        assert (await client.get(f"/dashboard/requests/{row['id']}")).status_code == 404
    async with site.browser_client("admin") as client:
        assert site.callers.users["user"] in (await client.get(f"/dashboard/requests/{row['id']}")).text


async def test_receipt_page_says_why_a_request_failed(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    servers = [entry("gone", "http://127.0.0.1:9/v1"), entry("too", "http://127.0.0.1:9/v1")]
    gateway = await gateways.start(nursery, home, servers=servers)
    site = DashboardSite(await create_callers(gateway, ("user", "admin")))
    await gateway.chat(key=site.callers.keys["good"])
    (row,) = await gateway.settled(1)
    async with site.browser_client("user") as client:
        text = (await client.get(f"/dashboard/requests/{row['id']}")).text
    assert "The last one: no connection to the server." in text
    assert "ConnectFailed" not in text


@pytest.mark.parametrize(
    ("reasons", "text"),
    [
        (
            ("total_timeout", "shadow"),
            "The only attempt failed. The last one: the total timeout",
        ),
        (("503", "hedge_lost", "error_in_stream"), "All 2 attempts failed. The last one: the server sent an"),
        (("shadow",), "The server responded with an error."),
    ],
)
def test_reason_of_a_failure_is_that_of_an_attempt_that_failed(reasons: tuple[str, ...], text: str) -> None:
    attempts = [SimpleNamespace(reason=reason) for reason in reasons]
    row = SimpleNamespace(outcome="upstream_error", status=502, attempts=len(attempts))
    assert _why(cast(Any, row), cast(Any, SimpleNamespace(attempts=attempts))).startswith(text)


async def test_overview_says_how_long_the_credit_lasts(site: DashboardSite) -> None:
    await site.add_credit("user", usd=20)
    async with site.browser_client("user") as client:
        assert "prepaid" in (await client.get("/dashboard?range=24h")).text
        await site.add_usage("user", 4, model="a", cost_nano=1_000_000_000)
        text = (await client.get("/dashboard?range=24h")).text
    assert "The credit of $20.00 lasts about 5 days at the current rate." in text


async def test_models_page_has_prices_and_examples(site: DashboardSite) -> None:
    async with site.browser_client("user") as client:
        text = (await client.get("/dashboard/models?q=m")).text
        assert 'href="/dashboard/playground?model=m"' in text
        assert "no price for tokens" in text and "ANTHROPIC_BASE_URL" in text
        assert "No model has this text in its name." in (await client.get("/dashboard/models?q=zz")).text


async def test_users_page_finds_a_part_of_an_address(site: DashboardSite) -> None:
    async with site.browser_client("admin") as client:
        text = (await client.get("/dashboard/admin/users?q=other@")).text
        assert "other@example.com" in text and ">user@example.com" not in text
        assert "Nothing matches" in (await client.get("/dashboard/admin/users?show=disabled")).text


async def test_user_page_shows_webhooks_of_the_user(site: DashboardSite) -> None:
    async with site.browser_client("user") as client:
        body = {"url": "https://example.com/of-the-user", "events": ["*"]}
        assert (await client.post("/api/webhooks", json=body)).status_code == 201
    async with site.browser_client("admin") as client:
        text = (await client.get(f"/dashboard/admin/users/{site.callers.users['user']}")).text
    assert "https://example.com/of-the-user" in text


async def test_receipt_page_names_a_shadow_as_a_copy(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    servers = [entry("one", models.url), entry("two", models.url)]
    routes = [{"model": "m", "targets": ["one"], "shadow": "two", "shadow_share": 1.0}]
    gateway = await gateways.start(nursery, home, servers=servers, routes=routes)
    site = DashboardSite(await create_callers(gateway, ("user", "admin")))
    await gateway.chat(key=site.callers.keys["good"])
    (row,) = await gateway.settled(1)
    async with site.browser_client("user") as client:
        text = (await client.get(f"/dashboard/requests/{row['id']}")).text
    assert "<b>one</b> answered" in text
    assert "<b>two</b> got a copy of the request" in text and "failed after" not in text


async def test_servers_that_are_not_exposed_are_hidden_from_users(
    nursery: trio.Nursery, home: Path, models: ModelServer
) -> None:
    servers = [entry("secret-server", models.url)]
    gateway = await gateways.start(nursery, home, servers=servers, server={"expose_server": False})
    site = DashboardSite(await create_callers(gateway, ("user", "admin")))
    await gateway.chat(key=site.callers.keys["good"])
    (row,) = await gateway.settled(1)
    async with site.browser_client("user") as client:
        for path in ("", "/requests", f"/requests/{row['id']}", "/usage"):
            assert "secret-server" not in (await client.get(f"/dashboard{path}")).text
        for path in ("?by=server", "/usage?by=server", "/usage.csv?by=server"):
            assert (await client.get(f"/dashboard{path}")).status_code == 400
        for path in ("/usage?", "/usage.csv?", "/requests?", "/requests?q=server:x&", "/live/requests?"):
            assert (await client.get(f"/dashboard{path}server=secret-server")).status_code == 400, path
    async with site.browser_client("admin") as client:
        assert "secret-server" in (await client.get(f"/dashboard/requests/{row['id']}")).text


async def test_system_page_says_where_each_setting_is_set(site: DashboardSite) -> None:
    async with site.browser_client("admin") as client:
        text = (await client.get("/dashboard/admin/system")).text
    found = dict(
        re.findall(
            r'<th scope="row" class="mono">(signup|drain_timeout|host)</th>.*?<td class="left">([^<]+)</td>',
            text,
        )
    )
    assert "gateway.toml:" in found["signup"] and "gateway.toml:" in found["drain_timeout"]
    assert found["host"] == "\N{EN DASH}"
    assert "Write-ahead log" in text and ">recorder</span>" in text


async def test_system_page_runs_the_checks_of_doctor(site: DashboardSite, chromium: Chromium) -> None:
    def work(page: Page) -> None:
        page.goto(f"{site.gateway.url}/dashboard/admin/system")
        page.get_by_role("button", name="Run all checks").press("Enter")
        page.get_by_role("button", name="Run the checks").press("Enter")
        expect(page.get_by_text("server one", exact=True)).to_be_visible()
        expect(page.get_by_text("SQLite is intact")).to_be_visible()

    await site.look(chromium, "admin", work)
