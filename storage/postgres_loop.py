"""Runs a PostgreSQL store in the asyncio event loop that its driver needs; callers use Trio only."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources.abc import Traversable
from typing import Any, TypeVar

import trio
import trio_asyncio

from storage.base import StorageError
from storage.migrate import SchemaPlan
from storage.postgres import PostgresStore

T = TypeVar("T")

_log = logging.getLogger("bluesminds.storage")


@asynccontextmanager
async def open_postgres(
    url: str, *, statement_timeout: float, close_timeout: float, connections: int, schema: Traversable
) -> AsyncIterator[PostgresStore]:
    failure: Exception | None = None
    async with trio_asyncio.open_loop() as loop:
        loop.set_exception_handler(_log_callback_error)
        try:
            store = PostgresStore(url, loop, statement_timeout, connections, schema)
            with trio.CancelScope(shield=True):  # each step has its own limit; a migration is one transaction
                await loop.run_aio_coroutine(store.open())
            serving = loop.create_task(store.serve())
            serving.add_done_callback(lambda _: store.abandon())
            try:
                yield store
            finally:
                await _close(store, serving, close_timeout)
        except Exception as exc:
            failure = exc
    # raised here, because open_loop would wrap it in an exception group
    if failure is not None:
        raise failure


async def ping_postgres(url: str, seconds: float, schema: Traversable) -> None:
    """Connect and disconnect. Raises StorageError."""
    await _with_store(url, seconds, schema, lambda store: store.ping())


async def plan_postgres(url: str, seconds: float, schema: Traversable) -> SchemaPlan:
    """Raises SchemaTooNew, MigrationChanged, StorageError."""
    return await _with_store(url, seconds, schema, lambda store: store.plan())


async def _with_store(
    url: str, seconds: float, schema: Traversable, work: Callable[[PostgresStore], Awaitable[T]]
) -> T:
    outcome: T | StorageError
    async with trio_asyncio.open_loop() as loop:
        try:
            outcome = await loop.run_aio_coroutine(work(PostgresStore(url, loop, seconds, 0, schema)))
        except StorageError as exc:
            outcome = exc
    # raised here, because open_loop would wrap it in an exception group
    if isinstance(outcome, StorageError):
        raise outcome
    return outcome


async def _close(store: PostgresStore, serving: asyncio.Task[None], close_timeout: float) -> None:
    """Finish the waiting units; after the limit only those that have started (they have their own limits)."""
    ended = trio.Event()
    serving.add_done_callback(lambda _: ended.set())
    store.close()
    with trio.move_on_after(close_timeout, shield=True):
        await ended.wait()
    store.abandon()
    with trio.CancelScope(shield=True):
        await ended.wait()
    try:
        serving.result()
    except BaseException as exc:
        raise StorageError("a database worker failed") from exc


def _log_callback_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an exception from a driver's callback. The default handler would end the process."""
    _log.error("database driver: %s (%s)", context.get("message"), type(context.get("exception")).__name__)
