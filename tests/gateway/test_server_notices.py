"""Servers that go down and recover."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from bluesminds.common.values import Server
from bluesminds.gateway.routing.health import ServerStatus
from bluesminds.gateway.server_notices import ServerNotices
from storage import Store
from storage.events import select_new_events
from storage.store import open_store
from tests.storage.samples import NOON

SERVERS = [
    Server(name, "openai", "http://127.0.0.1:9", None, ("m",), 1, 0, "file") for name in ("one", "two")
]
UP, DOWN = ServerStatus("up"), ServerStatus("down", None, "connection refused")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(f"sqlite://{tmp_path}/db") as store:
        yield store


class Fleet:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.now = NOON
        self.statuses = {server.name: UP for server in SERVERS}
        self.restart()

    def restart(self) -> None:
        self.notices = ServerNotices(
            self.store,
            clock=self,
            statuses=lambda: [(one, self.statuses[one.name]) for one in SERVERS if one.name in self.statuses],
            down_seconds=60,
        )

    def now_ms(self) -> int:
        return self.now

    async def after(self, seconds: int) -> list[tuple[str, str]]:
        """Kinds and servers of all events so far, that many seconds later."""
        self.now += seconds * 1000
        await self.notices.run_once()
        found = await self.store.read(select_new_events, 100)
        assert all(event.account_id is None for event in found)
        return [(event.kind, msgspec.json.decode(event.data)["server"]) for event in found]


async def test_server_is_reported_when_it_is_down_for_a_minute_and_when_it_recovers(store: Store) -> None:
    fleet = Fleet(store)
    assert await fleet.after(0) == []
    fleet.statuses["one"] = DOWN
    assert await fleet.after(0) == await fleet.after(59) == []
    assert await fleet.after(1) == await fleet.after(600) == [("server.down", "one")]
    fleet.statuses["one"] = UP
    expected = [("server.down", "one"), ("server.recovered", "one")]
    assert await fleet.after(10) == await fleet.after(10) == expected
    (down, up) = await store.read(select_new_events, 10)
    assert msgspec.json.decode(down.data)["reason"] == "connection refused"
    assert msgspec.json.decode(up.data)["seconds"] == 670


async def test_server_that_is_down_for_a_moment_is_not_reported(store: Store) -> None:
    fleet = Fleet(store)
    for _ in range(5):
        fleet.statuses["one"] = DOWN
        assert await fleet.after(30) == []
        fleet.statuses["one"] = UP
        assert await fleet.after(30) == []


async def test_report_survives_a_restart(store: Store) -> None:
    fleet = Fleet(store)
    fleet.statuses["one"] = DOWN
    await fleet.after(0)
    assert await fleet.after(60) == [("server.down", "one")]
    fleet.restart()
    assert await fleet.after(120) == [("server.down", "one")]
    fleet.restart()
    fleet.statuses["one"] = UP
    assert await fleet.after(0) == [("server.down", "one"), ("server.recovered", "one")]


async def test_server_that_is_removed_is_forgotten(store: Store) -> None:
    fleet = Fleet(store)
    fleet.statuses["one"] = DOWN
    await fleet.after(0)
    await fleet.after(60)
    del fleet.statuses["one"]
    await fleet.after(0)
    fleet.statuses["one"] = UP
    assert await fleet.after(0) == [("server.down", "one")]
