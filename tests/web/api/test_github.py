"""Sign-in with GitHub over HTTP."""

from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing

from bluesminds.app import identity
from tests.deployment import PASSWORD, BrowserUser, Deployment, code_of, deploy
from tests.fakes import github_server
from tests.fakes.github_server import CLIENT_ID, CLIENT_SECRET, EMAIL, OTHER, GitHubServer

START = "/api/auth/github"


async def open_site(nursery: trio.Nursery, home: Path) -> tuple[Deployment, GitHubServer]:
    server: GitHubServer = await nursery.start(github_server.serve)
    row = {
        "name": "github",
        "kind": "github",
        "issuer": server.url,
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
    }
    sections = {"identity": {"providers": [row]}}
    return await deploy(nursery, home, signup="open", sections=sections), server


async def sign_in(browser: BrowserUser, server: GitHubServer) -> httpx.Response:
    answer = await browser.send("GET", START)
    return await browser.send("GET", server.authorize(answer.headers["location"]))


async def test_sign_in_with_github_uses_the_primary_verified_address(
    nursery: trio.Nursery, home: Path
) -> None:
    site, server = await open_site(nursery, home)
    async with site.browser() as ada:
        assert code_of(await sign_in(ada, server)) == "303"
        me = (await ada.send("GET", "/api/auth/me")).json()
        assert (me["email"], me["full_name"]) == ("ada@example.com", "Ada Lovelace")
        text = (await ada.send("GET", "/account/login")).text
        assert f'href="{START}">Continue with GitHub</a>' in text
    server.user["login"], server.emails = "renamed", [OTHER | {"primary": True}]
    async with site.browser() as again:
        assert code_of(await sign_in(again, server)) == "303"
        assert (await again.send("GET", "/api/auth/me")).json()["id"] == me["id"]


@pytest.fixture
async def public(
    nursery: trio.Nursery, home: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Deployment, GitHubServer]:
    """GitHub as on github.com, where every person can have verified an address at some time."""
    server: GitHubServer = await nursery.start(github_server.serve)
    monkeypatch.setattr(identity, "GITHUB", server.url)
    row = {
        "name": "github",
        "kind": "github",
        "issuer": server.url,
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
    }
    sections = {"identity": {"providers": [row]}}
    accounts: dict[str, Any] = {"signup": "open", "admin_emails": ["ada@example.com"]}
    return await deploy(nursery, home, sections=sections, **accounts), server


async def mailed_code(site: Deployment, count: int = 1) -> str:
    mail = await site.mail.arrived("ada@example.com", count)
    return mail.text.partition("Code: ")[2].split()[0]


async def prove(browser: BrowserUser, code: str) -> str:
    return code_of(await browser.send("POST", "/api/auth/second-factor/sign-in", {"code": code}))


async def test_address_that_the_provider_does_not_own_needs_a_mailed_code(
    public: tuple[Deployment, GitHubServer],
) -> None:
    """The attacker verified the address at GitHub when it was still the attacker's."""
    site, server = public
    async with site.browser() as eve, site.browser() as ada:
        answer = await sign_in(eve, server)
        assert (answer.status_code, answer.headers["location"]) == (303, "/account/mailed-code")
        assert not await eve.is_signed_in()
        assert "Check your mail" in (await eve.send("GET", "/account/mailed-code")).text
        async with site.gateway.operator() as operator:
            assert (await operator.get("/api/admin/users", params={"email": "ada@example.com"})).json()[
                "data"
            ] == [], "no account waits for its owner"
        code = await mailed_code(site)
        assert await prove(ada, code) == "sign_in_expired", "another browser"
        wrong = f"{(int(code) + 1) % 10**8:08}"
        assert [await prove(eve, wrong) for _ in range(6)] == ["invalid_code"] * 5 + ["too_many_attempts"]
        assert await prove(eve, code) == "too_many_attempts"


async def test_mailed_code_opens_a_new_account_once(
    public: tuple[Deployment, GitHubServer], mock_clock: trio.testing.MockClock
) -> None:
    site, server = public
    mock_clock.rate = 1
    async with site.browser() as ada, site.browser() as again:
        await sign_in(ada, server)
        code, cookies = await mailed_code(site), dict(ada.client.cookies)
        assert await prove(ada, f"{code[:4]} {code[4:]}") == "200"
        me = (await ada.send("GET", "/api/auth/me")).json()
        assert (me["email"], me["role"]) == ("ada@example.com", "admin")
        again.client.cookies.update(cookies)
        assert await prove(again, code) == "sign_in_expired"
        assert code_of(await sign_in(again, server)) == "303"
        assert (await again.send("GET", "/api/auth/me")).json()["id"] == me["id"]


async def test_mailed_code_opens_the_account_with_the_address(
    public: tuple[Deployment, GitHubServer],
) -> None:
    site, server = public
    user_id = await site.create_user("ada@example.com")
    async with site.browser() as ada:
        await sign_in(ada, server)
        assert await prove(ada, await mailed_code(site)) == "200"
        assert (await ada.send("GET", "/api/auth/me")).json()["id"] == user_id
        assert (await ada.login("ada@example.com", PASSWORD)).status_code == 200


async def test_mailed_codes_to_one_address_are_limited(public: tuple[Deployment, GitHubServer]) -> None:
    site, server = public
    async with site.browser() as eve:
        codes = [code_of(await sign_in(eve, server)) for _ in range(4)]
    assert codes == ["303", "303", "303", "too_many_attempts"]


async def test_unusable_answers_of_github_open_no_account(nursery: trio.Nursery, home: Path) -> None:
    site, server = await open_site(nursery, home)
    async with site.browser() as eve:
        for emails in ([], [EMAIL | {"verified": False}, OTHER], [EMAIL | {"primary": False}]):
            server.emails = emails
            assert code_of(await sign_in(eve, server)) == "email_not_verified"
        server.emails = [EMAIL]
        for answer in ({"code": "guessed"}, {"iss": "https://evil.example"}):
            server.answer = answer
            assert code_of(await sign_in(eve, server)) == "invalid_identity"
        server.answer = {}
        for path in ("/api/v3/user", "/api/v3/user/emails", "/login/oauth/access_token"):
            server.statuses = {path: b"500 Internal Server Error"}
            assert code_of(await sign_in(eve, server)) == "identity_provider_failed"
        server.statuses, server.user["id"] = {}, "text"
        assert code_of(await sign_in(eve, server)) == "identity_provider_failed"
        assert (await eve.send("GET", "/api/auth/me")).status_code == 401
