"""Invitations are deleted when their address gets an account, on both engines."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from tests.deployment import PASSWORD, Deployment, code_of, deploy
from tests.gateway.limits.test_limits import Wall
from tests.storage.conftest import postgres, postgres_url, sqlite_path, sqlite_url, url

__all__ = ["postgres", "postgres_url", "sqlite_path", "sqlite_url", "url"]

BOB, CARL, MOVED = "bob@example.com", "carl@example.com", "moved@example.com"


@pytest.fixture
async def site(nursery: trio.Nursery, home: Path, url: str) -> Deployment:
    return await deploy(nursery, home, signup="open", sections={"storage": {"url": url}})


async def invite(site: Deployment, operator: httpx.AsyncClient, email: str) -> tuple[str, str]:
    """The id and the token of a new invitation."""
    answer = await operator.post("/api/admin/invites", json={"email": email})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"], answer.json()["url"].partition("#invite=")[2]


async def open_to(operator: httpx.AsyncClient, email: str) -> list[str]:
    answer = await operator.get("/api/admin/invites", params={"email": email})
    return [one["id"] for one in answer.json()["data"]]


async def log(operator: httpx.AsyncClient, **query: str) -> list[dict[str, Any]]:
    return list((await operator.get("/api/admin/audit", params=query)).json()["data"])


async def test_invitation_used_deletes_others_to_its_address(site: Deployment) -> None:
    async with (
        site.browser() as carl,
        site.browser() as eve,
        site.gateway.operator() as operator,
    ):
        first, token = await invite(site, operator, CARL)
        second, left = await invite(site, operator, CARL.title())
        assert await open_to(operator, CARL) == [first, second]
        assert code_of(await carl.sign_up(CARL.upper(), invite=token)) == "202"
        assert await open_to(operator, CARL) == []
        (confirmed,) = await log(operator, action="email.verify")
        assert confirmed["detail"]["after"]["ended_invite_ids"] == [second]
        used, *_ = await log(operator, subject=CARL)
        assert (used["action"], used["detail"]) == ("invite.use", {"before": {"invite_id": first}})

        await carl.login(CARL)
        await carl.send("POST", "/api/auth/email", {"email": MOVED, "password": PASSWORD})
        link = await site.mail.arrived(MOVED)
        moved, _ = await invite(site, operator, MOVED)
        assert code_of(await carl.confirm(link.token)) == "200"
        assert await open_to(operator, CARL) == await open_to(operator, MOVED) == []
        assert code_of(await operator.delete(f"/api/admin/invites/{moved}")) == "invite_not_found"
        assert code_of(await eve.sign_up(CARL, invite=left)) == "invalid_token"


async def test_account_created_for_invited_address_deletes_the_invitation(site: Deployment) -> None:
    async with site.browser() as bob, site.gateway.operator() as operator:
        invited, token = await invite(site, operator, BOB)
        user_id = await site.create_user(BOB.upper())
        assert await open_to(operator, BOB) == []
        (created,) = await log(operator, subject=user_id)
        assert created["detail"]["after"]["ended_invite_ids"] == [invited]
        assert code_of(await bob.sign_up(BOB, invite=token)) == "invalid_token"


async def test_expired_invitation_is_deleted_with_the_others(nursery: trio.Nursery, home: Path) -> None:
    """Otherwise it would be valid again after the clock is set back."""
    wall = Wall()
    site = await deploy(nursery, home, signup="open", clock=wall)
    async with site.browser() as bob, site.gateway.operator() as operator:
        _, token = await invite(site, operator, BOB)
        wall.at += timedelta(days=365)
        await site.create_user(BOB)
        wall.at -= timedelta(days=365)
        assert await open_to(operator, BOB) == []
        assert code_of(await bob.sign_up("eve@example.com", invite=token)) == "invalid_token"


async def test_account_disabled_deletes_invitations_to_its_address(site: Deployment) -> None:
    """The address of an unconfirmed account can be invited until the account is disabled."""
    async with site.browser() as bob, site.gateway.operator() as operator:
        await bob.sign_up(BOB)
        user_id = (await operator.get("/api/admin/users", params={"email": BOB})).json()["data"][0]["id"]
        invited, token = await invite(site, operator, BOB)
        await operator.patch(f"/api/admin/users/{user_id}", json={"tier": "pro"})
        assert await open_to(operator, BOB) == [invited], "other changes keep the invitation"
        for disabled in (True, False):
            await operator.patch(f"/api/admin/users/{user_id}", json={"disabled": disabled})
        assert await open_to(operator, BOB) == []
        assert (await log(operator, subject=user_id))[1]["detail"]["after"]["ended_invite_ids"] == [invited]
        assert code_of(await bob.sign_up(BOB, invite=token)) == "invalid_token"


async def test_invitations_to_one_address_are_withdrawn_together(site: Deployment) -> None:
    invites = "/api/admin/invites"
    async with site.browser() as bob, site.gateway.operator() as operator:
        invited = [await invite(site, operator, email) for email in (BOB, BOB.title(), CARL)]
        done = await operator.delete(invites, params={"email": BOB.upper()})
        assert (done.status_code, done.json()) == (200, {"withdrawn": [invited[0][0], invited[1][0]]})
        events = await log(operator, action="user.uninvite")
        assert [(row["subject"], row["detail"]["before"]["invite_id"]) for row in events] == [
            (BOB.title(), invited[1][0]),
            (BOB, invited[0][0]),
        ]
        for _, token in invited[:2]:
            assert code_of(await bob.sign_up(BOB, invite=token)) == "invalid_token"
        for email in (BOB, "unknown", ""):
            answer = await operator.delete(invites, params={"email": email})
            assert code_of(answer) == "invite_not_found"
        answer = await operator.delete(invites)
        assert (code_of(answer), answer.json()["error"]["param"]) == ("invalid_value", "email")
        assert await open_to(operator, CARL) == [invited[2][0]], "invitations to other addresses stay"


async def test_withdrawal_concurrent_with_use_is_all_or_nothing(site: Deployment) -> None:
    """Both delete all invitations to the address, so the second one finds none."""
    async with site.browser() as bob, site.gateway.operator() as operator:
        (_, token), *_ = [await invite(site, operator, BOB) for _ in range(3)]
        found: dict[str, httpx.Response] = {}

        async def use() -> None:
            found["use"] = await bob.sign_up(BOB, invite=token)

        async def withdraw() -> None:
            found["withdraw"] = await operator.delete("/api/admin/invites", params={"email": BOB})

        async with trio.open_nursery() as race:
            race.start_soon(use)
            race.start_soon(withdraw)
        outcome = code_of(found["use"]), code_of(found["withdraw"])
        assert outcome in (("202", "invite_not_found"), ("invalid_token", "200"))
        assert outcome[1] != "200" or len(found["withdraw"].json()["withdrawn"]) == 3
        assert await open_to(operator, BOB) == []
