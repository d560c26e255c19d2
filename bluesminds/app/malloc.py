"""Returns freed memory to the operating system. With C libraries other than glibc this does nothing.

By default glibc raises its thresholds up to 64 MiB after large buffers have been freed. Request bodies are
then allocated on the heap, and the heap only shrinks when its end is free.
"""

import ctypes
import sys
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any, Final

import trio

from bluesminds.gateway.bodies import BodyMemory

# Parameters of mallopt(3) in glibc's malloc.h.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_BYTES: Final = 128 * 1024  # glibc's initial value of both

TRIM_SECONDS: Final = 20.0
TRIM_BYTES: Final = 16 * 1024 * 1024  # of request bodies; fewer leave little behind


def fix_malloc_thresholds() -> None:
    """Give every buffer above 128 KiB its own pages, which are returned when it is freed."""
    if (mallopt := _libc_function("mallopt")) is not None:
        mallopt(_MMAP_THRESHOLD, _BYTES)
        mallopt(_TRIM_THRESHOLD, _BYTES)


async def trim_heap() -> None:
    """Return the free pages between smaller buffers, with malloc_trim(3)."""
    if (malloc_trim := _libc_function("malloc_trim")) is not None:
        await trio.to_thread.run_sync(malloc_trim, 0)


@cache
def _libc_function(name: str) -> Any:  # noqa: ANN401 - a ctypes function
    if sys.platform != "linux":
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError):
        return None


class HeapTrimmer:
    """Trims the heap after many request bodies have been in memory."""

    def __init__(self, bodies: BodyMemory, trim: Callable[[], Awaitable[None]] = trim_heap) -> None:
        self._bodies = bodies
        self._trim = trim

    async def run(self) -> None:
        while True:
            await trio.sleep(TRIM_SECONDS)
            if self._bodies.take_peak() >= TRIM_BYTES:
                await self._trim()
