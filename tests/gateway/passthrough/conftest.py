"""A gateway that relays to two servers with objects, and the keys of two accounts."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from tests import gateways
from tests.fakes import object_server
from tests.fakes.object_server import ObjectServer
from tests.gateways import Gateway, entry
from tests.storage.conftest import postgres, postgres_url

__all__ = ["ada", "bob", "gateway", "other", "postgres", "postgres_url", "storage", "vendor"]


def relaying(name: str, server: ObjectServer, **more: Any) -> dict[str, Any]:
    return entry(name, server.url, api_key="sk-upstream", passthrough=True) | more


@dataclass
class Account:
    """A user with a key, and requests with it."""

    gateway: Gateway
    user_id: str
    key: str

    async def send(self, method: str, path: str, **more: Any) -> httpx.Response:
        async with self.gateway.client(self.key) as client:
            return await client.request(method, path, **more)

    async def upload(self, content: bytes = b"hello", **more: Any) -> str:
        """Upload a file; its id."""
        answer = await self.send(
            "POST", "/v1/files", files={"file": ("a.txt", content)}, data={"purpose": "batch"}, **more
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    async def create(self, collection: str, body: Mapping[str, Any], **more: Any) -> str:
        answer = await self.send("POST", f"/v1/{collection}", json=body, **more)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def alter(gateway: Gateway, script: str) -> None:
    """Change the database in a thread: this one may have to finish a transaction of the gateway first."""

    def run() -> None:
        with closing(sqlite3.connect(gateway.database, timeout=60, isolation_level=None)) as database:
            database.executescript(f"BEGIN IMMEDIATE; {script}; COMMIT")

    await trio.to_thread.run_sync(run)


async def refuse_inserts(gateway: Gateway, table: str) -> None:
    trigger = f"CREATE TRIGGER refuse BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'refused'); END"
    await alter(gateway, trigger)


async def new_account(gateway: Gateway, email: str, **key: Any) -> Account:
    async with gateway.operator() as operator:
        body = {"email": email, "password": "correct horse battery"}
        made = await operator.post("/api/admin/users", json=body)
    assert made.status_code == 201, made.text
    user_id = made.json()["id"]
    return Account(gateway, user_id, (await gateway.new_key(user_id=user_id, **key))[1])


@pytest.fixture
async def vendor(nursery: trio.Nursery) -> ObjectServer:
    server: ObjectServer = await nursery.start(object_server.serve, "a")
    return server


@pytest.fixture
async def other(nursery: trio.Nursery) -> ObjectServer:
    server: ObjectServer = await nursery.start(object_server.serve, "b")
    return server


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The [storage] section for each engine."""
    return {"url": request.getfixturevalue("postgres_url")} if request.param == "postgres" else {}


@pytest.fixture
async def gateway(
    nursery: trio.Nursery, home: Path, vendor: ObjectServer, other: ObjectServer, storage: dict[str, Any]
) -> Gateway:
    servers = [relaying("first", vendor), relaying("second", other, priority=1)]
    return await gateways.start(nursery, home, servers=servers, storage=storage)


@pytest.fixture
async def ada(gateway: Gateway) -> Account:
    return await new_account(gateway, "ada@example.com")


@pytest.fixture
async def bob(gateway: Gateway) -> Account:
    return await new_account(gateway, "bob@example.com")
