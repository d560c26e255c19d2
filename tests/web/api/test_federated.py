"""Sign-in at an OpenID Connect provider over HTTP: the flow, the accounts it opens, and hostile answers."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
import trio

from tests.deployment import PASSWORD, Deployment, code_of, deploy
from tests.fakes import identity_server
from tests.fakes.identity_server import (
    CLIENT_ID,
    CLIENT_SECRET,
    EcSigner,
    IdentityServer,
    RsaSigner,
    base64url,
    sign_hs256,
    unsigned,
)

ADA = "ada@example.com"
START = "/api/auth/oidc/company"
HTML = {"accept": "text/html"}


@dataclass
class Site:
    """A gateway and its identity provider."""

    deployment: Deployment
    provider: IdentityServer

    @asynccontextmanager
    async def browser(self) -> AsyncIterator["Browser"]:
        async with self.deployment.browser() as user:
            yield Browser(self, user.client)

    async def user(self, email: str = ADA) -> dict[str, Any]:
        async with self.deployment.gateway.operator() as operator:
            (found,) = (await operator.get("/api/admin/users", params={"email": email})).json()["data"]
        return dict(found)

    async def actions(self) -> list[str]:
        async with self.deployment.gateway.operator() as operator:
            return [row["action"] for row in (await operator.get("/api/admin/audit")).json()["data"]]


@dataclass
class Browser:
    site: Site
    client: httpx.AsyncClient

    async def begin(self, **query: str) -> str:
        """Start a sign-in; where the browser is sent."""
        answer = await self.client.get(START, params=query)
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]

    async def sign_in(self, **query: str) -> httpx.Response:
        """The whole way, and the answer to the return from the provider."""
        return await self.client.get(self.site.provider.authorize(await self.begin(**query)))

    async def me(self) -> dict[str, Any]:
        return dict((await self.client.get("/api/auth/me")).json())


async def open_site(
    nursery: trio.Nursery, home: Path, *, provider: dict[str, Any] | None = None, **accounts: Any
) -> Site:
    server: IdentityServer = await nursery.start(identity_server.serve)
    row = {
        "name": "company",
        "title": "Our <company>",
        "issuer": server.url,
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
    }
    sections = {"identity": {"providers": [row | (provider or {})]}}
    return Site(await deploy(nursery, home, sections=sections, **({"signup": "open"} | accounts)), server)


@pytest.fixture
async def site(nursery: trio.Nursery, home: Path) -> Site:
    return await open_site(nursery, home)


async def test_sign_in_of_a_new_user_creates_an_account(site: Site) -> None:
    async with site.browser() as ada:
        started = await ada.begin(next="/dashboard/keys?x=1")
        query = dict(parse_qsl(urlsplit(started).query))
        assert query["scope"] == "openid email profile"
        assert query["redirect_uri"] == f"{site.deployment.gateway.url}{START}/callback"
        answer = await ada.client.get(site.provider.authorize(started))
        assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/keys?x=1")
        me = await ada.me()
        assert (me["email"], me["full_name"], me["tier"]) == (ADA, "Ada Lovelace", "free")
        assert me["email_verified"] is True
        assert (await ada.client.get("/dashboard")).status_code == 200
    assert {"user.signup", "email.verify", "identity.link", "session.begin"} <= set(await site.actions())


async def test_sign_in_from_a_new_browser_makes_an_event(site: Site) -> None:
    async with site.browser() as ada, site.browser() as phone:
        await ada.sign_in()
        await ada.sign_in()
        phone.client.headers["user-agent"] = "phone"
        await phone.sign_in()
        session = (await phone.me())["session_id"]
    with site.deployment.gateway.reading() as database:
        rows = database.execute("SELECT data FROM events WHERE kind = 'sign_in.new' ORDER BY id").fetchall()
    (new,) = (json.loads(data) for (data,) in rows)  # the first sign-in of an account causes no event
    assert (new["session_id"], new["user_agent"], new["method"]) == (session, "phone", "company")


async def test_sign_in_again_opens_the_same_account(site: Site) -> None:
    async with site.browser() as ada, site.browser() as again:
        assert (await ada.sign_in()).headers["location"] == "/dashboard"
        site.provider.user |= {"email": "other@example.com", "email_verified": False}
        assert (await again.sign_in()).status_code == 303
        assert (await again.me())["id"] == (await ada.me())["id"]
        assert (await again.me())["email"] == ADA
        assert (
            "invalid_credentials"
            in (await again.client.post("/api/auth/login", json={"email": ADA, "password": ""})).text
        )


async def test_next_page_of_another_site_is_ignored(site: Site) -> None:
    async with site.browser() as ada:
        for page in ("https://evil.example", "//evil.example", "/dashboard\\@evil.example", "/dashboardx"):
            assert (await ada.sign_in(next=page)).headers["location"] == "/dashboard"


Change = Callable[[IdentityServer], None]


def token_of(make: Callable[[IdentityServer, dict[str, Any]], str]) -> Change:
    def change(provider: IdentityServer) -> None:
        provider.make_token = lambda claims: make(provider, claims)

    return change


def claims_of(**claims: Any) -> Change:
    return lambda provider: provider.claims.update(claims)


def metadata_of(**fields: Any) -> Change:
    return lambda provider: provider.metadata.update(fields)


STRANGER = RsaSigner("first")
HOSTILE: dict[str, Change] = {
    "another nonce": claims_of(nonce="replayed"),
    "no nonce": claims_of(nonce=None),
    "another audience": claims_of(aud="other"),
    "several audiences": claims_of(aud=[CLIENT_ID, "other"]),
    "another authorized party": claims_of(aud=[CLIENT_ID, "other"], azp="other"),
    "another issuer": claims_of(iss="https://evil.example"),
    "expired": claims_of(exp=1_600_000_000, iat=1_600_000_000),
    "issued in the future": claims_of(iat=99_999_999_999, exp=99_999_999_999),
    "not valid yet": claims_of(nbf=99_999_999_999),
    "no expiry": claims_of(exp=None),
    "expiry as text": claims_of(exp="99999999999"),
    "no subject": claims_of(sub=None),
    "empty subject": claims_of(sub=""),
    "subject too long": claims_of(sub="x" * 256),
    "access token of another answer": claims_of(at_hash=base64url(b"x" * 16)),
    "alg none": token_of(lambda _, claims: unsigned({"alg": "none"}, claims) + "."),
    "alg None": token_of(lambda _, claims: unsigned({"alg": "None", "kid": "first"}, claims) + "."),
    "no signature": token_of(lambda server, claims: server.keys[0].sign(claims).rpartition(".")[0] + "."),
    "HS256 with the public key": token_of(
        lambda server, claims: sign_hs256(server.keys[0].pem, claims, kid="first")
    ),
    "RS256 of another key": token_of(lambda _, claims: STRANGER.sign(claims)),
    "unknown key": token_of(lambda _, claims: RsaSigner("unknown").sign(claims)),
    "key in the header": token_of(lambda _, claims: STRANGER.sign(claims, jwk=STRANGER.jwk)),
    "critical header": token_of(lambda server, claims: server.keys[0].sign(claims, crit=["exp"], exp=1)),
    "unencoded payload": token_of(
        lambda server, claims: server.keys[0].sign(claims, b64=False, crit=["b64"])
    ),
    "payload that is not an object": token_of(lambda server, _: server.keys[0].sign([])),  # type: ignore[arg-type]
    "no token": token_of(lambda *_: ""),
    "algorithm that the provider does not name": metadata_of(id_token_signing_alg_values_supported=["ES256"]),
    "answer of another issuer": lambda provider: provider.answer.update(iss="https://evil.example"),
    "answer without an issuer": metadata_of(authorization_response_iss_parameter_supported=True),
    "unknown code": lambda provider: provider.answer.update(code="guessed"),
    "no code": lambda provider: provider.answer.update(code=""),
}


async def test_hostile_answers_of_a_provider_are_refused(nursery: trio.Nursery, home: Path) -> None:
    """The discovery document is read once an hour, so a change of it needs another gateway."""
    site, found = await open_site(nursery, home), {}
    for case, change in HOSTILE.items():
        site.provider.reset()
        change(site.provider)
        if site.provider.metadata:
            (home / case).mkdir()
            site = await open_site(nursery, home / case)
            change(site.provider)
        async with site.browser() as eve:
            found[case] = code_of(await eve.sign_in())
            assert (await eve.client.get("/api/auth/me")).status_code == 401, case
        assert site.deployment.gateway.events("identity_rejected")[-1]["reason"], case
    assert found == dict.fromkeys(HOSTILE, "invalid_identity")


async def test_state_is_bound_to_browser_provider_and_time(site: Site) -> None:
    async with site.browser() as ada, site.browser() as eve:
        callback = site.provider.authorize(await ada.begin())
        assert code_of(await eve.client.get(callback)) == "sign_in_expired", "another browser"
        await eve.begin()
        assert code_of(await eve.client.get(callback)) == "sign_in_expired", "another attempt"
        assert code_of(await ada.client.get(callback.replace("state=", "state=x"))) == "sign_in_expired"
        assert code_of(await ada.client.get(callback)) == "303"
        assert code_of(await ada.client.get(callback)) == "sign_in_expired", "its cookie is gone"


async def test_state_with_a_kept_cookie_works_once(site: Site) -> None:
    async with site.browser() as ada:
        callback = site.provider.authorize(await ada.begin())
        cookies = dict(ada.client.cookies)
        assert code_of(await ada.client.get(callback)) == "303"
    async with site.browser() as eve:
        eve.client.cookies.update(cookies)
        assert code_of(await eve.client.get(callback)) == "sign_in_expired"
        eve.client.cookies.clear()
        eve.client.cookies.set("bluesminds-sign-in", "gAAAAA-forged")
        assert code_of(await eve.client.get(callback)) == "sign_in_expired"


async def test_cancelled_sign_in_says_so_on_a_page(site: Site) -> None:
    async with site.browser() as ada:
        await ada.begin()
        callback = site.provider.authorize(await ada.begin(), error="access_denied", error_description="<b>")
        page = await ada.client.get(callback, headers=HTML)
        assert (page.status_code, page.headers["content-type"]) == (403, "text/html; charset=utf-8")
        assert "You did not allow the sign-in." in page.text
        assert "<b>" not in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]


async def test_answer_with_a_repeated_parameter_is_refused(site: Site) -> None:
    async with site.browser() as ada:
        callback = site.provider.authorize(await ada.begin())
        assert code_of(await ada.client.get(f"{callback}&code=other")) == "invalid_value"


async def test_provider_that_is_down_gives_502(site: Site) -> None:
    site.provider.is_down = True
    async with site.browser() as ada:
        answer = await ada.client.get(START)
        assert (answer.status_code, code_of(answer)) == (502, "identity_provider_failed")
        site.provider.is_down = False
        callback = site.provider.authorize(await ada.begin())
        site.provider.token_status = b"500 Internal Server Error"
        assert code_of(await ada.client.get(callback)) == "identity_provider_failed"


async def test_discovery_of_another_issuer_is_refused(site: Site) -> None:
    site.provider.metadata["issuer"] = "https://evil.example"
    async with site.browser() as ada:
        assert code_of(await ada.client.get(START)) == "identity_provider_failed"


async def test_new_key_of_the_provider_is_read(site: Site, mock_clock: trio.testing.MockClock) -> None:
    mock_clock.rate = 1
    async with site.browser() as ada:
        assert code_of(await ada.sign_in()) == "303"
        site.provider.keys.insert(0, EcSigner("second"))
        reads = site.provider.paths.count("/jwks")
        assert code_of(await ada.sign_in()) == "invalid_identity", "the keys were read a moment ago"
        mock_clock.jump(31)
        assert code_of(await ada.sign_in()) == "303"
        assert site.provider.paths.count("/jwks") == reads + 1
        assert code_of(await ada.sign_in()) == "303"
        assert site.provider.paths.count("/jwks") == reads + 1


async def test_address_only_in_userinfo_is_read_there(site: Site) -> None:
    site.provider.token_claims = ("sub",)
    async with site.browser() as ada:
        assert code_of(await ada.sign_in()) == "303"
        assert (await ada.me())["email"] == ADA


async def test_userinfo_of_another_user_is_refused(site: Site) -> None:
    site.provider.token_claims = ("sub",)
    site.provider.claims["sub"] = "user-2"
    async with site.browser() as ada:
        assert code_of(await ada.sign_in()) == "invalid_identity"


async def test_unverified_address_opens_no_account(site: Site) -> None:
    await site.deployment.create_user(ADA)
    for verified in (False, "yes", 1, "false", [], None):
        site.provider.claims["email_verified"] = verified
        if verified is None:
            del site.provider.user["email_verified"]
        for email in (ADA, "new@example.com"):
            site.provider.claims["email"] = email
            async with site.browser() as eve:
                assert code_of(await eve.sign_in()) == "email_not_verified", (verified, email)


async def test_unsaid_verification_is_trusted_only_with_the_setting(
    nursery: trio.Nursery, home: Path
) -> None:
    site = await open_site(nursery, home, provider={"trusted_emails": True})
    del site.provider.user["email_verified"]
    async with site.browser() as ada:
        assert code_of(await ada.sign_in()) == "303"
    site.provider.user |= {"sub": "user-2", "email": "eve@example.com", "email_verified": False}
    async with site.browser() as eve:
        assert code_of(await eve.sign_in()) == "email_not_verified"


async def test_verified_address_opens_the_account_with_it(site: Site) -> None:
    user_id = await site.deployment.create_user("Ada@Example.com", tier="pro")
    async with site.browser() as ada:
        assert code_of(await ada.sign_in()) == "303"
        me = await ada.me()
        assert (me["id"], me["tier"], me["email"]) == (user_id, "pro", "Ada@Example.com")
    async with site.deployment.browser() as ada:
        assert (await ada.login(ADA)).status_code == 200, "the password still works"


async def test_address_that_another_user_of_the_provider_gets_does_not_open_the_account(site: Site) -> None:
    async with site.browser() as ada, site.browser() as bob:
        assert code_of(await ada.sign_in()) == "303"
        site.provider.user["sub"] = "user-2"
        assert code_of(await bob.sign_in()) == "account_exists"


async def test_verified_address_needs_a_password_if_links_are_off(nursery: trio.Nursery, home: Path) -> None:
    site = await open_site(nursery, home, provider={"link_by_email": False})
    await site.deployment.create_user(ADA)
    async with site.browser() as eve:
        assert code_of(await eve.sign_in()) == "account_exists"


async def test_unconfirmed_account_loses_the_password_of_its_creator(site: Site) -> None:
    """An attacker signs up with the address of a victim, and waits for the victim to sign in."""
    async with site.deployment.browser() as eve, site.browser() as ada:
        await eve.sign_up(ADA, "chosen by eve")
        mail = await site.deployment.mail.arrived(ADA)
        assert code_of(await ada.sign_in()) == "303"
        assert (await ada.me())["email_verified"] is True
        assert code_of(await eve.login(ADA, "chosen by eve")) == "invalid_credentials"
        assert code_of(await eve.confirm(mail.token, "chosen by eve")) == "invalid_token"


async def test_disabled_account_is_refused(site: Site) -> None:
    async with site.browser() as ada:
        await ada.sign_in()
        user_id = (await ada.me())["id"]
    async with site.deployment.gateway.operator() as operator:
        await operator.patch(f"/api/admin/users/{user_id}", json={"disabled": True})
    async with site.browser() as ada:
        assert code_of(await ada.sign_in()) == "user_disabled"
        site.provider.user["sub"] = "user-2"
        assert code_of(await ada.sign_in()) == "user_disabled", "another identity with the same address"


async def test_deleted_account_frees_the_identity(site: Site) -> None:
    async with site.browser() as ada:
        await ada.sign_in()
        user_id = (await ada.me())["id"]
    async with site.deployment.gateway.operator() as operator:
        assert (await operator.delete(f"/api/admin/users/{user_id}")).status_code == 204
    async with site.browser() as ada:
        assert code_of(await ada.sign_in()) == "303"
        assert (await ada.me())["id"] != user_id


async def test_sign_up_follows_the_policy(nursery: trio.Nursery, home: Path) -> None:
    site = await open_site(nursery, home, signup="invite")
    async with site.browser() as ada:
        assert code_of(await ada.sign_in()) == "invite_required"
        async with site.deployment.gateway.operator() as operator:
            await operator.post("/api/admin/invites", json={"email": "ADA@example.com"})
        assert code_of(await ada.sign_in()) == "303"
        async with site.deployment.gateway.operator() as operator:
            assert (await operator.get("/api/admin/invites")).json()["data"] == []
    assert "invite.use" in await site.actions()


async def test_policy_of_a_provider_replaces_that_of_accounts(nursery: trio.Nursery, home: Path) -> None:
    site = await open_site(nursery, home, provider={"signup": "closed"})
    async with site.browser() as ada:
        assert code_of(await ada.sign_in()) == "signup_closed"


async def test_domain_that_is_not_allowed_is_refused_at_every_sign_in(
    nursery: trio.Nursery, home: Path
) -> None:
    site = await open_site(nursery, home, provider={"allowed_domains": ["example.com"]})
    async with site.browser() as ada:
        assert code_of(await ada.sign_in()) == "303"
        for email in ("ada@evil-example.com", "ada@sub.example.com", "x@example.com@evil.com"):
            site.provider.user["email"] = email
            assert code_of(await ada.sign_in()) == "identity_not_allowed"
        site.provider.user |= {"email": ADA, "email_verified": False}
        assert code_of(await ada.sign_in()) == "identity_not_allowed"


async def test_groups_give_and_take_the_role(nursery: trio.Nursery, home: Path) -> None:
    site = await open_site(nursery, home, provider={"admin_groups": ["admins"], "groups_claim": "roles"})
    await site.deployment.create_user("root@example.com", "admin")
    async with site.browser() as ada:
        site.provider.user["roles"] = ["staff", "admins"]
        await ada.sign_in()
        assert (await ada.me())["role"] == "admin"
        async with site.browser() as again:
            site.provider.user["roles"] = "staff"
            await again.sign_in()
            assert (await again.me())["role"] == "user"
        assert (await ada.client.get("/api/auth/me")).status_code == 401, "a new role ends the sessions"


async def test_groups_leave_the_last_administrator(nursery: trio.Nursery, home: Path) -> None:
    site = await open_site(nursery, home, provider={"admin_groups": ["admins"]})
    site.provider.user["groups"] = ["admins"]
    async with site.browser() as ada:
        await ada.sign_in()
        site.provider.user["groups"] = []
        assert code_of(await ada.sign_in()) == "303"
        assert (await ada.me())["role"] == "admin"


async def test_sign_in_page_has_buttons_of_providers(site: Site) -> None:
    async with site.browser() as ada:
        for page in ("login", "join"):
            text = (await ada.client.get(f"/account/{page}")).text
            assert f'href="{START}">Continue with Our &lt;company&gt;</a>' in text
        assert "Continue with" not in (await ada.client.get("/account/forgot")).text


async def test_without_providers_there_are_no_routes(nursery: trio.Nursery, home: Path) -> None:
    deployment = await deploy(nursery, home, signup="open")
    async with deployment.browser() as browser:
        for path in ("google", "oidc/company", "oidc/company/callback"):
            assert code_of(await browser.send("GET", f"/api/auth/{path}")) == "unknown_url"
        assert "Continue with" not in (await browser.send("GET", "/account/login")).text


async def test_secure_site_gets_cookies_for_https_only(nursery: trio.Nursery, home: Path) -> None:
    server: IdentityServer = await nursery.start(identity_server.serve)
    row = {"name": "company", "issuer": server.url, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
    sections = {
        "identity": {"providers": [row]},
        "server": {"public_url": "https://ai.example.com/"},
    }
    deployment = await deploy(nursery, home, signup="open", sections=sections)
    async with deployment.browser() as browser:
        answer = await browser.send("GET", START)
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-bluesminds-sign-in=")
        assert cookie.endswith("; Path=/; Max-Age=600; HttpOnly; SameSite=Lax; Secure")
        query = dict(parse_qsl(urlsplit(answer.headers["location"]).query))
        assert query["redirect_uri"] == f"https://ai.example.com{START}/callback"
        assert PASSWORD not in answer.text
