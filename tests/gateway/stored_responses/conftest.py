"""A gateway whose server has chat completions only, and one with two servers of the Responses API."""

from pathlib import Path
from typing import Any

import pytest
import trio

from tests import gateways
from tests.fakes import model_server, object_server
from tests.fakes.model_server import ModelServer
from tests.fakes.object_server import ObjectServer
from tests.gateway.passthrough.conftest import Account, new_account, relaying, storage
from tests.gateways import Gateway, entry
from tests.storage.conftest import postgres, postgres_url

__all__ = [
    "ada",
    "bob",
    "gateway",
    "models",
    "native",
    "other",
    "postgres",
    "postgres_url",
    "storage",
    "vendor",
]


@pytest.fixture
async def models(nursery: trio.Nursery) -> ModelServer:
    server: ModelServer = await nursery.start(model_server.serve)
    return server


@pytest.fixture
async def vendor(nursery: trio.Nursery) -> ObjectServer:
    server: ObjectServer = await nursery.start(object_server.serve, "a")
    return server


@pytest.fixture
async def other(nursery: trio.Nursery) -> ObjectServer:
    server: ObjectServer = await nursery.start(object_server.serve, "b")
    return server


@pytest.fixture
async def gateway(nursery: trio.Nursery, home: Path, models: ModelServer, storage: dict[str, Any]) -> Gateway:
    return await gateways.start(nursery, home, servers=[entry("chat", models.url)], storage=storage)


@pytest.fixture
async def native(
    nursery: trio.Nursery, home: Path, vendor: ObjectServer, other: ObjectServer, models: ModelServer
) -> Gateway:
    """Both servers offer "m", the first one usually gets the requests; a chat server offers "translated"."""
    servers = [
        relaying("first", vendor, dialect="litellm"),
        relaying("second", other, dialect="litellm", priority=1, models=["m", "only"]),
        entry("chat", models.url, models=["translated"]),
    ]
    return await gateways.start(nursery, home, servers=servers)


@pytest.fixture
async def ada(gateway: Gateway) -> Account:
    return await new_account(gateway, "ada@example.com")


@pytest.fixture
async def bob(gateway: Gateway) -> Account:
    return await new_account(gateway, "bob@example.com")
