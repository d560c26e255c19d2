"""Computes the costs of settled requests again, with the prices that are now in force for their times.

A changed cost is posted as an adjustment, and usage rows stay as they are. Running it twice changes nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import trio
from msgspec import Struct

from bluesminds.accounts.audit import Actor, entry
from bluesminds.accounts.ledger import CreditMoves, Ledger
from bluesminds.common.clock import Clock
from bluesminds.common.prices import NewCost
from storage.audit import insert_audit
from storage.base import Connection, Store
from storage.ledger import lock_ledger_head, post
from storage.reprice import (
    AdjustmentRow,
    SumChange,
    insert_adjustments,
    select_last_adjustments,
    select_rows_after,
    sum_change,
)
from storage.usage import UsageRow

ROWS_PER_PAGE: Final = 500
PAGES_PER_CALL: Final = 10

FindCost = Callable[[UsageRow], NewCost | None]
"""The cost of a usage row with the prices now in force; None if it cannot be known."""


class RepricingQuery(Struct, frozen=True):
    """Requests in [since, until), in milliseconds, above the position `after`. `model`: "" is every model."""

    since: int
    until: int
    model: str = ""
    after: tuple[int, str] | None = None
    dry_run: bool = False


class AccountDifference(Struct):
    """Of requests whose cost changes, in nano-USD. `credit`: the change of the balance."""

    requests: int = 0
    before: int = 0
    after: int = 0
    credit: int = 0


class RepricingResult(Struct):
    """`skipped`: requests without a price, or with several. `next`: where to continue; None at the end."""

    requests: int = 0
    changed: int = 0
    skipped: int = 0
    accounts: dict[str, AccountDifference] = {}
    next: tuple[int, str] | None = None


class _Change(Struct, frozen=True):
    """`before`: None if the request had no price. `number` of the adjustment."""

    row: UsageRow
    before: int | None
    cost: NewCost
    charged: int | None
    posted: int
    number: int

    def adjustment(self, now: int) -> AdjustmentRow:
        row = self.row
        return AdjustmentRow(
            usage_id=row.id,
            number=self.number,
            usage_at=row.at,
            user_id=row.user_id,
            at=now,
            cost_nano=self.cost.nano,
            price_version=self.cost.version,
            charged_nano=self.charged,
            posted_nano=self.posted,
        )

    def sums(self) -> SumChange:
        return sum_change(self.row, self.before, self.cost.nano)


class Repricing:
    def __init__(self, store: Store, ledger: Ledger, *, clock: Clock) -> None:
        self._store = store
        self._ledger = ledger
        self._clock = clock

    async def run(self, actor: Actor, query: RepricingQuery, find: FindCost) -> RepricingResult:
        """Look at up to ROWS_PER_PAGE * PAGES_PER_CALL requests."""
        result = RepricingResult()
        at, id_ = query.after or (query.since, "")
        for _ in range(PAGES_PER_CALL):
            rows, last = await self._store.read(_read_page, at, id_, query.until)
            changes = self._changes(result, rows, last, query.model, find)
            if changes and not query.dry_run:
                changes = await self._ledger.post_entries(_apply, changes, self._clock.now_ms())
            _count(result, changes)
            if len(rows) < ROWS_PER_PAGE:
                result.next = None
                break
            at, id_ = result.next = rows[-1].at, rows[-1].id
            await trio.lowlevel.checkpoint()
        if result.changed and not query.dry_run:
            after = {"since": query.since, "until": query.until, "requests": result.changed}
            audit = entry(self._clock, actor, "usage.reprice", query.model or "*", after=after)
            await self._store.write(insert_audit, audit)
        return result

    def _changes(
        self,
        result: RepricingResult,
        rows: Sequence[UsageRow],
        last: Mapping[str, AdjustmentRow],
        model: str,
        find: FindCost,
    ) -> Sequence[_Change]:
        changes = []
        for row in rows:
            if model and row.model != model:
                continue
            result.requests += 1
            cost = find(row)
            if cost is None:
                result.skipped += 1
            elif (change := change_of(row, last.get(row.id), cost)) is not None:
                changes.append(change)
        return changes


def change_of(row: UsageRow, last: AdjustmentRow | None, cost: NewCost) -> _Change | None:
    """What a new cost changes; None: nothing."""
    before, version, charged = row.cost_nano, row.price_version, row.charged_nano
    if last is not None:
        before, version, charged = last.cost_nano, last.price_version, last.charged_nano
    if version == cost.version:
        return None
    if row.outcome == "stopped" and before is not None:
        # The budget ended the stream, so that it cost at most what was reserved.
        cost = NewCost(min(cost.nano, before), cost.version)
    if cost.nano == before:
        return None
    paid = None
    if charged is not None:
        more = cost.nano - (before or 0)
        paid = charged + more if more > 0 else min(charged, cost.nano)
    posted = 0 if paid is None or charged is None else charged - paid
    return _Change(row, before, cost, paid, posted, 1 if last is None else last.number + 1)


def _count(result: RepricingResult, changes: Sequence[_Change]) -> None:
    for change in changes:
        result.changed += 1
        account = result.accounts.setdefault(change.row.user_id, AccountDifference())
        account.requests += 1
        account.before += change.before or 0
        account.after += change.cost.nano
        account.credit += change.posted


async def _read_page(
    connection: Connection, at: int, id_: str, until: int
) -> tuple[Sequence[UsageRow], Mapping[str, AdjustmentRow]]:
    rows = await select_rows_after(connection, at, id_, until, ROWS_PER_PAGE)
    return rows, await select_last_adjustments(connection, rows)


async def _apply(
    connection: Connection, changes: Sequence[_Change], now: int
) -> tuple[Sequence[_Change], CreditMoves]:
    """Post the changes, without those of requests that were adjusted meanwhile."""
    await lock_ledger_head(connection)
    last = await select_last_adjustments(connection, [one.row for one in changes])
    numbers = {usage_id: row.number for usage_id, row in last.items()}
    changes = [one for one in changes if numbers.get(one.row.id, 0) == one.number - 1]
    if not changes:
        return changes, {}
    rows = [one.adjustment(now) for one in changes]
    wallets = await post(connection, [row.entry() for row in rows if row.posted_nano])
    await insert_adjustments(connection, rows, [one.sums() for one in changes])
    nanos = {user_id: sum(row.posted_nano for row in rows if row.user_id == user_id) for user_id in wallets}
    return changes, {user_id: (nanos[user_id], wallet.revision) for user_id, wallet in wallets.items()}
