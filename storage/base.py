"""What the rest of the product sees of a database: units of work, connections, errors.

A unit of work is `async def unit(connection, *args)`. It awaits nothing but its connection, because it
runs on the store's own asyncio side, and it never catches a StorageError to go on: the first error dooms
the transaction, on both engines alike. SQL is a literal with `:name` parameters; times are integer
milliseconds since the epoch (UTC), ids are made by the caller.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, LiteralString, Protocol, TypeAlias, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Engine: TypeAlias = Literal["sqlite", "postgres"]
Row: TypeAlias = Sequence[Any]
"""The columns of one row, in the order of the SELECT; `SomeRow(*row)` makes a value of it."""


class StorageError(Exception):
    """A statement failed for a reason that repeating it will not cure. Carries no stored value."""


class StorageUnavailable(StorageError):
    """Locked, disk full, connection lost, timed out, overloaded or closing: the unit may be tried again.

    When a commit was under way, whether it took effect is not known.
    """


class StorageBroken(StorageError):
    """A write could not be synced to disk, or the database is damaged or closed to us.

    Neither other values nor another attempt will do: an operator must act. When a commit was under way,
    whether it took effect is not known.
    """


class IntegrityError(StorageError):
    """A unique value exists already, or a referenced row does not."""


class BadValue(StorageError):
    """A value that its column cannot hold: too large, of another type, or against a constraint."""


class SchemaTooNew(StorageError):
    """The database was written by a newer version of the product."""


class MigrationChanged(StorageError):
    """A migration that was applied to this database is not the one that this version ships."""


class Connection(Protocol):
    """One transaction, from its first statement to the end of the unit.

    `final=True` marks the unit's last statement: it commits together with it, which saves a round trip;
    any statement after it raises RuntimeError.
    """

    @property
    def engine(self) -> Engine: ...

    @property
    def chain_key(self) -> bytes:
        """What the audit log is chained with: the store's."""

    async def execute(self, sql: LiteralString, *, final: bool = False, **params: object) -> int:
        """Run one statement; the number of rows it changed."""

    async def many(self, sql: LiteralString, rows: Sequence[object], *, final: bool = False) -> None:
        """Run one statement per row. Placeholders name attributes of the row."""

    async def one(self, sql: LiteralString, **params: object) -> Row | None:
        """The first row of a query, or None."""

    async def all(self, sql: LiteralString, **params: object) -> Sequence[Row]:
        """All rows of a query."""

    async def value(self, sql: LiteralString, **params: object) -> object:
        """The first column of the first row, or None."""


class Store(Protocol):
    """A database that is open. Callers are Trio tasks.

    A caller that is cancelled stops waiting; a write that was handed over still completes. `chain_key` is the
    secret of the audit log's chain; it is set once, before the first act is recorded.
    """

    chain_key: bytes

    @property
    def engine(self) -> Engine: ...

    async def read(self, fn: Callable[[Connection, Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        """Run `fn(connection, *args)` on one snapshot that cannot be written to."""

    async def write(self, fn: Callable[[Connection, Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        """Run `fn(connection, *args)` as one transaction: all of it is durable on return, or none.

        An exception from `fn` rolls back and is raised here. StorageUnavailable after at most twice the
        store's statement timeout, half of it waiting for other units.
        """
