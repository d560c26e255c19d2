"""Hand-over of units of work from Trio callers to the asyncio workers of a store.

Owns the only border between the two: a caller puts a job in and sleeps, a worker takes it, runs it to its
end and wakes the caller, also when the worker itself ends. Cancellation wakes the caller alone, and so does
the limit on its waiting. The queue is bounded; a full or closed one refuses at once with StorageUnavailable.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import trio

from storage.base import Connection, StorageUnavailable

QUEUE_LIMIT = 1000  # jobs
_log = logging.getLogger("bluesminds.storage")


class Job:
    """One unit of work, its latest start on the monotonic clock, and who waits for it."""

    __slots__ = ("_done", "_error", "_result", "_waiter", "args", "deadline", "fn", "write")

    def __init__(
        self, fn: Callable[..., Awaitable[Any]], args: tuple[object, ...], *, write: bool, deadline: float
    ) -> None:
        self.fn = fn
        self.args = args
        self.write = write
        self.deadline = deadline
        self._waiter: trio.lowlevel.Task | None = None
        self._done = False
        self._result: object = None
        self._error: Exception | None = None

    async def run(self, connection: Connection) -> object:
        return await self.fn(connection, *self.args)

    @property
    def unwanted(self) -> bool:
        """A read whose caller has gone: nobody can tell whether it runs."""
        return self._waiter is None and not self.write

    @property
    def expired(self) -> bool:
        return time.monotonic() > self.deadline

    @contextmanager
    def answered(self) -> Iterator[None]:
        """Around a worker's dealing with this job: what ends the worker is told to the caller too."""
        try:
            yield
        except BaseException:
            if not self._done:
                self.fail(StorageUnavailable("the database's worker has ended"))
            raise

    def succeed(self, result: object) -> None:
        self._result = result
        self._wake()

    def fail(self, error: Exception) -> None:
        self._error = error
        if self._waiter is None and self.write:
            _log.warning("a write failed after its caller had left: %s", type(error).__name__)
        self._wake()

    def _wake(self) -> None:
        self._done = True
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            trio.lowlevel.reschedule(waiter)

    async def wait(self, limit: float) -> Any:  # noqa: ANN401
        """The result or the error. Raises StorageUnavailable after `limit` seconds."""

        def leave(_: object) -> trio.lowlevel.Abort:
            self._waiter = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._waiter = trio.lowlevel.current_task()
        with trio.move_on_after(limit):
            await trio.lowlevel.wait_task_rescheduled(leave)
        if not self._done:
            raise StorageUnavailable("the database did not answer in time")
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # the traceback refers to this frame: break the cycle
        return self._result


class Queue:
    """Jobs in order of arrival, for any number of workers in one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, patience: float) -> None:
        """`patience`: seconds that a job may wait before it is refused instead of begun; its caller waits
        twice as long at most.
        """
        self._loop = loop
        self._patience = patience
        self._jobs: deque[Job] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._closed = False

    async def submit(
        self, fn: Callable[..., Awaitable[Any]], args: tuple[object, ...], *, write: bool
    ) -> Any:  # noqa: ANN401
        """Run a unit on a worker; its result or exception. Called from Trio."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._closed:
            raise StorageUnavailable("the database is closed or closing")
        if len(self._jobs) >= QUEUE_LIMIT:
            raise StorageUnavailable("too many units of work are waiting for the database")
        job = Job(fn, args, write=write, deadline=time.monotonic() + self._patience)
        self._jobs.append(job)
        self._rouse()
        return await job.wait(2 * self._patience)

    async def take(self) -> Job | None:
        """The next job to begin, or None when the queue is closed and empty. Called from asyncio."""
        while True:
            while not self._jobs:
                if self._closed:
                    return None
                idle = self._loop.create_future()
                self._idle.append(idle)
                await idle
            job = self._jobs.popleft()
            if job.unwanted:
                continue
            if job.expired:
                job.fail(StorageUnavailable("the database was busy for too long"))
                continue
            return job

    def close(self) -> None:
        """Refuse new jobs; workers leave once the waiting ones are done."""
        self._closed = True
        while self._idle:
            self._rouse()

    def abandon(self) -> None:
        """Close, and fail every job that no worker has taken."""
        self.close()
        while self._jobs:
            self._jobs.popleft().fail(StorageUnavailable("the database closed before this unit began"))

    def _rouse(self) -> None:
        while self._idle:
            idle = self._idle.popleft()
            if not idle.done():
                idle.set_result(None)
                return
