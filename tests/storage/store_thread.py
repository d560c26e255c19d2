"""A store for tests that are not asynchronous."""

import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar, Unpack

import trio

from storage.base import Ts
from storage.store import open_store

T = TypeVar("T")


class StoreThread:
    """A store in a thread of its own, for callers that do not run in an event loop.

    One store serves all examples of a property test: opening one takes longer than most examples.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,))
        self._thread.start()
        self._ready.wait()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._ended = trio.Event()
        try:
            async with open_store(self._url, connections=1) as store:
                store.chain_key = b"key"
                self.store = store
                self._ready.set()
                await self._ended.wait()
        finally:
            self._ready.set()

    def call(self, fn: Callable[[Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        return trio.from_thread.run(fn, *args, trio_token=self._token)

    def close(self) -> None:
        trio.from_thread.run_sync(self._ended.set, trio_token=self._token)
        self._thread.join()
