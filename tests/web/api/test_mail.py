"""Mail preferences, and links that turn mails off without a sign-in."""

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import trio

from tests.deployment import PASSWORD, Deployment, anonymous_client, code_of, deploy
from tests.fakes import resend_server
from tests.fakes.resend_server import (
    API_KEY,
    WEBHOOK_SECRET,
    ResendServer,
    bounced,
    complained,
    signed_webhook,
)
from tests.gateways import eventually

ADA, BOB = "ada@example.com", "bob@example.com"


@pytest.fixture
async def sqlite_site(nursery: trio.Nursery, home: Path) -> Deployment:
    return await deploy(nursery, home, signup="open")


async def test_mail_preferences_are_changed_one_by_one(sqlite_site: Deployment) -> None:
    await sqlite_site.create_user(ADA)
    async with sqlite_site.browser() as ada:
        await ada.login(ADA)
        everything = {"weekly_summary": True, "keys": True, "sign_ins": True, "usage": True, "servers": True}
        assert (await ada.send("GET", "/api/auth/mail")).json() == everything | {"time_zone": ""}
        changed = await ada.send("PATCH", "/api/auth/mail", {"keys": False, "time_zone": "Europe/Berlin"})
        assert changed.json() == everything | {"keys": False, "time_zone": "Europe/Berlin"}
        changed = await ada.send("PATCH", "/api/auth/mail", {"keys": True, "usage": False})
        assert changed.json() == everything | {"usage": False, "time_zone": "Europe/Berlin"}
        wrong = await ada.send("PATCH", "/api/auth/mail", {"time_zone": "Mars/Olympus"})
        assert code_of(wrong) == "invalid_value"


async def test_opt_out_link_works_once_signed_and_without_a_session(sqlite_site: Deployment) -> None:
    user_id = await sqlite_site.create_user(ADA)
    links = sqlite_site.gateway.services.accounts.mail_preferences.links
    parts = urlsplit(links.url(user_id, "weekly_summary"))
    url = f"{parts.path}?{parts.query}"
    async with anonymous_client(sqlite_site.gateway) as client:
        page = await client.get(url)
        assert page.status_code == 200 and '<form method="post"' in page.text
        assert "script" not in page.headers["content-security-policy"]
        forged = url.replace("weekly_summary", "keys")
        assert (await client.get(forged)).status_code == 403
        assert (await client.post(forged)).status_code == 403
        async with sqlite_site.browser() as ada:
            await ada.login(ADA)
            assert (await ada.send("GET", "/api/auth/mail")).json()["weekly_summary"], "a GET changes nothing"
            one_click = {"content-type": "application/x-www-form-urlencoded"}
            done = await client.post(url, content=b"List-Unsubscribe=One-Click", headers=one_click)
            assert done.status_code == 200 and "Done" in done.text
            assert not (await ada.send("GET", "/api/auth/mail")).json()["weekly_summary"]
    assert parse_qs(parts.query)["signature"][0] not in sqlite_site.gateway.log


async def test_new_key_and_sign_in_are_mailed(nursery: trio.Nursery, home: Path) -> None:
    site = await deploy(nursery, home, signup="open", notifications=True)
    await site.create_user(ADA)
    async with site.browser() as ada, site.browser() as phone:
        await ada.login(ADA)
        phone.client.headers["user-agent"] = "phone"
        await phone.login(ADA)
        mail = await site.mail.arrived(ADA, 2)
        assert "phone" in mail.text, "the first sign-in of an account is not mailed"
        assert (await ada.send("POST", "/api/keys", {"name": "laptop"})).status_code == 201
        mail = await site.mail.arrived(ADA, 3)
    assert [str(one.message["subject"]) for one in site.mail.to(ADA)] == [
        "Welcome to BluesMinds",
        "New sign-in to your account",
        "A new API key: laptop",
    ]
    assert mail.message["list-unsubscribe-post"] == "List-Unsubscribe=One-Click"
    assert PASSWORD not in mail.text


async def test_bounced_address_gets_no_more_mail(nursery: trio.Nursery, home: Path) -> None:
    resend: ResendServer = await nursery.start(resend_server.serve)
    mail = {
        "backend": "resend",
        "api_key": API_KEY,
        "url": resend.url,
        "sender": "gateway@example.com",
        "webhook_secret": WEBHOOK_SECRET,
        "notifications": False,
    }
    site = await deploy(nursery, home, signup="open", sections={"mail": mail})
    clock = site.gateway.services.clock
    await site.create_user("boss@example.com", "admin")

    async def post(client: httpx.AsyncClient, event: dict[str, Any], **more: Any) -> httpx.Response:
        body, headers = signed_webhook(event, now=clock.now_ms() // 1000, **more)
        return await client.post("/api/mail/webhook/resend", content=body, headers=headers)

    async with site.browser() as eve, site.browser() as boss:
        await eve.sign_up(ADA)
        await eventually(lambda: len(resend.sent) == 1)
        assert resend.sent[0]["to"] == [ADA]
        forged = await post(eve.client, bounced(ADA), secret="whsec_" + "A" * 44)
        assert code_of(forged) == "invalid_signature"
        for event in (
            bounced(ADA, "Transient"),
            bounced("Ada@Example.com"),
            bounced(ADA),
            complained("x@y.zz"),
        ):
            assert (await post(eve.client, event)).json() == {"received": True}
        await eve.send("POST", "/api/auth/email/resend", {"email": ADA})
        await eventually(lambda: len(site.gateway.events("mail_dropped")) == 1)
        assert site.gateway.events("mail_dropped")[0]["reason"] == "the address bounced or complained"
        await boss.login("boss@example.com")
        found = (await boss.send("GET", "/api/admin/mail/suppressions")).json()["data"]
        assert [(row["email"], row["reason"]) for row in found] == [
            (ADA, "bounced"),
            ("x@y.zz", "complained"),
        ]
        path = f"/api/admin/mail/suppressions/{found[0]['id']}"
        assert (await boss.send("DELETE", path)).status_code == 204
        assert code_of(await boss.send("DELETE", path)) == "suppression_not_found"
        await eve.send("POST", "/api/auth/email/resend", {"email": ADA})
        await eventually(lambda: len(resend.sent) == 2)
    assert ADA not in site.gateway.log


async def test_webhook_of_resend_without_a_secret_does_not_exist(sqlite_site: Deployment) -> None:
    async with anonymous_client(sqlite_site.gateway) as client:
        body, headers = signed_webhook(bounced(ADA), now=0)
        answer = await client.post("/api/mail/webhook/resend", content=body, headers=headers)
    assert answer.status_code == 404


async def test_mailed_link_ignores_the_host_of_the_request(sqlite_site: Deployment) -> None:
    await sqlite_site.create_user(ADA)
    forged = {"host": "evil.example", "x-forwarded-host": "evil.example"}
    async with sqlite_site.browser(**forged) as eve:
        assert (await eve.send("POST", "/api/auth/password/forgot", {"email": ADA})).status_code == 202
    assert "evil.example" not in (await sqlite_site.mail.arrived(ADA)).text
