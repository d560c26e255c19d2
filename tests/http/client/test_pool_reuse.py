"""Limits, queueing and cancellation: every slot of the pool stays usable."""

import random
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from bluesminds.http.client.pool import Pool, PoolTimeout, Response, Timeouts, UpstreamOrigin
from tests.fakes.raw_upstream import Peer, Script, Upstream, always_ok, serve
from tests.http.serving import eventually

TIMEOUTS = Timeouts(connect=3600, pool=3600, write=3600, first_byte=3600, between_chunks=3600)


def origin(upstream: Upstream) -> UpstreamOrigin:
    return UpstreamOrigin("http", "127.0.0.1", upstream.port)


async def get(pool: Pool, upstream: Upstream, timeouts: Timeouts = TIMEOUTS) -> Response:
    return await pool.request(b"GET", origin(upstream), b"/", [], timeouts=timeouts)


async def running(nursery: trio.Nursery, pool: Pool) -> Pool:
    await nursery.start(pool.run)
    return pool


def held_until(go: trio.Event) -> Script:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await go.wait()
            await peer.answer()

    return script


class BackgroundRequests:
    """Requests in the background, and the order in which they finish."""

    def __init__(self, nursery: trio.Nursery, pool: Pool) -> None:
        self._nursery = nursery
        self._pool = pool
        self.done: list[str] = []

    async def add(self, name: str, upstream: Upstream) -> None:
        self._nursery.start_soon(self._one, name, upstream)
        await trio.testing.wait_all_tasks_blocked()

    async def _one(self, name: str, upstream: Upstream) -> None:
        await (await get(self._pool, upstream)).read(100)
        self.done.append(name)


@pytest.mark.parametrize(("total", "per_origin"), [(3, 100), (100, 3)])
async def test_pool_at_limit_opens_no_connection(nursery: trio.Nursery, total: int, per_origin: int) -> None:
    go = trio.Event()
    upstream = await nursery.start(serve, held_until(go))
    pool = await running(nursery, Pool(max_connections=total, max_per_origin=per_origin))
    async with trio.open_nursery() as inner:
        background = BackgroundRequests(inner, pool)
        for number in range(20):
            await background.add(str(number), upstream)
        assert upstream.accepted == 3
        go.set()
    assert upstream.accepted == 3
    assert sorted(background.done) == sorted(str(number) for number in range(20))


async def test_pool_waiters_are_served_in_order_across_origins(nursery: trio.Nursery) -> None:
    go = trio.Event()
    one = await nursery.start(serve, held_until(go))
    two = await nursery.start(serve, held_until(go))
    pool = await running(nursery, Pool(max_connections=1))
    async with trio.open_nursery() as inner:
        background = BackgroundRequests(inner, pool)
        order = [("a1", one), ("b1", two), ("a2", one), ("a3", one), ("b2", two)]
        for name, upstream in order:
            await background.add(name, upstream)
        go.set()
    assert background.done == [name for name, _ in order]
    assert one.accepted == 2  # a3 took a2's connection over


async def test_pool_origin_at_limit_does_not_block_others(nursery: trio.Nursery) -> None:
    go = trio.Event()
    stuck = await nursery.start(serve, held_until(go))
    quick = await nursery.start(serve, always_ok)
    pool = await running(nursery, Pool(max_per_origin=2))
    async with trio.open_nursery() as inner:
        background = BackgroundRequests(inner, pool)
        for number in range(10):
            await background.add(str(number), stuck)
        for _ in range(5):
            assert await (await get(pool, quick)).read(10) == b"ok"
        go.set()


async def test_pool_at_limit_closes_longest_idle_connection(nursery: trio.Nursery) -> None:
    one = await nursery.start(serve, always_ok)
    two = await nursery.start(serve, always_ok)
    pool = await running(nursery, Pool(max_connections=2))
    for upstream in (one, one, two, one, two):
        await (await get(pool, upstream)).read(10)
    assert (one.accepted, two.accepted) == (1, 1)
    three = await nursery.start(serve, always_ok)
    await (await get(pool, three)).read(10)
    with trio.fail_after(60):
        await one.all_closed()  # the one idle for longest
    assert two.open == 1


async def test_pool_wait_timeout_loses_no_slot(nursery: trio.Nursery) -> None:
    go = trio.Event()
    upstream = await nursery.start(serve, held_until(go))
    pool = await running(nursery, Pool(max_connections=1))
    async with trio.open_nursery() as inner:
        background = BackgroundRequests(inner, pool)
        await background.add("first", upstream)
        with pytest.raises(PoolTimeout) as caught:
            await get(pool, upstream, Timeouts(pool=0.02))
        assert (caught.value.phase, caught.value.sent) == ("pool", False)
        await background.add("second", upstream)
        go.set()
    assert background.done == ["first", "second"]


async def test_pool_failed_connect_frees_slot(nursery: trio.Nursery) -> None:
    with trio.socket.socket() as unused:
        await unused.bind(("127.0.0.1", 0))
        absent = Upstream(unused.getsockname()[1])
        upstream = await nursery.start(serve, always_ok)
        pool = await running(nursery, Pool(max_connections=1))
        for _ in range(3):
            with pytest.raises(Exception, match="cannot connect"):
                await get(pool, absent)
    assert await (await get(pool, upstream)).read(10) == b"ok"


