"""Relayed requests of users with own keys for vendors go to the vendor, with that key."""

from pathlib import Path
from typing import Any

import pytest
import trio

from bluesminds.gateway.passthrough.paths import collections_of
from bluesminds.providers.own_keys import OWN_KEY_VENDORS, own_server
from tests import gateways
from tests.fakes import object_server
from tests.fakes.object_server import ObjectServer
from tests.gateway.passthrough.conftest import Account, code_of, new_account
from tests.gateways import ASK, Gateway, entry

OWN = "sk-own-0123456789-Abcd"


class Site:
    """A gateway with the server "ours", and the server of the vendor OpenAI."""

    def __init__(self, gateway: Gateway, ours: ObjectServer, vendor: ObjectServer) -> None:
        self.gateway = gateway
        self.ours = ours
        self.vendor = vendor

    async def store(self, account: Account, **fields: Any) -> dict[str, Any]:
        body = {"vendor": "openai", "api_key": OWN, "models": ["m"]} | fields
        answer = await self.send("POST", account, "", body)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def send(self, method: str, account: Account, path: str, body: Any = None) -> Any:
        async with self.gateway.operator() as client:
            url = f"/api/admin/users/{account.user_id}/vendor-keys{path}"
            return await client.request(method, url, json=body)


async def start(nursery: trio.Nursery, home: Path, **server: Any) -> Site:
    ours: ObjectServer = await nursery.start(object_server.serve, "ours")
    vendor: ObjectServer = await nursery.start(object_server.serve, "vendor", OWN)
    gateway = await gateways.start(
        nursery,
        home,
        servers=[entry("ours", ours.url, api_key="sk-upstream", passthrough=True) | server],
        vendor_keys={"urls": {"openai": vendor.url}},
        upstream={"allowed_networks": ["127.0.0.0/8"]},
    )
    return Site(gateway, ours, vendor)


def keys_of(server: ObjectServer, path: str) -> list[bytes]:
    asked = [one for one in server.requests if path.encode() in one.line]
    return [value for one in asked for value in one.values(b"authorization")]


async def test_relayed_request_uses_the_own_key_and_its_objects_stay_there(
    nursery: trio.Nursery, home: Path
) -> None:
    site = await start(nursery, home)
    ada = await new_account(site.gateway, "ada@example.com")
    bob = await new_account(site.gateway, "bob@example.com")
    stored = await site.store(ada)
    file_id = await ada.upload()
    assert keys_of(site.vendor, "/v1/files") == [b"Bearer " + OWN.encode()]
    assert site.ours.lines() == []
    found = await ada.send("GET", f"/v1/files/{file_id}")
    assert (found.status_code, found.headers["x-bluesminds-server"]) == (200, stored["server"])
    listed = (await ada.send("GET", "/v1/files")).json()["data"]
    assert [one["id"] for one in listed] == [file_id]
    assert code_of(await bob.send("GET", f"/v1/files/{file_id}")) == (404, "object_not_found")
    await bob.upload()
    assert keys_of(site.ours, "/v1/files") == [b"Bearer sk-upstream"]
    rows = await site.gateway.settled(4)
    assert [row["cost_nano"] for row in rows if row["server"] == stored["server"]] == [0, 0, 0]

    named = await ada.upload(headers={"x-bluesminds-server": "ours"})
    found = await ada.send("GET", f"/v1/files/{named}")
    assert found.headers["x-bluesminds-server"] == "ours"
    assert (await site.send("DELETE", ada, f"/{stored['id']}")).status_code == 204
    missing = await ada.send("GET", f"/v1/files/{file_id}")
    assert code_of(missing) == (404, "object_server_missing")


async def test_own_key_relays_without_a_server_that_does_and_without_a_budget(
    nursery: trio.Nursery, home: Path
) -> None:
    site = await start(nursery, home, passthrough=False)
    ada = await new_account(site.gateway, "ada@example.com", limits={"usd_per_day": "1"})
    batch = {"input_file_id": "file-1"}
    assert code_of(await ada.send("POST", "/v1/batches", json=batch)) == (404, "unsupported_endpoint")
    refused = await ada.send("POST", "/v1/files", files={"file": ("a.txt", b"x")})
    assert code_of(refused) == (404, "unsupported_endpoint")
    await site.store(ada, mode="only")
    file_id = await ada.upload()
    made = await ada.create("batches", {"input_file_id": file_id, "endpoint": "/v1/chat/completions"})
    assert (await ada.send("GET", f"/v1/batches/{made}")).status_code == 200
    assert site.ours.lines() == []
    async with site.gateway.client("sk-nothing") as client:
        assert (await client.get("/v1/files")).status_code == 401


async def test_request_with_a_file_of_the_own_key_goes_to_the_vendor(
    nursery: trio.Nursery, home: Path
) -> None:
    site = await start(nursery, home, passthrough=False)
    ada = await new_account(site.gateway, "ada@example.com")
    stored = await site.store(ada)
    file_id = await ada.upload()
    part = {"type": "file", "file": {"file_id": file_id}}
    asked = ASK | {"messages": [{"role": "user", "content": [part]}]}
    await site.send("PATCH", ada, f"/{stored['id']}", {"models": ["other"]})
    answer = await ada.send("POST", "/v1/chat/completions", json=asked)
    assert code_of(answer) == (404, "object_server_missing"), "the file is not at the gateway's server"


@pytest.mark.parametrize(
    ("vendor", "relays"),
    [("openai", True), ("groq", True), ("deepseek", False), ("anthropic", True)],
)
def test_only_vendors_with_files_get_files(vendor: str, relays: bool) -> None:
    row = OWN_KEY_VENDORS[vendor]
    own = own_server(row, row.url, key_id="x" * 8, api_key=OWN, models=())
    assert ("files" in collections_of(own)) is relays
