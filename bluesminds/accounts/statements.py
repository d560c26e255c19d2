"""Monthly statements: the credit of an account at the start and the end of a month, and its changes."""

import calendar
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Final

from msgspec import Struct

from bluesminds.common.clock import Clock
from storage.base import Connection, Store
from storage.ledger import ChainedLedgerRow, LedgerRow, wallet_change
from storage.statements import (
    KindSum,
    select_balance_before,
    select_entries_between,
    select_kind_sums,
)
from storage.usage_stats import StatsQuery, StatsRow, select_stats

ENTRIES_PER_PAGE: Final = 1000


class AccountStatement(Struct, frozen=True):
    """A month in UTC, as [since, until) in milliseconds. Amounts are nano-USD. `opening`: None if the account
    has no prepaid credit. `models`: the usage by model, paid or not.
    """

    user_id: str
    month: str
    since: int
    until: int
    opening: int | None
    kinds: Sequence[KindSum]
    models: Sequence[StatsRow]

    @property
    def closing(self) -> int:
        return (self.opening or 0) + sum(one.nano for one in self.kinds)


class StatementLine(Struct, frozen=True):
    """An entry, the change of the balance, and the balance after it, in nano-USD."""

    row: LedgerRow
    nano: int
    balance: int


class Statements:
    """A request counts in the month in which it arrived, and every other entry in that of its posting."""

    def __init__(self, store: Store, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def this_month(self) -> str:
        """Such as 2026-02, in UTC."""
        return month_of(self._clock.now_ms())

    async def statement(self, user_id: str, month: str) -> AccountStatement:
        """`month`: as in 2026-02."""
        return await self._store.read(_statement, user_id, month)

    async def lines(self, user_id: str, month: str) -> AsyncIterator[Sequence[StatementLine]]:
        """All entries of a month in pages, in the order in which they were posted. Each page is read when the
        one before is consumed.
        """
        since, until = _bounds(month)
        balance = await self._store.read(select_balance_before, user_id, since) or 0
        after = 0
        while True:
            rows = await self._store.read(
                select_entries_between, user_id, since, until, after, ENTRIES_PER_PAGE
            )
            lines, balance = _lines(rows, user_id, balance)
            yield lines
            if len(rows) < ENTRIES_PER_PAGE:
                return
            after = rows[-1].position.seq


def month_of(at_ms: int) -> str:
    """Such as 2026-02, in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m")


def _bounds(month: str) -> tuple[int, int]:
    start = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    days = calendar.monthrange(start.year, start.month)[1]
    since = int(start.timestamp()) * 1000
    return since, since + days * 86_400_000


async def _statement(connection: Connection, user_id: str, month: str) -> AccountStatement:
    since, until = _bounds(month)
    return AccountStatement(
        user_id=user_id,
        month=month,
        since=since,
        until=until,
        opening=await select_balance_before(connection, user_id, since),
        kinds=await select_kind_sums(connection, user_id, since, until),
        models=await select_stats(connection, StatsQuery(since, until, ("model",), user_id=user_id)),
    )


def _lines(
    rows: Sequence[ChainedLedgerRow], user_id: str, balance: int
) -> tuple[Sequence[StatementLine], int]:
    lines = []
    for one in rows:
        nano = wallet_change(one.row)
        balance += nano
        lines.append(StatementLine(one.row, nano, balance))
    return lines, balance
