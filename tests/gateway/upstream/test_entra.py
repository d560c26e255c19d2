"""Azure servers whose key is an application of Microsoft Entra ID get tokens, which are renewed."""

from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec import structs
from trio.testing import MockClock

from bluesminds.common.values import Server
from bluesminds.gateway.upstream.entra import EntraTokens
from bluesminds.providers.azure import token_service
from tests import gateways
from tests.fakes import entra_service
from tests.fakes.entra_service import LIFETIME, EntraService, token
from tests.fakes.model_server import ModelServer
from tests.gateways import ASK, Gateway, entry, eventually

SECRET = "very~secret.value"
APP = f"entra:contoso.example:0f1e-client:{SECRET}"


@pytest.fixture
async def service(nursery: trio.Nursery) -> EntraService:
    return await nursery.start(entra_service.serve)


async def start(
    nursery: trio.Nursery, home: Path, service: EntraService, azure: ModelServer, **more: Any
) -> Gateway:
    url = azure.url.removesuffix("/v1")
    server = entry("azure", url, dialect="azure", **{"api_key": APP, "models": ["m"], **more})
    return await gateways.start(
        nursery, home, servers=[server], upstream={"entra_url": service.url, "probe_interval": 86400}
    )


def bearer(models: ModelServer) -> list[bytes]:
    """The credentials of all requests for completions."""
    return [asked.header(b"authorization") or b"" for asked in models.asked]


async def test_application_gets_a_token_before_the_first_request(
    nursery: trio.Nursery, home: Path, service: EntraService, models: ModelServer
) -> None:
    gateway = await start(nursery, home, service, models)
    assert (await gateway.chat(ASK)).status_code == 200
    assert bearer(models) == [f"Bearer {token(1)}".encode()]
    assert models.asked[0].header(b"api-key") is None
    assert service.paths == ["/contoso.example/oauth2/v2.0/token"]
    assert service.forms == [
        {
            "grant_type": "client_credentials",
            "client_id": "0f1e-client",
            "client_secret": SECRET,
            "scope": "https://cognitiveservices.azure.com/.default",
        }
    ]
    assert SECRET not in gateway.log and token(1) not in gateway.log


async def test_token_is_renewed_after_two_thirds_of_its_lifetime(
    nursery: trio.Nursery, home: Path, service: EntraService, models: ModelServer, mock_clock: MockClock
) -> None:
    mock_clock.rate = 1
    gateway = await start(nursery, home, service, models)
    await gateway.chat(ASK)
    mock_clock.jump(LIFETIME * 2 / 3 + 1)
    await eventually(lambda: service.issued == 2)
    await gateway.chat(ASK)
    await eventually(lambda: bearer(models)[-1] == f"Bearer {token(2)}".encode())


async def test_token_that_cannot_be_renewed_is_used_until_it_ends(
    nursery: trio.Nursery, home: Path, service: EntraService, models: ModelServer, mock_clock: MockClock
) -> None:
    mock_clock.rate = 1
    gateway = await start(nursery, home, service, models)
    service.failures.extend([(b"401 Unauthorized", "invalid_client"), (b"503 Service Unavailable", "")])
    mock_clock.jump(LIFETIME * 2 / 3 + 1)
    await eventually(lambda: len(gateway.events("entra_token_failed")) == 1)
    await gateway.chat(ASK)
    assert bearer(models)[-1] == f"Bearer {token(1)}".encode()
    mock_clock.jump(6)
    await eventually(lambda: len(gateway.events("entra_token_failed")) == 2)
    mock_clock.jump(11)
    await eventually(lambda: service.issued == 2)
    failed = gateway.events("entra_token_failed")
    assert [event["reason"] for event in failed] == [
        "the service responded with 401 invalid_client",
        "the service responded with 503",
    ]
    assert {event["service"] for event in failed} == {service.url}
    assert SECRET not in gateway.log


async def test_server_added_later_gets_a_token_at_once(
    nursery: trio.Nursery, home: Path, service: EntraService, models: ModelServer
) -> None:
    gateway = await start(nursery, home, service, models, models=["other"], api_key="plain-key")
    assert service.paths == []
    new = {
        "name": "added",
        "dialect": "azure",
        "url": models.url.removesuffix("/v1"),
        "api_key": APP,
        "models": ["m"],
    }
    async with gateway.operator() as client:
        assert (await client.post("/api/admin/servers", json=new)).status_code == 201
        assert (await gateway.chat(ASK)).status_code == 200
        assert bearer(models) == [f"Bearer {token(1)}".encode()]
        shown = (await client.get("/api/admin/servers/added")).text
    assert SECRET not in shown and token(1) not in shown


async def test_server_with_a_new_secret_is_never_without_a_token(
    nursery: trio.Nursery, home: Path, service: EntraService, models: ModelServer
) -> None:
    gateway = await start(nursery, home, service, models, models=["other"], api_key="plain-key")
    tokens = EntraTokens(gateway.services.pool, service.url)
    before = Server("azure", "azure", models.url, APP, ("m",), 1, 0, "file")
    after = structs.replace(before, api_key=APP + "2")
    for number, server in enumerate((before, after), start=1):
        await tokens.prepare([server])
        assert [one.api_key for one in tokens.fill_in([server])] == [token(number)]


async def test_test_of_a_server_shows_the_token_step(
    nursery: trio.Nursery, home: Path, service: EntraService, models: ModelServer
) -> None:
    service.failures.extend([(b"401 Unauthorized", "invalid_client")] * 2)
    gateway = await start(nursery, home, service, models)
    async with gateway.operator() as client:
        refused = (await client.post("/api/admin/servers/azure/test")).json()
        passed = (await client.post("/api/admin/servers/azure/test")).json()
    assert [(step["name"], step["ok"]) for step in refused["steps"]] == [("token", False)]
    assert refused["problem"] == "the service responded with 401 invalid_client"
    assert (passed["steps"][0]["name"], passed["steps"][0]["ok"]) == ("token", True)
    assert passed["ok"], passed


async def test_incomplete_application_is_refused(
    nursery: trio.Nursery, home: Path, service: EntraService, models: ModelServer
) -> None:
    gateway = await start(nursery, home, service, models, api_key="plain-key")
    new = {"name": "added", "dialect": "azure", "url": models.url, "api_key": "entra:tenant", "models": ["m"]}
    async with gateway.operator() as client:
        answer = await client.post("/api/admin/servers", json=new)
    assert answer.status_code == 400
    assert "write it like entra:TENANT_ID:CLIENT_ID:CLIENT_SECRET" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("url", "service", "scope"),
    [
        ("https://one.openai.azure.com", "https://login.microsoftonline.com", "azure.com"),
        ("https://one.openai.azure.us/openai/v1", "https://login.microsoftonline.us", "azure.us"),
        ("https://one.openai.azure.cn", "https://login.chinacloudapi.cn", "azure.cn"),
        ("https://proxy.example.com/azure.us", "https://login.microsoftonline.com", "azure.com"),
    ],
)
def test_sign_in_service_follows_from_the_cloud_of_the_server(url: str, service: str, scope: str) -> None:
    assert token_service(url) == (service, f"https://cognitiveservices.{scope}/.default")
