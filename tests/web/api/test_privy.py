"""POST /auth/privy over HTTP: tokens in Privy's format, signed by the key of the application."""

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from tests.deployment import BrowserUser, Deployment, code_of, deploy
from tests.fakes import identity_server
from tests.fakes.identity_server import EcSigner, IdentityServer, RsaSigner, sign_hs256, unsigned

APP, ADA = "clx0123456789", "ada@example.com"
DID = "did:privy:cm3np8tw2000nlihkq9s6hjmi"
KEY = EcSigner("privy-key")
EMAIL = {"type": "email", "address": ADA, "lv": 1_700_000_000}
WALLET = {
    "type": "wallet",
    "address": "0x52908400098527886E0F7030069857D2E4169EE7",
    "chain_type": "ethereum",
    "wallet_client_type": "privy",
    "lv": 1_700_000_000,
}


def claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    plain = {"iss": "privy.io", "aud": APP, "sub": DID, "sid": "cm3", "iat": now, "exp": now + 3600}
    return plain | changed


def identity_token(*accounts: dict[str, Any], **changed: Any) -> str:
    more = {"cr": "1700000000", "linked_accounts": json.dumps(accounts), "custom_metadata": "{}"}
    return KEY.sign(claims(**more) | changed)


async def open_site(nursery: trio.Nursery, home: Path, **row: Any) -> Deployment:
    provider = {"name": "privy", "kind": "privy", "client_id": APP} | row
    return await deploy(nursery, home, signup="open", sections={"identity": {"providers": [provider]}})


@pytest.fixture
async def site(nursery: trio.Nursery, home: Path) -> Deployment:
    (home / "privy.pem").write_bytes(KEY.pem)
    return await open_site(nursery, home, key_file="privy.pem")


async def enter(
    browser: BrowserUser, access: str | None, identity: str | None = None, **body: Any
) -> httpx.Response:
    headers = {} if access is None else {"authorization": f"Bearer {access}"}
    if identity is not None:
        headers["privy-id-token"] = identity
    return await browser.client.post("/auth/privy", json=body, headers=headers)


async def test_tokens_open_the_account_of_the_user(site: Deployment) -> None:
    user_id = await site.create_user(ADA)
    async with site.browser() as ada:
        answer = await enter(ada, KEY.sign(claims()), identity_token(WALLET, EMAIL))
        assert answer.status_code == 200, answer.text
        assert (answer.json()["user"]["id"], answer.json()["token"]) == (user_id, None)
        assert await ada.is_signed_in()
    async with site.browser() as program:
        answer = await enter(program, KEY.sign(claims()), bearer=True)
        program.use_session(answer)
        assert answer.json()["user"]["id"] == user_id, "the identity is known by now"
        assert await program.is_signed_in()
    async with site.browser() as ada:
        assert code_of(await ada.send("GET", "/api/auth/google")) == "unknown_url"
        assert "Continue with" not in (await ada.send("GET", "/account/login")).text


async def test_user_without_verified_address_gets_an_account_without_one(site: Deployment) -> None:
    user_id = await site.create_user(ADA)
    async with site.browser() as eve:
        answer = await enter(eve, KEY.sign(claims()), identity_token(EMAIL | {"lv": None}))
        assert answer.json()["user"]["email"] is None
        assert answer.json()["user"]["id"] != user_id
        again = await enter(eve, KEY.sign(claims()), identity_token(WALLET))
        assert again.json()["user"]["id"] == answer.json()["user"]["id"]


async def test_tokens_in_cookies_are_read(site: Deployment) -> None:
    async with site.browser() as ada:
        ada.client.cookies.set("privy-token", KEY.sign(claims()))
        ada.client.cookies.set("privy-id-token", identity_token(EMAIL))
        assert (await enter(ada, None)).json()["user"]["email"] == ADA


async def test_hostile_tokens_are_refused(site: Deployment) -> None:
    good = KEY.sign(claims())
    stranger = EcSigner("privy-key")
    tokens = {
        "another application": KEY.sign(claims(aud="other")),
        "another issuer": KEY.sign(claims(iss="https://privy.io")),
        "expired": KEY.sign(claims(iat=1, exp=1_600_000_000)),
        "no subject": KEY.sign(claims(sub=None)),
        "another key": stranger.sign(claims()),
        "another algorithm": RsaSigner("privy-key").sign(claims()),
        "alg none": unsigned({"alg": "none"}, claims()) + ".",
        "HS256 with the public key": sign_hs256(KEY.pem, claims()),
        "text": "nonsense",
    }
    identities = {
        "of another user": identity_token(EMAIL, sub="did:privy:other"),
        "of another key": stranger.sign(claims(linked_accounts=json.dumps([EMAIL]))),
        "with accounts that are not text": identity_token(EMAIL, linked_accounts=[EMAIL]),
        "with unreadable accounts": identity_token(EMAIL, linked_accounts="["),
    }
    async with site.browser() as eve:
        found = {name: code_of(await enter(eve, token)) for name, token in tokens.items()}
        found |= {name: code_of(await enter(eve, good, token)) for name, token in identities.items()}
        assert found == dict.fromkeys([*tokens, *identities], "invalid_identity")
        assert code_of(await enter(eve, None)) == "missing_privy_token"
        assert not await eve.is_signed_in()


async def test_keys_are_read_from_the_address_of_the_application(nursery: trio.Nursery, home: Path) -> None:
    server: IdentityServer = await nursery.start(identity_server.serve)
    server.keys = [KEY]
    site = await open_site(nursery, home, keys_url=f"{server.url}/jwks")
    async with site.browser() as ada:
        for _ in range(2):
            answer = await enter(ada, KEY.sign(claims()), identity_token(EMAIL))
            assert answer.json()["user"]["email"] == ADA
    assert server.paths == ["/jwks"]
