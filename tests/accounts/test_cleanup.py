"""Retention of usage on both engines."""

import pytest

from bluesminds.accounts import cleanup
from bluesminds.accounts.cleanup import ExpiredDataCleanup, PromptRetention, UsageRetention
from bluesminds.accounts.sessions import Sessions
from storage import Connection, Store
from storage.usage import DAY, insert_batch
from tests.storage.conftest import postgres, postgres_url, sqlite_path, sqlite_url, store, url
from tests.storage.samples import NOON, all_usage, usage

__all__ = ["postgres", "postgres_url", "sqlite_path", "sqlite_url", "store", "url"]


class Noon:
    def now_ms(self) -> int:
        return NOON


async def counts(connection: Connection) -> list[object]:
    return [
        len(await all_usage(connection)),
        await connection.value("SELECT count(*) FROM usage_hourly"),
        await connection.value("SELECT count(*) FROM usage_daily"),
        await connection.value("SELECT count(*) FROM usage_site_hourly"),
        await connection.value("SELECT count(*) FROM usage_site_daily"),
        await connection.value("SELECT count(*) FROM usage_key_daily"),
    ]


@pytest.mark.parametrize(
    ("retention", "left"),
    [
        (UsageRetention(), [20] * 6),
        (UsageRetention(log=5), [6, 20, 20, 20, 20, 20]),
        (UsageRetention(hours=5), [20, 6, 20, 6, 20, 20]),
        (UsageRetention(days=5), [20, 20, 5, 20, 5, 5]),
    ],
)
async def test_usage_is_deleted_after_its_days(
    store: Store, monkeypatch: pytest.MonkeyPatch, retention: UsageRetention, left: list[int]
) -> None:
    monkeypatch.setattr(cleanup, "USAGE_BATCH", 3)
    await store.write(insert_batch, [usage(n, at=NOON - n * DAY) for n in range(20)])
    task = ExpiredDataCleanup(
        store,
        Sessions(store, pepper=b"p" * 32, clock=Noon(), idle=60, lifetime=60, keep=1),
        account_bytes=10**9,
        receipt_days=30,
        usage=retention,
        prompts=PromptRetention(),
        clock=Noon(),
    )
    await task.run_once()
    assert await store.read(counts) == left
