"""When the heap is trimmed."""

import trio
from trio.testing import MockClock

from bluesminds.app.malloc import TRIM_BYTES, TRIM_SECONDS, HeapTrimmer, fix_malloc_thresholds, trim_heap
from bluesminds.http.asgi import Message
from bluesminds.web.asgi_body import ASGIBody
from tests.gateways import body_memory


class TrimCounter:
    def __init__(self) -> None:
        self.count = 0

    async def add(self) -> None:
        self.count += 1


async def never() -> Message:
    return await trio.sleep_forever()


async def test_heap_is_trimmed_after_large_bodies_only(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    trims = TrimCounter()
    memory = body_memory(2 * TRIM_BYTES)
    nursery.start_soon(HeapTrimmer(memory, trims.add).run)
    began = trio.current_time()
    for size, counts in ((TRIM_BYTES - 1, 0), (TRIM_BYTES, 1), (0, 1)):
        body = ASGIBody(memory, {}, never)
        body.acquire(size)
        body.release()
        began += TRIM_SECONDS
        await trio.sleep_until(began + 1)
        assert trims.count == counts, size
    nursery.cancel_scope.cancel()


async def test_heap_is_trimmed_again_while_large_bodies_are_held(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    trims = TrimCounter()
    memory = body_memory(2 * TRIM_BYTES)
    body = ASGIBody(memory, {}, never)
    body.acquire(TRIM_BYTES)
    nursery.start_soon(HeapTrimmer(memory, trims.add).run)
    await trio.sleep(2 * TRIM_SECONDS + 1)
    assert trims.count == 2
    body.release()
    await trio.sleep(TRIM_SECONDS)
    assert trims.count == 3
    nursery.cancel_scope.cancel()


async def test_malloc_functions_work_on_this_platform() -> None:
    fix_malloc_thresholds()
    await trim_heap()
