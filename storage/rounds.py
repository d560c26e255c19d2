"""Background work that is repeated. If the database fails, the next round tries again."""

import contextlib
from collections.abc import Awaitable, Callable

import trio

from storage.base import StorageBroken, StorageUnavailable


async def run_rounds(
    work: Callable[[], Awaitable[object]], pause: float, *, waits_first: bool = False
) -> None:
    """Call `work` with pauses of so many seconds, until cancelled."""
    while True:
        if waits_first:
            await trio.sleep(pause)
        waits_first = True
        with contextlib.suppress(StorageUnavailable, StorageBroken):
            await work()