async def test_pool_unused_origins_are_removed(nursery: trio.Nursery) -> None:
    upstream = await nursery.start(serve, always_ok)
    pool = await running(nursery, Pool(max_idle_seconds=0.01))
    for number in range(50):
        target = UpstreamOrigin("http", f"127.0.1.{number}", upstream.port)
        with pytest.raises(Exception, match="cannot connect"):
            await pool.request(b"GET", target, b"/", [], timeouts=TIMEOUTS)
    await (await get(pool, upstream)).read(10)
    await eventually(lambda: not pool._slots.by_origin)


async def _upload() -> AsyncIterator[bytes]:
    for _ in range(3):
        yield b"part"
        await trio.lowlevel.checkpoint()


class RandomCallers:
    """Callers that are cancelled at random moments."""

    def __init__(self, pool: Pool, upstream: Upstream, seed: int) -> None:
        self._pool = pool
        self._upstream = upstream
        self._random = random.Random(seed)  # noqa: S311
        self.cancelled = 0
        self.finished = 0

    async def script(self, peer: Peer) -> None:
        while True:
            await peer.request()
            await trio.sleep(self._random.choice((0, 0, 0.001)))
            if self._random.random() < 0.1:
                return
            await peer.begin_chunked()
            for _ in range(2):
                await peer.chunk(b"data")
                await trio.sleep(self._random.choice((0, 0, 0.001)))
            await peer.send(b"0\r\n\r\n")

    async def caller(self, cancels: int) -> None:
        while self.cancelled < cancels:
            with trio.CancelScope() as scope:
                moment = self._random.random()
                if moment < 0.2:
                    scope.cancel()
                elif moment < 0.8:
                    limit = self._random.choice((0.003, 0.03))
                    scope.deadline = trio.current_time() + limit * self._random.random()
                await self._exchange()
            self.cancelled += scope.cancelled_caught

    async def _exchange(self) -> None:
        body = _upload() if self._random.random() < 0.3 else b"whole"
        response = None
        try:
            response = await self._pool.request(
                b"POST", origin(self._upstream), b"/", [], body, timeouts=Timeouts(pool=60)
            )
            await response.read(1000)
            self.finished += 1
        except Exception as exc:
            assert type(exc).__name__ == "UpstreamCut", exc
        finally:
            if response is not None:
                response.close()


@pytest.mark.parametrize(
    ("seed", "cancels"), [(1, 2_000), pytest.param(2, 10_000, marks=pytest.mark.process)]
)
async def test_pool_random_cancellations_keep_every_slot(
    nursery: trio.Nursery, seed: int, cancels: int
) -> None:
    pool = await running(nursery, Pool(max_connections=10))
    callers = RandomCallers(pool, Upstream(0), seed)
    upstream = await nursery.start(serve, callers.script)
    callers._upstream = upstream
    async with trio.open_nursery() as inner:
        for _ in range(25):
            inner.start_soon(callers.caller, cancels)
    assert callers.cancelled >= cancels
    assert callers.finished > cancels / 100
    await assert_exactly_usable(nursery, pool, slots=10)


async def assert_exactly_usable(nursery: trio.Nursery, pool: Pool, slots: int) -> None:
    go = trio.Event()
    upstream = await nursery.start(serve, held_until(go))
    with trio.fail_after(60):
        async with trio.open_nursery() as inner:
            background = BackgroundRequests(inner, pool)
            for number in range(slots):
                inner.start_soon(background._one, str(number), upstream)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert upstream.accepted == slots
            with pytest.raises(PoolTimeout):
                await get(pool, upstream, Timeouts(pool=0.02))
            go.set()
    assert len(background.done) == slots


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("upload", [False, True])
async def test_pool_cancellation_at_each_await_keeps_every_slot(
    nursery: trio.Nursery, warm: bool, upload: bool
) -> None:
    """The first request is cancelled at its first await, the next at its second, until one succeeds."""
    pool = await running(nursery, Pool(max_connections=1))
    upstream = await nursery.start(serve, always_ok)
    for step in range(200):
        if warm:
            await (await get(pool, upstream)).read(10)
        cut = CancelAtStep(step)
        trio.lowlevel.add_instrument(cut)
        try:
            with cut.scope:
                body = _upload() if upload else b"whole"
                response = await pool.request(b"POST", origin(upstream), b"/", [], body, timeouts=TIMEOUTS)
                await response.read(100)
        finally:
            trio.lowlevel.remove_instrument(cut)
        if not cut.scope.cancelled_caught:
            break
    assert step < 199
    if warm and not upload:
        assert step == 1, "a small request on a kept-alive connection waits exactly once"
    await assert_exactly_usable(nursery, pool, slots=1)


class CancelAtStep(trio.abc.Instrument):
    """Cancels its scope when the current task is about to be suspended for the n-th time."""

    def __init__(self, steps: int) -> None:
        self.scope = trio.CancelScope()
        self._task = trio.lowlevel.current_task()
        self._steps = steps

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._steps -= 1
            if self._steps < 0:
                self.scope.cancel()
