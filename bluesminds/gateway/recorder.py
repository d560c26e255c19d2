"""The one writer of usage rows: everything that waits goes into one commit.

A request reserves its place before work starts, so the queue is bounded and no answer is produced that
could not be recorded. `record` is synchronous and therefore happens on every exit, cancelled or not; the
rows are this keeper's from then on. A batch that cannot be written is kept and retried until it is in (row
ids make the retry harmless); meanwhile whoever waits for durability is told no, and so is new work that would
wait for it. Only a row whose own values the store refuses is given up: it is written to the log in full, so
that it cannot block the rest, and whoever waits for it is told no.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence

import trio
from msgspec import Struct, to_builtins

from bluesminds.common.errors import Unavailable
from bluesminds.common.log import Log
from bluesminds.gateway.metrics import Metrics
from storage.base import BadValue, IntegrityError, StorageError, Store
from storage.usage import UsageRow, insert_batch

MAX_BATCH = 500  # rows in one commit
RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0)  # back-off, the last one repeats


class Batch(Struct):
    """Rows that share one commit, and the news of it. `since`: when the first came, on Trio's clock;
    `rejected`: the ids of rows given up.
    """

    rows: list[UsageRow]
    settled: trio.Event
    since: float
    durable: bool = False
    rejected: frozenset[str] = frozenset()

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
        self.attempts = 0  # to commit; what it counts is that the task goes on

    @property
    def held(self) -> int:
        """Rows reserved or not yet durable."""
        return self._held

    @property
    def has_work(self) -> bool:
        """Whether rows wait to be committed."""
        return self._committing is not None or bool(self._waiting)

    @property
    def oldest(self) -> float:
        """Since when a row waits to be committed, on Trio's clock; infinity when none does."""
        batch = self._committing or next(iter(self._waiting), None)
        return math.inf if batch is None else batch.since

    def require_room(self, *, strict: bool = True) -> None:
        """Raises Unavailable when a row could not be taken now; with `strict` also while commits fail."""
        if strict and self.failing:
            raise Unavailable("storage_unavailable", "Usage cannot be recorded right now. Try again shortly.")
        if self._held >= self._max_rows:
            raise Unavailable("usage_queue_full", "The gateway is overloaded. Try again shortly.")

    def reserve(self) -> None:
        """Take a place for one row, right after `require_room`; exactly one `record` must follow."""
        self._held += 1

    def record(self, row: UsageRow) -> Batch:
        """Hand over a row whose place was reserved. Returns the batch it will be committed with."""
        if not self._waiting or len(self._waiting[-1].rows) >= MAX_BATCH:
            self._waiting.append(Batch(rows=[], settled=trio.Event(), since=trio.current_time()))
        batch = self._waiting[-1]
        batch.rows.append(row)
        self._work.set()
        return batch

    async def durable(self, batch: Batch, row_id: str) -> None:
        """Wait until a row of batch is committed. Raises Unavailable when that failed; a row that was not
        rejected is still kept and retried.
        """
        if not self.failing:
            await batch.settled.wait()
        if not batch.durable or row_id in batch.rejected:
            raise usage_unrecorded_error()

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
        while not await self._try(batch, batch.rows):
            self._metrics.commit_failures += 1
            self._fail_waiters(batch)
            await trio.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
            failures += 1
        self.failing = False
        self._held -= len(batch.rows)
        batch.tell(durable=True)
        if not batch.rows:
            return
        self._metrics.commits += 1
        self._metrics.rows_committed += len(batch.rows)

    async def _try(self, batch: Batch, rows: Sequence[UsageRow]) -> bool:
        """Whether rows are committed or rejected; False means try again later."""
        self.attempts += 1
        try:
            with trio.fail_after(self._timeout):
                await self._store.write(insert_batch, rows)
        except (BadValue, IntegrityError) as exc:
            return await self._bisect_rejected(batch, rows, exc)
        except Exception as exc:
            if not self.failing:
                self._log_failure(exc, len(rows))
            self.failing = True
            return False
        return True

    def _log_failure(self, exc: Exception, rows: int) -> None:
        if isinstance(exc, StorageError | trio.TooSlowError):
            self._log.error("usage_commit_failed", reason=type(exc).__name__, detail=str(exc), rows=rows)
        else:
            self._log.exception("usage_commit_failed", exc, reason=type(exc).__name__, rows=rows)

    async def _bisect_rejected(self, batch: Batch, rows: Sequence[UsageRow], exc: Exception) -> bool:
        """Find the row whose values the store refuses, by halves, and give it up."""
        if len(rows) == 1:
            (row,) = rows
            self._log.exception("usage_row_rejected", exc, row=to_builtins(row))
            self._metrics.rows_rejected += 1
            batch.rows = [other for other in batch.rows if other.id != row.id]
            batch.rejected |= {row.id}
            self._held -= 1
            return True
        middle = len(rows) // 2
        return await self._try(batch, rows[:middle]) and await self._try(batch, rows[middle:])

    def _fail_waiters(self, batch: Batch) -> None:
        """Everyone who waits now is refused; the rows stay, in batches that nobody waits for."""
        for waiting in (batch, *self._waiting):
            waiting.tell(durable=False)
        self._waiting = deque(
            Batch(rows=waiting.rows, settled=trio.Event(), since=waiting.since) for waiting in self._waiting
        )


def usage_unrecorded_error() -> Unavailable:
    """What the receiver of a finished answer is told instead. The SDKs must not ask, and pay, again by
    themselves.
    """
    return Unavailable(
        "storage_unavailable", "The answer was ready, but its usage could not be recorded.", retry=False
    )
