"""Sign-in with GitHub over HTTP."""

from pathlib import Path

import httpx
import trio

from tests.deployment import BrowserUser, Deployment, code_of, deploy
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
