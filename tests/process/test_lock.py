"""Another process keeps the database's write lock while requests come in as ever.

Relaxed answers do not notice, strict ones are refused in plain words; nothing is lost either way, what waits
is bounded, and it is written soon after the lock is gone.
"""

from collections import Counter
from pathlib import Path
from statistics import median

import msgspec
import pytest
import trio

from tests import gateways
from tests.fakes.model_server import ModelServer
from tests.gateways import entry, eventually
from tests.pressure import Load, Sample, metric, served, steady
from tests.storage.test_trouble import exclusive
from tests.terminal import SECONDS, User

HELD_SECONDS = 10.0
SETTLE_SECONDS = 5.0  # the default
DRAIN_SECONDS = 5.0
REFUSED = 20  # answers
REST_ROUNDS = 5
SAME = 1.1

long_hold = pytest.param(HELD_SECONDS, SETTLE_SECONDS, marks=pytest.mark.process, id="10s")
short_hold = pytest.param(2.5, 1.5, id="2s")


@pytest.fixture
def user(home: Path) -> User:
    return User(home)


def count(user: User) -> int:
    ((rows,),) = user.rows("SELECT count(*) FROM usage")
    return int(rows)


def check_books(user: User, rows: int) -> None:
    """Each row once, in the log and in the sums."""
    assert user.rows("SELECT count(*), count(DISTINCT id), count(DISTINCT request_id) FROM usage") == [
        (rows, rows, rows)
    ]
    assert user.rows("SELECT sum(requests) FROM usage_daily") == [(rows,)]


def code(sample: Sample) -> str:
    return str(msgspec.json.decode(sample.body)["error"]["code"])


def refusals(samples: list[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.status != 200]


def answered(sample: Sample) -> float:
    """When it was, on Trio's clock."""
    return sample.at + sample.seconds


async def drained(user: User, rows: int) -> None:
    await eventually(lambda: count(user) >= rows, DRAIN_SECONDS)


@pytest.mark.parametrize(("hold", "settle_timeout"), [short_hold, long_hold])
async def test_relaxed_answers_go_on_and_all_are_written(
    user: User, models: ModelServer, hold: float, settle_timeout: float
) -> None:
    storage = {"durability": "relaxed", "settle_timeout": settle_timeout}
    async with served(user.home, [entry("one", models.url)], storage=storage) as gateway:
        async with steady(gateway) as load:
            samples = load.samples
            await eventually(lambda: len(samples) >= 20, SECONDS)
            async with exclusive(user.database):
                before = len(samples)
                await trio.sleep(hold)
                after = len(samples)
                waiting = await metric(gateway, "bluesminds_usage_rows_held")
            assert after - before <= waiting <= 10_000, "they are answered, and wait"
            await drained(user, after)
        assert Counter(sample.status for sample in samples) == {200: len(samples)}
        assert gateway.stop() == 0
    assert len(models.asked) == len(samples)
    check_books(user, len(samples))


@pytest.mark.parametrize(("hold", "settle_timeout"), [pytest.param(0.0, 2.0, id="2s"), long_hold])
async def test_strict_answers_are_refused_after_the_settle_timeout(
    user: User, models: ModelServer, hold: float, settle_timeout: float
) -> None:
    storage = {"durability": "strict", "settle_timeout": settle_timeout}
    async with served(user.home, [entry("one", models.url)], storage=storage) as gateway:
        async with steady(gateway) as load:
            samples = load.samples
            await eventually(lambda: len(samples) >= 20, SECONDS)
            asked = trio.current_time()
            async with exclusive(user.database):
                await trio.sleep(hold)
                # That they come while the lock is held shows that nobody waits for its end.
                await eventually(lambda: len(refusals(samples)) >= REFUSED, SECONDS)
                released = trio.current_time()
            await eventually(lambda: samples[-1].status == 200, DRAIN_SECONDS)
            await drained(user, len(models.asked))
        assert gateway.stop() == 0
    refused = refusals(samples)
    assert {(sample.status, code(sample)) for sample in refused} == {(503, "storage_unavailable")}
    assert max(sample.seconds for sample in samples) <= settle_timeout + 1.0
    first = min(answered(sample) for sample in refused)
    assert first >= asked + settle_timeout * 0.9
    late = [sample for sample in samples if sample.at > first and answered(sample) <= released]
    assert late, "the load went on"
    assert {sample.status for sample in late} == {503}
    assert median(sample.seconds for sample in late) <= 0.1, "at once"
    assert len(samples) > len(models.asked), "a server is not asked for what cannot be recorded"
    check_books(user, len(models.asked))


async def p99_locked_to_free(load: Load, user: User) -> float:
    """The p99 of the delay under the lock, as a multiple of that before and after it."""
    before = await load.p99s(REST_ROUNDS)
    async with exclusive(user.database):
        locked = await load.p99s(round(HELD_SECONDS))
    await drained(user, len(load.samples))
    after = await load.p99s(REST_ROUNDS)
    return median(locked) / median(before + after)


@pytest.mark.load
async def test_relaxed_answers_are_as_quick_as_ever(user: User, models: ModelServer) -> None:
    storage = {"durability": "relaxed"}
    async with served(user.home, [entry("one", models.url)], storage=storage) as gateway:
        async with steady(gateway) as load:
            await load.p99s(1)
            found = [await p99_locked_to_free(load, user)]
            if found[0] > SAME:
                found.append(await p99_locked_to_free(load, user))
        assert {sample.status for sample in load.samples} == {200}
    assert min(found) <= SAME, found


async def test_a_full_queue_bounds_what_relaxed_answers_leave_behind(
    nursery: trio.Nursery, user: User, models: ModelServer
) -> None:
    storage = {"durability": "relaxed", "settle_timeout": 1.0, "queue_rows": 20}
    gateway = await gateways.start(nursery, user.home, servers=[entry("one", models.url)], storage=storage)

    async def nothing_waits() -> bool:
        return await gateway.metric("bluesminds_usage_rows_held") == 0

    assert (await gateway.chat()).status_code == 200
    await gateway.settled(1)
    async with exclusive(gateway.database):
        answers = [await gateway.chat() for _ in range(25)]
        assert [answer.status_code for answer in answers] == [200] * 20 + [503] * 5
        assert answers[-1].json()["error"]["code"] == "usage_queue_full"
        assert await gateway.metric("bluesminds_usage_rows_held") == 20
    rows = await gateway.settled(21)
    await eventually(nothing_waits)  # a row is in the file a moment before its place is free
    assert (await gateway.chat()).status_code == 200
    assert len(models.asked) == 22
    assert len({row["id"] for row in rows}) == 21
