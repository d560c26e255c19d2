"""Writes usage rows in group commits: everything that waits goes into one commit.

A request reserves room for its row before work starts, so the queue is bounded and every finished request can
be recorded. `record` is synchronous, so it runs on every exit, cancelled or not. A batch that cannot be
written is retried until it is stored (row ids make a repeated insert harmless). Until then, requests that
wait for durability fail, and new requests that would have to wait are refused. If the store rejects the
values of a row, the row is dropped, so that it does not block the others. It is written to the log in full,
and its request fails.
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
from storage.receipts import ReceiptRow
from storage.usage import UsageRow, insert_batch

MAX_BATCH = 500  # rows in one commit
RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0)  # back-off; the last one repeats


class Batch(Struct):
    """Rows of one commit, and the receipts that belong to them. `finished` is set with the result in
    `durable`. `since`: when the first row was recorded, on Trio's clock. `rejected`: ids of dropped rows.
    """

    rows: list[UsageRow]
    receipts: list[ReceiptRow]
    finished: trio.Event
    since: float
    durable: bool = False
    rejected: frozenset[str] = frozenset()

    def finish(self, *, durable: bool) -> None:
        self.durable = durable
        self.finished.set()


class Recorder:
    """`max_rows` bounds reserved and waiting rows together; `timeout` bounds one commit, in seconds.

    `failing`: the last commit failed. `attempts` counts commits that were tried, as a sign of progress.
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
        self._wake = trio.Event()
        self._closing = False
        self.failing = False
        self.attempts = 0

    @property
    def held(self) -> int:
        """Rows that are reserved or not stored yet."""
        return self._held

    @property
    def has_work(self) -> bool:
        """Whether rows wait for a commit."""
        return self._committing is not None or bool(self._waiting)

    @property
    def oldest_waiting(self) -> float:
        """When the oldest row that is not stored was recorded, on Trio's clock; infinity without one."""
        batch = self._committing or next(iter(self._waiting), None)
        return math.inf if batch is None else batch.since

    def check_capacity(self, *, strict: bool = True) -> None:
        """Raises Unavailable if the queue is full; with `strict` also while commits fail."""
        if strict and self.failing:
            raise Unavailable(
                "storage_unavailable", "Usage cannot be recorded now. Try again in a few seconds."
            )
        if self._held >= self._max_rows:
            raise Unavailable("usage_queue_full", "The gateway is overloaded. Try again in a few seconds.")

    def reserve(self) -> None:
        """Reserve room for one row after `check_capacity`. Exactly one `record` must follow."""
        self._held += 1

    def record(self, row: UsageRow, receipt: ReceiptRow | None = None) -> Batch:
        """Queue a row for which room was reserved. Returns the batch that it is committed with."""
        if not self._waiting or len(self._waiting[-1].rows) >= MAX_BATCH:
            self._waiting.append(
                Batch(rows=[], receipts=[], finished=trio.Event(), since=trio.current_time())
            )
        batch = self._waiting[-1]
        batch.rows.append(row)
        if receipt is not None:
            batch.receipts.append(receipt)
        self._wake.set()
        return batch

    async def wait_durable(self, batch: Batch, row_id: str) -> None:
        """Wait until a row is committed. Raises Unavailable if the commit failed or the row was rejected;
        a row that was not rejected is still retried.
        """
        if not self.failing:
            await batch.finished.wait()
        if not batch.durable or row_id in batch.rejected:
            raise usage_unrecorded_error()

    def finish(self) -> None:
        """Make `run` return once every recorded row is committed. Nothing may be recorded afterwards."""
        self._closing = True
        self._wake.set()

    async def run(self) -> None:
        """Commit rows until `finish`. If cancelled earlier, the remaining rows are written to the log.

        It can be run again after an error; no row is lost.
        """
        try:
            while self._waiting or self._committing or not self._closing:
                await self._wake.wait()
                if self._committing is None and self._waiting:
                    self._committing = self._waiting.popleft()
                if self._committing is not None:
                    await self._commit(self._committing)
                    self._committing = None
                if not self._waiting and not self._closing:
                    self._wake = trio.Event()
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
        while not await self._try_insert(batch, batch.rows):
            self._metrics.commit_failures += 1
            self._fail_waiters(batch)
            await trio.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
            failures += 1
        self.failing = False
        self._held -= len(batch.rows)
        batch.finish(durable=True)
        if not batch.rows:
            return
        self._metrics.commits += 1
        self._metrics.rows_committed += len(batch.rows)

    async def _try_insert(self, batch: Batch, rows: Sequence[UsageRow]) -> bool:
        """True if the rows are committed or rejected, False to try again later."""
        self.attempts += 1
        try:
            with trio.fail_after(self._timeout):
                await self._store.write(insert_batch, rows, _receipts_of(batch, rows))
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
        """Find the row with values that the store rejects, and drop it."""
        if len(rows) == 1:
            (row,) = rows
            self._log.exception("usage_row_rejected", exc, row=to_builtins(row))
            self._metrics.rows_rejected += 1
            batch.rows = [other for other in batch.rows if other.id != row.id]
            batch.receipts = [one for one in batch.receipts if one.id != row.id]
            batch.rejected |= {row.id}
            self._held -= 1
            return True
        middle = len(rows) // 2
        return await self._try_insert(batch, rows[:middle]) and await self._try_insert(batch, rows[middle:])

    def _fail_waiters(self, batch: Batch) -> None:
        """Fail all requests that wait now. Their rows move to new batches, which no request waits for."""
        for waiting in (batch, *self._waiting):
            waiting.finish(durable=False)
        self._waiting = deque(
            Batch(waiting.rows, waiting.receipts, finished=trio.Event(), since=waiting.since)
            for waiting in self._waiting
        )


def _receipts_of(batch: Batch, rows: Sequence[UsageRow]) -> Sequence[ReceiptRow]:
    if len(rows) == len(batch.rows) or not batch.receipts:
        return batch.receipts
    ids = {row.id for row in rows}
    return [one for one in batch.receipts if one.id in ids]


def usage_unrecorded_error() -> Unavailable:
    """Replaces a finished response. SDKs must not retry it: the server would be paid twice."""
    return Unavailable(
        "storage_unavailable", "The response was complete, but its usage could not be recorded.", retry=False
    )
