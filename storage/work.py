"""The queue between Trio callers and the workers of a store.

A caller adds a job and waits. A worker takes it, runs it to its end and wakes the caller, also if the worker
itself fails. A caller that is cancelled or times out stops waiting; the job still runs. The queue is bounded;
a full or closed queue rejects jobs with StorageUnavailable.
"""

import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from storage.base import Connection, StorageUnavailable

QUEUE_LIMIT = 1000  # jobs
_log = logging.getLogger("bluesminds.storage")


class Job:
    """One unit of work, the latest time on the monotonic clock at which it may start, and its caller."""

    __slots__ = ("_done", "_error", "_left", "_result", "_waiter", "args", "deadline", "fn", "write")

    def __init__(
        self, fn: Callable[..., Awaitable[Any]], args: tuple[object, ...], *, write: bool, deadline: float
    ) -> None:
        self.fn = fn
        self.args = args
        self.write = write
        self.deadline = deadline
        self._waiter: trio.lowlevel.Task | None = None
        self._left = False
        self._done = False
        self._result: object = None
        self._error: Exception | None = None

    async def run(self, connection: Connection) -> object:
        return await self.fn(connection, *self.args)

    @property
    def cancelled(self) -> bool:
        """A read whose caller stopped waiting. A write is never cancelled."""
        return self._left and not self.write

    @property
    def expired(self) -> bool:
        return time.monotonic() > self.deadline

    def succeed(self, result: object) -> None:
        self._result = result
        self._wake()

    def fail_with_worker(self) -> None:
        """Called if the worker fails while it handles the job."""
        if not self._done:
            self.fail(StorageUnavailable("the database worker failed"))

    def fail(self, error: Exception) -> None:
        self._error = error
        if self._left and self.write:
            _log.warning("a write failed after its caller stopped waiting: %s", type(error).__name__)
        self._wake()

    def _wake(self) -> None:
        self._done = True
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            trio.lowlevel.reschedule(waiter)

    @trio.lowlevel.enable_ki_protection
    async def wait(self, limit: float) -> Any:  # noqa: ANN401
        """The unit's result. Raises the unit's error, or StorageUnavailable after `limit` seconds."""

        def abort(_: object) -> trio.lowlevel.Abort:
            self._waiter = None
            self._left = True
            return trio.lowlevel.Abort.SUCCEEDED

        if not self._done:
            self._waiter = trio.lowlevel.current_task()
            with trio.move_on_after(limit):
                await trio.lowlevel.wait_task_rescheduled(abort)
        if not self._done:
            raise StorageUnavailable("the database did not answer in time")
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # the traceback refers to this frame: break the cycle
        return self._result


class JobQueue:
    """Jobs in order of arrival. Used by Trio and by the callbacks that it runs."""

    def __init__(self, start_timeout: float, wake_worker: Callable[[], None]) -> None:
        """`start_timeout`: seconds after which a waiting job is rejected. Its caller waits at most twice as
        long. `wake_worker` is called for every new job, and when the queue is closed.
        """
        self._start_timeout = start_timeout
        self._wake_worker = wake_worker
        self._jobs: deque[Job] = deque()
        self.closed = False

    @trio.lowlevel.enable_ki_protection  # an interrupt must not lose a job or what the worker runs it on
    async def submit(
        self, fn: Callable[..., Awaitable[Any]], args: tuple[object, ...], *, write: bool
    ) -> Any:  # noqa: ANN401
        """Run a unit on a worker. Raises what the unit raises."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.closed:
            raise StorageUnavailable("the database is closed or closing")
        if len(self._jobs) >= QUEUE_LIMIT:
            raise StorageUnavailable("too many requests are waiting for the database")
        job = Job(fn, args, write=write, deadline=time.monotonic() + self._start_timeout)
        self._jobs.append(job)
        self._wake_worker()
        return await job.wait(2 * self._start_timeout)

    def next_job(self) -> Job | None:
        """The first job that may still start; None if the queue is empty."""
        while self._jobs:
            job = self._jobs.popleft()
            if job.cancelled:
                continue
            if not job.expired:
                return job
            job.fail(StorageUnavailable("the database was busy for too long"))
        return None

    def close(self) -> None:
        """Reject new jobs. The workers end once the waiting jobs are done."""
        self.closed = True
        self._wake_worker()

    def abandon(self) -> None:
        """Close, and fail all jobs that no worker has taken."""
        while self._jobs:
            self._jobs.popleft().fail(
                StorageUnavailable("the database was closed before this request started")
            )
        self.close()
