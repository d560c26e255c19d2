"""A database that is damaged at runtime: rows are neither rejected nor lost."""

import json
from pathlib import Path

import msgspec
import pytest
import trio

from bluesminds.common.clock import SystemClock
from bluesminds.common.errors import Unavailable
from bluesminds.common.log import Log
from bluesminds.gateway.metrics import Metrics
from bluesminds.gateway.recorder import Recorder
from storage.store import open_store
from storage.usage import UsageRow, insert_batch
from tests.gateways import eventually
from tests.storage.samples import usage
from tests.storage.test_trouble import damage

ROWS = [usage(serial) for serial in range(1000, 1005)]


async def test_damaged_database_keeps_rows_and_logs_them_at_end(sqlite_url: str, sqlite_path: Path) -> None:
    lines: list[bytes] = []
    log, metrics = Log(SystemClock(), write=lines.append), Metrics()
    async with open_store(sqlite_url) as store:
        await store.write(insert_batch, [usage(serial) for serial in range(500)])
    async with open_store(sqlite_url) as store, trio.open_nursery() as running:
        damage(sqlite_path, 4096)
        recorder = Recorder(store, max_rows=10_000, timeout=5.0, log=log, metrics=metrics)
        running.start_soon(recorder.run)
        for row in ROWS:
            recorder.check_capacity()
            recorder.reserve()
            batch = recorder.record(row)
        with pytest.raises(Unavailable):
            await recorder.wait_durable(batch, ROWS[-1].id)
        with pytest.raises(Unavailable):
            recorder.check_capacity()
        await eventually(lambda: metrics.commit_failures >= 3)
        assert recorder.held == len(ROWS)
        running.cancel_scope.cancel()
    events = [json.loads(line) for line in lines]
    (failed,) = [event for event in events if event["event"] == "usage_commit_failed"]
    assert (failed["reason"], failed["rows"]) == ("StorageBroken", len(ROWS))
    unrecorded = [event["row"] for event in events if event["event"] == "usage_row_unrecorded"]
    assert [msgspec.convert(row, UsageRow) for row in unrecorded] == ROWS
    assert len(events) == 1 + len(ROWS)
