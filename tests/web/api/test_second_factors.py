"""The second factor over HTTP, on both engines."""

from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from bluesminds.identity.totp import STEP_MS, code_at
from storage.second_factors import select_second_factor
from tests.deployment import PASSWORD, BrowserUser, Deployment, code_of, deploy
from tests.fakes import identity_server
from tests.fakes.identity_server import CLIENT_ID, CLIENT_SECRET, IdentityServer
from tests.storage.conftest import postgres, postgres_url, sqlite_path, sqlite_url, url

__all__ = ["postgres", "postgres_url", "sqlite_path", "sqlite_url", "url"]

ADA = "ada@example.com"
PATH = "/api/auth/second-factor"


class ManualClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1_800_000_000_000

    def now_ms(self) -> int:
        return self.now

    def code(self, secret: str, shift: int = 0) -> str:
        return code_at(secret, self.now // STEP_MS + shift)


async def post(browser: BrowserUser, path: str, **body: Any) -> httpx.Response:
    return await browser.send("POST", f"{PATH}{path}", body)


async def turn_on(browser: BrowserUser, clock: ManualClock) -> tuple[str, list[str]]:
    """The secret and the recovery codes. The code of the current step is used."""
    assert (await browser.login(ADA)).status_code == 200
    secret = (await post(browser, "", password=PASSWORD)).json()["secret"]
    answer = await post(browser, "/confirm", code=clock.code(secret))
    assert answer.status_code == 200, answer.text
    return secret, answer.json()["recovery_codes"]


async def login(browser: BrowserUser, code: str | None, password: str = PASSWORD) -> str:
    """The code of the error, or the status."""
    body = {"email": ADA, "password": password, "code": code}
    answer = await browser.send("POST", "/api/auth/login", body)
    browser.use_session(answer)
    return code_of(answer)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def site(nursery: trio.Nursery, home: Path, clock: ManualClock, url: str) -> Deployment:
    found = await deploy(nursery, home, clock=clock, sections={"storage": {"url": url}})
    await found.create_user(ADA)
    return found


async def test_second_factor_is_asked_for_at_every_login(site: Deployment, clock: ManualClock) -> None:
    async with site.browser() as ada, site.browser() as other:
        await other.login(ADA)
        assert code_of(await post(other, "")) == "invalid_credentials", "the account has a password"
        secret, codes = await turn_on(ada, clock)
        assert len(set(codes)) == 10
        assert not await other.is_signed_in(), "other sessions end"
        assert (await ada.send("GET", PATH)).json() == {"enabled": True, "recovery_codes": 10}
        assert await login(other, None) == "second_factor_required"
        assert await login(other, None, "wrong password") == "invalid_credentials"
        assert await login(other, clock.code(secret)) == "invalid_code", "it was used to turn it on"
        clock.now += STEP_MS
        assert await login(other, clock.code(secret), "wrong password") == "invalid_credentials"
        assert await login(other, clock.code(secret)) == "200"
        assert await login(other, clock.code(secret)) == "invalid_code", "it was used"
        assert await login(other, clock.code(secret, -1)) == "invalid_code", "an earlier step"
        clock.now += STEP_MS
        spaced = clock.code(secret)
        assert await login(other, f" {spaced[:3]} {spaced[3:]}") == "200"
    actions = [event["client"] for event in site.gateway.events("sign_in_failed")]
    assert len(actions) == 6


async def test_recovery_code_works_once(site: Deployment, clock: ManualClock) -> None:
    async with site.browser() as ada, site.browser() as other:
        _, codes = await turn_on(ada, clock)
        assert await login(other, codes[0].upper().replace("-", " ")) == "200"
        assert await login(other, codes[0]) == "invalid_code"
        assert (await other.send("GET", PATH)).json()["recovery_codes"] == 9
        fresh = (await post(other, "/recovery-codes", code=codes[1])).json()["recovery_codes"]
        assert await login(other, codes[2]) == "invalid_code", "the earlier codes are replaced"
        assert await login(other, fresh[0]) == "200"
    async with site.gateway.operator() as operator:
        entries = (await operator.get("/api/admin/audit")).text
        assert entries.count('"second_factor.recover"') == 3
        assert codes[0] not in entries


async def test_concurrent_logins_with_one_code_open_one_session(site: Deployment, clock: ManualClock) -> None:
    async with site.browser() as ada:
        secret, _ = await turn_on(ada, clock)
        clock.now += STEP_MS
        found: list[str] = []

        async def enter() -> None:
            async with site.browser() as browser:
                found.append(await login(browser, clock.code(secret)))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(enter)
        assert sorted(found) == ["200", "invalid_code", "invalid_code"]


async def test_wrong_codes_are_limited(site: Deployment, clock: ManualClock) -> None:
    async with site.browser() as ada, site.browser() as eve:
        secret, _ = await turn_on(ada, clock)
        clock.now += STEP_MS
        wrong = f"{(int(clock.code(secret)) + 1) % 1_000_000:06}"
        found = [await login(eve, wrong) for _ in range(7)]
        assert found == ["invalid_code"] * 5 + ["too_many_attempts"] * 2
        assert await login(eve, clock.code(secret)) == "too_many_attempts"


async def test_nothing_is_asked_for_before_the_first_code(site: Deployment, clock: ManualClock) -> None:
    async with site.browser() as ada, site.browser() as other:
        await ada.login(ADA)
        assert code_of(await post(ada, "", password="wrong password")) == "invalid_credentials"
        assert code_of(await ada.send("GET", f"{PATH}/qr")) == "second_factor_not_begun"
        assert code_of(await post(ada, "/confirm", code="123456")) == "second_factor_not_begun"
        first = (await post(ada, "", password=PASSWORD)).json()
        second = (await post(ada, "", password=PASSWORD)).json()
        assert first["secret"] != second["secret"]
        image = await ada.send("GET", f"{PATH}/qr")
        assert (image.status_code, image.headers["content-type"]) == (200, "image/svg+xml")
        assert (await other.login(ADA)).status_code == 200
        assert code_of(await post(ada, "/confirm", code=clock.code(first["secret"]))) == "invalid_code"
        assert code_of(await post(ada, "/confirm", code=clock.code(second["secret"]))) == "200"
        assert code_of(await post(ada, "", password=PASSWORD)) == "second_factor_on"
        assert code_of(await ada.send("GET", f"{PATH}/qr")) == "second_factor_not_begun", "shown no more"
        me = (await ada.send("GET", "/api/auth/me")).json()
        row = await site.gateway.services.store.read(select_second_factor, me["id"])
        assert row is not None
        assert second["secret"].encode() not in row.sealed_secret


async def test_second_factor_is_turned_off_with_code_or_password(
    site: Deployment, clock: ManualClock
) -> None:
    async with site.browser() as ada:
        _, codes = await turn_on(ada, clock)
        assert code_of(await post(ada, "/disable")) == "code_or_password"
        assert code_of(await post(ada, "/disable", code="000000")) == "invalid_code"
        assert code_of(await post(ada, "/disable", password="wrong password")) == "invalid_credentials"
        assert code_of(await post(ada, "/disable", code=codes[0])) == "204"
        assert code_of(await post(ada, "/disable", password=PASSWORD)) == "second_factor_off"
        clock.now += STEP_MS
        await turn_on(ada, clock)
        assert code_of(await post(ada, "/disable", password=PASSWORD)) == "204"
        assert await login(ada, None) == "200"


async def test_administrator_removes_a_lost_second_factor(site: Deployment, clock: ManualClock) -> None:
    async with site.browser() as ada:
        await turn_on(ada, clock)
        user_id = (await ada.send("GET", "/api/auth/me")).json()["id"]
        async with site.gateway.operator() as operator:
            path = f"/api/admin/users/{user_id}/second-factor"
            assert (await operator.delete(path)).status_code == 204
            assert code_of(await operator.delete(path.replace(user_id, "x"))) == "user_not_found"
        assert not await ada.is_signed_in()
        assert await login(ada, None) == "200"


async def test_administrator_without_required_factor_has_rights_of_users(
    nursery: trio.Nursery, home: Path, clock: ManualClock
) -> None:
    site = await deploy(nursery, home, clock=clock, admin_second_factor=True)
    await site.create_user(ADA, "admin")
    async with site.browser() as ada:
        await ada.login(ADA)
        assert code_of(await ada.send("GET", "/api/admin/users")) == "second_factor_needed"
        await turn_on(ada, clock)
        assert code_of(await ada.send("GET", "/api/admin/users")) == "200"


async def test_second_factor_without_a_password_needs_a_fresh_sign_in(
    nursery: trio.Nursery, home: Path, clock: ManualClock
) -> None:
    provider: IdentityServer = await nursery.start(identity_server.serve)
    row = {"name": "company", "issuer": provider.url, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
    site = await deploy(
        nursery, home, clock=clock, signup="open", sections={"identity": {"providers": [row]}}
    )

    async def sign_in(browser: BrowserUser) -> None:
        seconds = clock.now // 1000
        provider.claims |= {"iat": seconds, "exp": seconds + 600}
        started = await browser.send("GET", "/api/auth/oidc/company", params=None)
        await browser.send("GET", provider.authorize(started.headers["location"]))

    async with site.browser() as ada:
        await sign_in(ada)
        ada.client.headers["x-csrf-token"] = (await ada.send("GET", "/api/auth/me")).json()["csrf_token"]
        assert "within the last 15 minutes" in (await ada.send("GET", "/dashboard/settings")).text
        clock.now += 900_001
        assert code_of(await post(ada, "")) == "recent_sign_in_required"
        await sign_in(ada)
        ada.client.headers["x-csrf-token"] = (await ada.send("GET", "/api/auth/me")).json()["csrf_token"]
        secret = (await post(ada, "")).json()["secret"]
        assert code_of(await post(ada, "/confirm", code=clock.code(secret))) == "200"


async def test_second_factor_is_asked_for_after_a_sign_in_at_a_provider(
    nursery: trio.Nursery, home: Path, clock: ManualClock
) -> None:
    provider: IdentityServer = await nursery.start(identity_server.serve)
    row = {"name": "company", "issuer": provider.url, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
    site = await deploy(nursery, home, clock=clock, sections={"identity": {"providers": [row]}})
    await site.create_user(ADA)
    seconds = clock.now // 1000
    provider.claims |= {"iat": seconds, "exp": seconds + 600}
    async with site.browser() as ada, site.browser() as other, site.browser() as eve:
        secret, codes = await turn_on(ada, clock)
        started = await other.send("GET", "/api/auth/oidc/company", params=None)
        answer = await other.send("GET", provider.authorize(started.headers["location"]))
        assert (answer.status_code, answer.headers["location"]) == (303, "/account/code")
        assert not await other.is_signed_in()
        assert "Your account has a second factor." in (await other.send("GET", "/account/code")).text
        assert code_of(await post(eve, "/sign-in", code=codes[0])) == "sign_in_expired"
        assert code_of(await post(other, "/sign-in", code="000000")) == "invalid_code"
        cookies = dict(other.client.cookies)
        assert code_of(await post(other, "/sign-in", code=codes[0])) == "200"
        assert await other.is_signed_in()
        eve.client.cookies.update(cookies)
        clock.now += 600_001
        assert code_of(await post(eve, "/sign-in", code=clock.code(secret))) == "sign_in_expired"
