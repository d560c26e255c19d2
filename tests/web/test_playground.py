"""Chat completions of a signed-in user with one of the user's keys."""

from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from tests.deployment import BrowserUser, Deployment, code_of, deploy
from tests.fakes import model_server
from tests.fakes.model_server import DONE, ModelServer
from tests.gateways import ASK, STREAM, entry

PATH = "/api/playground/chat/completions"


@pytest.fixture
async def models(nursery: trio.Nursery) -> ModelServer:
    server: ModelServer = await nursery.start(model_server.serve)
    return server


@pytest.fixture
async def site(nursery: trio.Nursery, home: Path, models: ModelServer) -> Deployment:
    return await deploy(nursery, home, servers=[entry("one", models.url)])


async def sign_in(site: Deployment, browser: BrowserUser, name: str, *, bearer: bool = False) -> str:
    """The id of the new user."""
    email = f"{name}@example.com"
    user = await site.create_user(email)
    assert (await browser.login(email, bearer=bearer)).status_code == 200
    return user


async def new_key(browser: BrowserUser, **fields: Any) -> str:
    answer = await browser.send("POST", "/api/keys", {"name": "k"} | fields)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def ask(browser: BrowserUser, key_id: str, body: Any = ASK, **headers: str) -> httpx.Response:
    return await browser.send("POST", PATH, body, headers={"x-bluesminds-key": key_id} | headers)


@pytest.mark.parametrize("bearer", [False, True])
async def test_signed_in_user_asks_with_own_key_and_is_counted(
    site: Deployment, models: ModelServer, bearer: bool
) -> None:
    async with site.browser() as ada:
        user = await sign_in(site, ada, "ada", bearer=bearer)
        key = await new_key(ada)
        plain = await ask(ada, key)
        stream = await ask(ada, key, STREAM)
    assert plain.status_code == stream.status_code == 200
    assert plain.json()["choices"][0]["message"]["content"]
    assert stream.content.endswith(DONE)
    assert plain.headers["x-request-id"]
    for row in await site.gateway.settled(2):
        assert (row["user_id"], row["key_id"], row["endpoint"]) == (user, key, "chat.completions")
    session = ada.client.headers.get("authorization") or ada.client.cookies.get("bluesminds") or ""
    assert session
    for asked in models.asked:
        assert session.removeprefix("Bearer ").encode() not in asked.received.head


async def test_limits_and_models_of_the_key_apply(site: Deployment) -> None:
    async with site.browser() as ada:
        await sign_in(site, ada, "ada")
        limited = await new_key(ada, limits={"rpm": 1})
        narrow = await new_key(ada, allowed_models=["other"])
        assert (await ask(ada, limited)).status_code == 200
        assert code_of(await ask(ada, limited)) == "rate_limit_exceeded"
        assert (await ask(ada, narrow)).status_code == 403


async def test_key_of_another_user_or_revoked_is_not_found(site: Deployment) -> None:
    async with site.browser() as ada, site.browser() as eve:
        await sign_in(site, ada, "ada")
        await sign_in(site, eve, "eve")
        key = await new_key(ada)
        assert code_of(await ask(eve, key)) == "key_not_found"
        assert code_of(await ask(eve, "x")) == "key_not_found"
        assert (await ask(ada, key)).status_code == 200
        assert (await ada.send("DELETE", f"/api/keys/{key}")).status_code == 204
        assert code_of(await ask(ada, key)) == "key_not_found"
        assert code_of(await ada.send("POST", PATH, ASK)) == "missing_key_id"


async def test_request_without_session_or_csrf_token_is_rejected(
    site: Deployment, models: ModelServer
) -> None:
    async with site.browser() as ada, site.browser() as stranger:
        await sign_in(site, ada, "ada")
        key = await new_key(ada)
        assert code_of(await ask(stranger, key)) == "session_required"
        assert (await ask(stranger, key, authorization=f"Bearer {site.gateway.key}")).status_code == 401
        assert code_of(await ask(ada, key, **{"sec-fetch-site": "cross-site"})) == "cross_site_request"
        del ada.client.headers["x-csrf-token"]
        assert code_of(await ask(ada, key)) == "csrf_token_invalid"
    assert models.asked == []


async def test_disabled_user_is_rejected(site: Deployment) -> None:
    async with site.browser() as ada:
        user = await sign_in(site, ada, "ada")
        key = await new_key(ada)
        assert (await ask(ada, key)).status_code == 200
        async with site.gateway.operator() as operator:
            await operator.patch(f"/api/admin/users/{user}", json={"disabled": True})
        assert (await ask(ada, key)).status_code == 401


async def test_other_method_is_rejected(site: Deployment) -> None:
    async with site.browser() as ada:
        await sign_in(site, ada, "ada")
        key = await new_key(ada)
        answer = await ada.send("GET", PATH, headers={"x-bluesminds-key": key})
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
