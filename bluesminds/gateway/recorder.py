"""The one writer of usage rows: everything that waits goes into one commit.

A request reserves its place before work starts, so the queue is bounded and no answer is produced that
could not be recorded. `record` is synchronous and therefore happens on every exit, cancelled or not; the
rows are this keeper's from then on. A batch that cannot be written is kept and retried until it is in (row
ids make the retry harmless); meanwhile whoever waits for durability is told no, and new work is refused. A
row the store refuses for itself is written to the log in full and dropped, so it cannot block the rest.
"""

from collections import deque
from collections.abc import Iterator, Sequence

import trio
from msgspec import Struct, to_builtins

from bluesminds.errors import Unavailable
from bluesminds.gateway.metrics import Metrics
from bluesminds.log import Log
from storage.base import StorageUnavailable, Store
from storage.usage import UsageRow, insert_batch

MAX_BATCH = 500  # rows in one commit
RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0)  # back-off, the last one repeats


class Batch(Struct):
    """Rows that share one commit, and the news of it."""

    rows: list[UsageRow]
    settled: trio.Event
    durable: bool = False

    def tell(self, *, durable: bool) -> None:
        self.durable = durable
        self.settled.set()


class Recorder:
    """Owns the queue. `max_rows` bounds reserved and waiting rows together; `timeout` bounds one commit, in
    seconds.
    """

    def __init__(self, store: Store, *, max_rows: int, timeout: float, log: Log, metrics: Metrics) -> None:
        self._store = store
        self._max_rows = max_rows
        self._timeout = timeout
        self._log = log
        self._metrics = metrics
        self._waiting: deque[Batch] = deque()
        self._committing: Batch | None = None
        self._held = 0
        self._work = trio.Event()
        self._closing = False
        self.failing = False

    @property
    def held(self) -> int:
        """Rows reserved or not yet durable."""
        return self._held

    def require_room(self) -> None:
        """Raises Unavailable when a row could not be taken now."""
        if self.failing:
            raise Unavailable("storage_unavailable", "Usage cannot be recorded right now. Try again shortly.")
        if self._held >= self._max_rows:
            raise Unavailable("usage_queue_full", "The gateway is overloaded. Try again shortly.")

    def reserve(self) -> None:
        """Take a place for one row, right after `require_room`; exactly one `record` must follow."""
        self._held += 1

    def record(self, row: UsageRow) -> Batch:
        """Hand over a row whose place was reserved. Returns the batch it will be committed with."""
        if not self._waiting or len(self._waiting[-1].rows) >= MAX_BATCH:
            self._waiting.append(Batch(rows=[], settled=trio.Event()))
        batch = self._waiting[-1]
        batch.rows.append(row)
        self._work.set()
        return batch

    async def durable(self, batch: Batch) -> None:
        """Wait until batch is committed. Raises Unavailable when that failed; the rows are still kept and
        retried.
        """
        if not self.failing:
            await batch.settled.wait()
        if not batch.durable:
            raise Unavailable(
                "storage_unavailable",
                "The answer is ready, but its usage could not be recorded. Try again shortly.",
            )

    def finish(self) -> None:
        """No more work will come: `run` returns when everything recorded is committed."""
        self._closing = True
        self._work.set()

    async def run(self) -> None:
        """Until `finish` and the last commit. Cancelled before that, it writes the rows left to the log.

        After an error it can be run again: nothing it was given is forgotten.
        """
        try:
            while self._waiting or self._committing or not self._closing:
                await self._work.wait()
                if self._committing is None and self._waiting:
                    self._committing = self._waiting.popleft()
                if self._committing is not None:
                    await self._commit(self._committing)
                    self._committing = None
                if not self._waiting and not self._closing:
                    self._work = trio.Event()
        except trio.Cancelled:
            for row in self._unwritten():
                self._log.error("usage_row_unrecorded", row=to_builtins(row))
            raise

    def _unwritten(self) -> Iterator[UsageRow]:
        if self._committing is not None:
            yield from self._committing.rows
        for batch in self._waiting:
            yield from batch.rows

    async def _commit(self, batch: Batch) -> None:
        failures = 0
        while not await self._try(batch.rows):
            self._metrics.commit_failures += 1
            self._tell_waiting(batch)
            await trio.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
            failures += 1
        self.failing = False
        self._held -= len(batch.rows)
        batch.tell(durable=True)
        self._metrics.commits += 1
        self._metrics.rows_committed += len(batch.rows)

    async def _try(self, rows: Sequence[UsageRow]) -> bool:
        """Whether rows are settled; False means try again later."""
        try:
            with trio.fail_after(self._timeout):
                await self._store.write(insert_batch, rows)
        except (StorageUnavailable, trio.TooSlowError) as exc:
            if not self.failing:
                self._log.error("usage_commit_failed", reason=type(exc).__name__, rows=len(rows))
            self.failing = True
            return False
        except Exception as exc:
            return await self._isolate(rows, exc)
        return True

    async def _isolate(self, rows: Sequence[UsageRow], exc: Exception) -> bool:
        """Find the row the store refuses, by halves."""
        if len(rows) == 1:
            self._log.exception("usage_row_rejected", exc, row=to_builtins(rows[0]))
            self._metrics.rows_rejected += 1
            return True
        middle = len(rows) // 2
        return await self._try(rows[:middle]) and await self._try(rows[middle:])

    def _tell_waiting(self, batch: Batch) -> None:
        """Everyone who waits now is refused; the rows stay, in batches that nobody waits for."""
        for waiting in (batch, *self._waiting):
            waiting.tell(durable=False)
        self._waiting = deque(Batch(rows=waiting.rows, settled=trio.Event()) for waiting in self._waiting)
