"""The interface of a database: units of work, connections, errors.

A unit of work is `async def unit(connection, *args)`. It awaits only its connection and shares no changing
state with its caller, because it runs in a thread (SQLite) or in an asyncio event loop (PostgreSQL). After
the first StorageError the transaction fails, even if the unit catches the error. SQL is a literal with
`:name` parameters. Times are integer milliseconds since the epoch (UTC). The caller creates IDs.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, LiteralString, Protocol, TypeAlias, TypeVar, TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Engine: TypeAlias = Literal["sqlite", "postgres"]
Row: TypeAlias = Sequence[Any]
"""The columns of one row in the order of the SELECT, so that `SomeRow(*row)` works."""


class StorageError(Exception):
    """A statement failed, and repeating it will not help. The message contains no stored value."""


class StorageUnavailable(StorageError):
    """Locked, disk full, connection lost, timed out, overloaded or closing: the unit may be repeated.

    If the error occurred during the commit, the commit may have taken effect.
    """


class StorageBroken(StorageError):
    """A write could not be synced to disk, or the database is damaged or denies access. The operator must
    act.

    If the error occurred during the commit, the commit may have taken effect.
    """


class IntegrityError(StorageError):
    """A unique value exists already, or a referenced row does not exist."""


class BadValue(StorageError):
    """A value does not fit its column: too large, of a wrong type, or against a constraint."""


class DatabaseInUse(StorageError):
    """Another process has opened the database file."""


class SchemaTooNew(StorageError):
    """A newer version of the product wrote the database."""


class SnapshotMissing(StorageError):
    """There is nothing to roll back to."""


class WouldLoseRows(StorageError):
    """The snapshot does not have all records. `rows`: the number of missing rows by table."""

    def __init__(self, rows: Mapping[str, int]) -> None:
        self.rows = rows
        found = ", ".join(f"{count} of {table}" for table, count in rows.items())
        super().__init__(f"these rows were written since the upgrade and would be lost: {found}")


class MigrationChanged(StorageError):
    """A migration that was applied to this database differs from the one in this version."""


Repeated = tuple[LiteralString, Sequence[object]]
"""A statement that runs once for each row."""


class Connection(Protocol):
    """One transaction, from the unit's first statement to its end.

    `final=True` marks the unit's last statement, which then also commits; this saves a round trip. A
    statement after it raises RuntimeError.
    """

    @property
    def engine(self) -> Engine: ...

    @property
    def chain_key(self) -> bytes:
        """The store's `chain_key`."""

    has_events: bool
    """Whether the unit has inserted events. The store then calls its `on_events` after the commit."""

    async def execute(self, sql: LiteralString, *, final: bool = False, **params: object) -> int:
        """Run one statement. Returns the number of changed rows."""

    async def many(
        self,
        sql: LiteralString,
        rows: Sequence[object],
        *,
        also: "Repeated | None" = None,
        final: bool = False,
    ) -> None:
        """Run the statement once for each row. The parameters are attributes of the row. `also`: another
        statement with its rows, which runs first.
        """

    async def one(self, sql: LiteralString, **params: object) -> Row | None:
        """The first row of a query, or None."""

    async def all(self, sql: LiteralString, **params: object) -> Sequence[Row]:
        """All rows of a query."""

    async def value(self, sql: LiteralString, **params: object) -> object:
        """The first column of the first row, or None."""


class Store(Protocol):
    """An open database. Callers are Trio tasks.

    A caller that is cancelled stops waiting; a write in the queue still runs. `chain_key` is the HMAC key of
    all hash chains; it is set once, before the first row of a chain is written. `on_events` is called after
    each commit of a unit that inserted events.
    """

    chain_key: bytes
    on_events: Callable[[], None]

    @property
    def engine(self) -> Engine: ...

    async def read(self, fn: Callable[[Connection, Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        """Run `fn(connection, *args)` on one read-only snapshot."""

    async def write(self, fn: Callable[[Connection, Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        """Run `fn(connection, *args)` as one transaction, which is durable on return.

        An exception of `fn` rolls back and is raised here. Raises StorageUnavailable after at most twice the
        store's statement timeout; half of that is waiting for other units.
        """
