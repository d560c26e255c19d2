"""The cache of the origins that API keys list."""

import pytest
from trio.testing import MockClock

from bluesminds.common.clock import SystemClock
from bluesminds.common.errors import Unavailable
from bluesminds.gateway.authenticate import KeyAuthenticator
from bluesminds.gateway.browser_origins import BrowserOrigins
from storage.base import StorageUnavailable
from storage.keys import KeyHolder

APP = "https://app.example.com"


class OriginTable:
    """The origins that keys list. `queries` counts the loads."""

    def __init__(self) -> None:
        self.origins: frozenset[str] = frozenset()
        self.queries = 0
        self.failing = False

    async def load(self) -> frozenset[str]:
        self.queries += 1
        if self.failing:
            raise StorageUnavailable("gone")
        return self.origins


async def no_key(digest: bytes) -> KeyHolder | None:
    return None


def authenticator() -> KeyAuthenticator:
    return KeyAuthenticator(
        no_key, pepper=b"pepper", clock=SystemClock(), cache_seconds=5.0, tiers={}, is_open=lambda *_: True
    )


def origins(table: OriginTable, keys: KeyAuthenticator, *configured: str) -> BrowserOrigins:
    return BrowserOrigins(configured, keys, table.load, cache_seconds=5.0)


async def test_listed_origins_are_loaded_again_after_cache_seconds(mock_clock: MockClock) -> None:
    table = OriginTable()
    found = origins(table, authenticator())
    assert not await found.allows_preflight(APP)
    table.origins = frozenset([APP])
    mock_clock.jump(4.9)
    assert not await found.allows_preflight(APP)
    assert table.queries == 1
    mock_clock.jump(0.1)
    assert await found.allows_preflight(APP)
    assert table.queries == 2


async def test_listed_origins_are_loaded_again_after_a_key_changes() -> None:
    table, keys = OriginTable(), authenticator()
    found = origins(table, keys)
    assert not await found.allows_preflight(APP)
    table.origins = frozenset([APP])
    keys.forget(b"digest")
    assert await found.allows_preflight(APP)
    assert not await found.allows_preflight("null")
    assert table.queries == 2


async def test_configured_origins_need_no_store() -> None:
    table = OriginTable()
    table.failing = True
    assert await origins(table, authenticator(), APP).allows_preflight(APP)
    assert await origins(table, authenticator(), "*").allows_preflight("null")
    assert table.queries == 0


async def test_preflight_is_unavailable_while_the_store_fails() -> None:
    table = OriginTable()
    table.failing = True
    found = origins(table, authenticator(), "https://other.example.com")
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            await found.allows_preflight(APP)
        assert caught.value.code == "storage_unavailable"
    table.failing, table.origins = False, frozenset([APP])
    assert await found.allows_preflight(APP)
