"""Another process keeps the write lock of the database while requests arrive.

Relaxed requests are answered, strict ones are refused. In both modes no usage is lost, the number of waiting
rows is bounded, and they are written when the lock is released.
"""

from collections import Counter
from pathlib import Path

import msgspec
import pytest
import trio

from tests import gateways
from tests.fakes.model_server import ModelServer
from tests.gateways import entry, eventually
from tests.pressure import Sample, metric, served, steady
from tests.storage.locks import exclusive
from tests.terminal import SECONDS, User

SETTLE_SECONDS = 1.0
REFUSED = 20  # responses


@pytest.fixture
def user(home: Path) -> User:
    return User(home)


def count(user: User) -> int:
    ((rows,),) = user.rows("SELECT count(*) FROM usage")
    return int(rows)


def check_rows(user: User, rows: int) -> None:
    """Each row is there once, in the log and in the sums."""
    assert user.rows("SELECT count(*), count(DISTINCT id), count(DISTINCT request_id) FROM usage") == [
        (rows, rows, rows)
    ]
    assert user.rows("SELECT sum(requests) FROM usage_daily") == [(rows,)]


def code(sample: Sample) -> str:
    return str(msgspec.json.decode(sample.body)["error"]["code"])


def refusals(samples: list[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.status != 200]


def answered_at(sample: Sample) -> float:
    """The time of its response on Trio's clock."""
    return sample.at + sample.seconds


async def test_relaxed_usage_database_is_locked_is_written_later(user: User, models: ModelServer) -> None:
    storage = {"durability": "relaxed", "settle_timeout": SETTLE_SECONDS}
    async with served(user.home, [entry("one", models.url)], storage=storage) as gateway:
        async with steady(gateway) as load:
            samples = load.samples
            await eventually(lambda: len(samples) >= 20, SECONDS)
            async with exclusive(user.database):
                before, locked = len(samples), trio.current_time()
                await eventually(lambda: samples[-1].at > locked + 2 * SETTLE_SECONDS, SECONDS)
                after = len(samples)
                waiting = await metric(gateway, "bluesminds_usage_rows_held")
            assert after - before <= waiting <= 10_000, "requests are answered, and their rows wait"
            await eventually(lambda: count(user) >= after, SECONDS)
        assert Counter(sample.status for sample in samples) == {200: len(samples)}
        assert gateway.stop() == 0
    assert len(models.asked) == len(samples)
    check_rows(user, len(samples))


async def test_strict_requests_database_is_locked_are_refused(user: User, models: ModelServer) -> None:
    storage = {"durability": "strict", "settle_timeout": SETTLE_SECONDS}
    async with served(user.home, [entry("one", models.url)], storage=storage) as gateway:
        async with steady(gateway) as load:
            samples = load.samples
            await eventually(lambda: len(samples) >= 20, SECONDS)
            async with exclusive(user.database):
                # They arrive while the lock is held: so no request waits until it is released.
                await eventually(lambda: len(refusals(samples)) >= REFUSED, SECONDS)
                released = trio.current_time()
            await eventually(lambda: samples[-1].status == 200, SECONDS)
            await eventually(lambda: count(user) >= len(models.asked), SECONDS)
        assert gateway.stop() == 0
    refused = refusals(samples)
    assert {(sample.status, code(sample)) for sample in refused} == {(503, "storage_unavailable")}
    assert max(sample.seconds for sample in refused) >= SETTLE_SECONDS * 0.9
    first = min(answered_at(sample) for sample in refused)
    late = [sample for sample in samples if sample.at > first and answered_at(sample) <= released]
    assert late, "the load went on"
    assert {sample.status for sample in late} == {503}
    assert len(samples) > len(models.asked), "a request that cannot be recorded is not sent to a server"
    check_rows(user, len(models.asked))


async def test_relaxed_requests_usage_queue_is_full_are_refused(
    nursery: trio.Nursery, user: User, models: ModelServer
) -> None:
    storage = {"durability": "relaxed", "settle_timeout": SETTLE_SECONDS, "queue_rows": 20}
    gateway = await gateways.start(nursery, user.home, servers=[entry("one", models.url)], storage=storage)
    assert (await gateway.chat()).status_code == 200
    await gateway.settled(1)
    await eventually(gateway.holds_no_rows)
    async with exclusive(gateway.database):
        answers = [await gateway.chat() for _ in range(25)]
        assert [answer.status_code for answer in answers] == [200] * 20 + [503] * 5
        assert answers[-1].json()["error"]["code"] == "usage_queue_full"
        assert await gateway.metric("bluesminds_usage_rows_held") == 20
    rows = await gateway.settled(21)
    await eventually(gateway.holds_no_rows)  # a row is in the file before its place in the queue is free
    assert (await gateway.chat()).status_code == 200
    assert len(models.asked) == 22
    assert len({row["id"] for row in rows}) == 21
