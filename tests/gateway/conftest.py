"""A gateway in front of one scriptable model server."""

from pathlib import Path

import pytest
import trio

from tests import gateways
from tests.fakes import model_server
from tests.fakes.model_server import ModelServer
from tests.gateways import IMPATIENT, Gateway, entry
from tests.storage.conftest import postgres, postgres_url, sqlite_path, sqlite_url

__all__ = [
    "gateway",
    "impatient",
    "models",
    "pair",
    "patient",
    "patient_with_short_drain",
    "postgres",
    "postgres_url",
    "second",
    "sqlite_path",
    "sqlite_url",
]

PATIENT = {
    "server": {"drain_timeout": 60.0},
    "upstream": {"first_byte_timeout": 60.0, "chunk_timeout": 60.0, "total_timeout": 120.0},
}


@pytest.fixture
async def models(nursery: trio.Nursery) -> ModelServer:
    server: ModelServer = await nursery.start(model_server.serve)
    return server


@pytest.fixture
async def second(nursery: trio.Nursery) -> ModelServer:
    server: ModelServer = await nursery.start(model_server.serve)
    return server


@pytest.fixture
async def pair(nursery: trio.Nursery, home: Path, models: ModelServer, second: ModelServer) -> Gateway:
    """`models` first, `second` when that fails."""
    servers = [entry("first", models.url, priority=0), entry("second", second.url, priority=1)]
    return await gateways.start(
        nursery, home, servers=servers, upstream={"first_byte_timeout": 1.0, "chunk_timeout": 60.0}
    )


@pytest.fixture
async def gateway(nursery: trio.Nursery, home: Path, models: ModelServer) -> Gateway:
    return await gateways.start(nursery, home, servers=[entry("one", models.url, api_key="sk-upstream")])


@pytest.fixture
async def impatient(nursery: trio.Nursery, home: Path, models: ModelServer) -> Gateway:
    """A gateway with short upstream timeouts."""
    servers = [entry("one", models.url, api_key="sk-upstream")]
    return await gateways.start(nursery, home, servers=servers, upstream=IMPATIENT)


@pytest.fixture
async def patient(nursery: trio.Nursery, home: Path, models: ModelServer) -> Gateway:
    """A gateway with timeouts of a minute, which must not expire in a test."""
    return await gateways.start(nursery, home, servers=[entry("one", models.url)], **PATIENT)


@pytest.fixture
async def patient_with_short_drain(nursery: trio.Nursery, home: Path, models: ModelServer) -> Gateway:
    sections = PATIENT | {"server": {"drain_timeout": 0.3}}
    return await gateways.start(nursery, home, servers=[entry("one", models.url)], **sections)
