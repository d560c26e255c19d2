"""Links between accounts and identities at a provider, over HTTP."""

from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from tests.deployment import PASSWORD, BrowserUser, Deployment, code_of, deploy
from tests.fakes import identity_server
from tests.fakes.identity_server import CLIENT_ID, CLIENT_SECRET, IdentityServer

ADA, EVE = "ada@example.com", "eve@example.com"
PATH = "/api/auth/identities"
START = "/api/auth/oidc/company"
LATER = 900_001


class ManualClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000_000

    def now_ms(self) -> int:
        return self.now


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def provider(nursery: trio.Nursery, clock: ManualClock) -> IdentityServer:
    found: IdentityServer = await nursery.start(identity_server.serve)
    seconds = clock.now // 1000
    found.claims |= {"iat": seconds, "exp": seconds + 86_400}
    return found


@pytest.fixture
async def site(nursery: trio.Nursery, home: Path, clock: ManualClock, provider: IdentityServer) -> Deployment:
    row = {
        "name": "company",
        "title": "Our company",
        "issuer": provider.url,
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "link_by_email": False,
    }
    sections = {"identity": {"providers": [row]}}
    return await deploy(nursery, home, clock=clock, signup="open", sections=sections)


async def link(browser: BrowserUser, provider: IdentityServer, **body: Any) -> httpx.Response:
    """The answer to the return from the provider, or to the start if it is an error."""
    answer = await browser.send("POST", PATH, {"provider": "company", **body})
    if answer.is_error:
        return answer
    return await browser.send("GET", provider.authorize(answer.json()["url"]))


async def sign_in(browser: BrowserUser, provider: IdentityServer) -> str:
    started = await browser.send("GET", START)
    code = code_of(await browser.send("GET", provider.authorize(started.headers["location"])))
    if code == "303":
        csrf = (await browser.send("GET", "/api/auth/me")).json()["csrf_token"]
        browser.client.headers["x-csrf-token"] = csrf
    return code


async def linked(browser: BrowserUser) -> list[dict[str, Any]]:
    return list((await browser.send("GET", PATH)).json()["data"])


async def test_linked_identity_opens_the_account(site: Deployment, provider: IdentityServer) -> None:
    user_id = await site.create_user(ADA)
    provider.user["email_verified"] = False
    async with site.browser() as ada, site.browser() as again:
        await ada.login(ADA)
        answer = await link(ada, provider)
        assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/settings")
        (row,) = await linked(ada)
        assert (row["provider"], row["title"], row["email"]) == ("company", "Our company", None)
        assert code_of(await link(ada, provider)) == "303", "linked already"
        assert len(await linked(ada)) == 1
        exported = (await ada.send("GET", "/api/auth/me/export")).json()["identities"]
        assert [(one["issuer"], one["subject"]) for one in exported] == [(provider.url, "user-1")]
        assert await sign_in(again, provider) == "303"
        assert (await again.send("GET", "/api/auth/me")).json()["id"] == user_id
        page = await ada.send("GET", "/dashboard/settings")
        assert "Remove the link to Our company?" in page.text


async def test_link_needs_a_recent_session_or_the_password(
    site: Deployment, provider: IdentityServer, clock: ManualClock
) -> None:
    await site.create_user(ADA)
    async with site.browser() as ada:
        await ada.login(ADA)
        clock.now += LATER
        assert code_of(await link(ada, provider)) == "recent_sign_in_required"
        assert code_of(await link(ada, provider, password="wrong password")) == "invalid_credentials"
        assert code_of(await link(ada, provider, password=PASSWORD)) == "303"
        unlink = f"{PATH}/{(await linked(ada))[0]['id']}/unlink"
        assert code_of(await ada.send("POST", unlink, {})) == "recent_sign_in_required"
        assert code_of(await ada.send("POST", unlink, {"password": PASSWORD})) == "204"
        assert await linked(ada) == []


async def test_link_is_bound_to_the_session_that_started_it(
    site: Deployment, provider: IdentityServer
) -> None:
    """An attacker who gets a victim to finish a link must not get into the account of the victim."""
    await site.create_user(ADA)
    await site.create_user(EVE)
    async with site.browser() as ada, site.browser() as eve:
        await ada.login(ADA)
        await eve.login(EVE)
        started = await eve.send("POST", PATH, {"provider": "company"})
        callback = provider.authorize(started.json()["url"])
        assert code_of(await ada.send("GET", callback)) == "sign_in_expired"
        attempt = eve.client.cookies["bluesminds-sign-in"]
        ada.client.cookies.set("bluesminds-sign-in", attempt, domain="127.0.0.1")
        assert code_of(await ada.send("GET", callback)) == "sign_in_expired", "with the cookie as well"
        assert await linked(ada) == []
    async with site.browser() as stranger:
        answer = await stranger.send("POST", PATH, {"provider": "company"})
        assert code_of(answer) == "session_required"


async def test_link_without_csrf_token_is_refused(site: Deployment) -> None:
    await site.create_user(ADA)
    async with site.browser() as ada:
        await ada.login(ADA)
        del ada.client.headers["x-csrf-token"]
        answer = await ada.send("POST", PATH, {"provider": "company"})
        assert code_of(answer) == "csrf_token_invalid"


async def test_identity_of_another_account_is_not_linked(site: Deployment, provider: IdentityServer) -> None:
    await site.create_user(EVE)
    async with site.browser() as ada, site.browser() as eve:
        assert await sign_in(ada, provider) == "303"
        await eve.login(EVE)
        assert code_of(await link(eve, provider)) == "identity_in_use"
        (row,) = await linked(ada)
        answer = await eve.send("POST", f"{PATH}/{row['id']}/unlink", {})
        assert code_of(answer) == "identity_not_found"
        answer = await eve.send("POST", PATH, {"provider": "other"})
        assert code_of(answer) == "identity_provider_not_found"


async def test_last_way_to_sign_in_stays(
    site: Deployment, provider: IdentityServer, clock: ManualClock
) -> None:
    async with site.browser() as ada:
        assert await sign_in(ada, provider) == "303"
        (row,) = await linked(ada)
        answer = await ada.send("POST", f"{PATH}/{row['id']}/unlink", {})
        assert code_of(answer) == "last_sign_in"
        clock.now += LATER
        assert code_of(await ada.send("POST", "/api/auth/me/delete", {})) == "recent_sign_in_required"
        assert await sign_in(ada, provider) == "303"
        assert code_of(await ada.send("POST", "/api/auth/me/delete", {})) == "204"
        assert not await ada.is_signed_in()


async def test_identity_of_a_removed_service_is_no_way_to_sign_in(
    site: Deployment, provider: IdentityServer
) -> None:
    async with site.browser() as ada:
        assert await sign_in(ada, provider) == "303"
        await site.gateway.alter(
            "INSERT INTO identities SELECT '0190a000-0000-7000-8000-000000000001', user_id, 'removed',"
            " 'https://removed.example', subject, email, created_at, last_used_at FROM identities"
        )
        removed, kept = await linked(ada)
        assert code_of(await ada.send("POST", f"{PATH}/{kept['id']}/unlink", {})) == "last_sign_in"
        assert code_of(await ada.send("POST", f"{PATH}/{removed['id']}/unlink", {})) == "204"


async def test_account_with_a_password_is_deleted_with_it_only(site: Deployment) -> None:
    await site.create_user(ADA)
    async with site.browser() as ada:
        await ada.login(ADA)
        assert code_of(await ada.send("POST", "/api/auth/me/delete", {})) == "invalid_credentials"
        assert await ada.is_signed_in()
