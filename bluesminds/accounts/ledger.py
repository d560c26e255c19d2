"""Prepaid credit: top-ups, grants, refunds and adjustments by administrators, and proof of the ledger.

Every entry has an idempotency key: posting it again changes nothing. Charges are posted with the usage rows,
see storage.usage.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal, TypeVar, TypeVarTuple, Unpack

import trio
from msgspec import Struct, json

from bluesminds.accounts.audit import Actor, entry
from bluesminds.common.clock import Clock
from bluesminds.common.crypto import uuid7
from bluesminds.common.errors import Conflict, NotFound
from bluesminds.common.money import write_usd
from storage.audit import AuditRow, insert_audit, lock_audit_head
from storage.base import Connection, Store
from storage.chain import START, ChainCheck, ChainPosition
from storage.ledger import (
    REVENUE,
    ChainedLedgerRow,
    LedgerRow,
    WalletRow,
    check_charged_usage,
    check_charges,
    check_ledger,
    lock_ledger_head,
    moved,
    post,
    select_entry,
    select_wallet,
    select_wallets_after,
    wallet_account,
    wallet_change,
)
from storage.ledger_search import LedgerPage, LedgerQuery, select_entries
from storage.reprice import check_adjustment_entries, check_adjustments
from storage.rounds import run_rounds
from storage.users import select_user

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

ROWS_PER_CHECK: Final = 200
WALLETS_PER_CHECK: Final = 500
EXPORT_PAGE: Final = 1000  # entries
ENTRY_SECONDS: Final = 60.0  # between two searches for grants that have ended
CreditKind = Literal["topup", "grant", "refund", "adjustment"]
_SOURCES: Final[Mapping[CreditKind, str]] = {
    "topup": "payments:manual",
    "grant": "grants",
    "refund": REVENUE,
    "adjustment": "adjustments",
}

CreditChanged = Callable[[str, int, int], object]
"""Called with a user, a change in nano-USD, and the revision of the wallet."""


CreditMoves = Mapping[str, tuple[int, int]]
"""By user: a change in nano-USD, and the revision of the wallet after it."""


class CreditEntry(Struct, frozen=True):
    """What an administrator posts. `nano` is negative for an adjustment that takes credit away. `ends_at`: of
    a grant, milliseconds. `key`: the idempotency key; "" creates one.
    """

    kind: CreditKind
    nano: int
    ends_at: int | None = None
    reference: str = ""
    key: str = ""


class LedgerProof(Struct, frozen=True):
    """`sums`: nano-USD by account, all wallets together. `problem`: the first thing that is wrong; None: the
    ledger is proven.
    """

    entries: int
    head: ChainPosition
    wallets: int
    sums: Mapping[str, int]
    problem: str | None


class Ledger:
    def __init__(self, store: Store, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._lock = trio.Lock()  # subscribers get changes in the order of their revisions
        self._subscribers: list[CreditChanged] = []

    def subscribe(self, callback: CreditChanged) -> None:
        self._subscribers.append(callback)

    async def balance(self, user_id: str) -> WalletRow | None:
        """None: the user has no prepaid credit."""
        return await self._store.read(select_wallet, user_id)

    async def entries(self, query: LedgerQuery) -> LedgerPage:
        return await self._store.read(select_entries, query)

    async def all_entries(self, query: LedgerQuery) -> AsyncIterator[Sequence[ChainedLedgerRow]]:
        """All entries of a query in pages, whatever its limit. Each page is read when the one before is
        consumed.
        """
        query = replace(query, limit=EXPORT_PAGE)
        while True:
            page = await self.entries(query)
            yield page.rows
            if page.next is None:
                return
            query = query.after(page)

    async def post(self, actor: Actor, user_id: str, given: CreditEntry) -> LedgerRow:
        """Post an entry, unless one with this key exists. Raises NotFound for an unknown user, and Conflict
        if the key belongs to another entry.
        """
        now = self._clock.now_ms()
        wallet, source = wallet_account(user_id), _SOURCES[given.kind]
        debit, credit = (source, wallet) if given.nano > 0 else (wallet, source)
        detail = {} if given.ends_at is None else {"ends_at": given.ends_at}
        row = LedgerRow(
            id=f"{given.kind}:{given.key or uuid7(now)}",
            at=now,
            kind=given.kind,
            debit=debit,
            credit=credit,
            amount_nano=abs(given.nano),
            user_id=user_id,
            reference=given.reference,
            detail=json.encode(detail).decode(),
        )
        after = {"entry": row.id, "amount": write_usd(given.nano), "reference": given.reference} | detail
        audit = entry(self._clock, actor, f"credit.{given.kind}", user_id, after=after)
        async with self._lock:
            posted, stored = await self._store.write(_post, row, given.ends_at, audit)
            if posted is not None:
                self._notify(user_id, given.nano, posted.revision)
        if (stored.user_id, stored.amount_nano, stored.debit) != (user_id, row.amount_nano, debit):
            raise Conflict("entry_exists", f"The key `{given.key[:100]}` belongs to another entry.")
        return stored

    async def post_with(
        self,
        user_id: str,
        unit: Callable[[Connection, Unpack[Ts]], Awaitable[tuple[WalletRow, LedgerRow]]],
        *args: *Ts,
    ) -> LedgerRow:
        """Post the entry of a unit that makes other changes as well. The unit returns the wallet of the user
        and the entry.
        """
        async with self._lock:
            wallet, row = await self._store.write(unit, *args)
            given = row.credit == wallet_account(user_id)
            self._notify(user_id, row.amount_nano if given else -row.amount_nano, wallet.revision)
        return row

    async def post_entries(
        self, unit: Callable[[Connection, Unpack[Ts]], Awaitable[tuple[T, CreditMoves]]], *args: *Ts
    ) -> T:
        """Run a unit of work that posts entries which are not charges. Returns its result."""
        async with self._lock:
            result, moves = await self._store.write(unit, *args)
            for user_id, (nano, revision) in moves.items():
                self._notify(user_id, nano, revision)
        return result

    async def expire(self) -> int:
        """Post the expiry of grants that have ended. Returns their number."""
        count, last = 0, ""
        while wallets := await self._store.read(select_wallets_after, last, WALLETS_PER_CHECK):
            last = wallets[-1].user_id
            for wallet in wallets:
                count += await self._expire(wallet)
        return count

    async def _expire(self, wallet: WalletRow) -> int:
        now = self._clock.now_ms()
        count = 0
        for grant in wallet.grants:
            if grant.ends_at is not None and grant.ends_at <= now:
                async with self._lock:
                    posted, nano = await self._store.write(_expire, wallet.user_id, grant.id, now)
                    if posted is not None:
                        self._notify(wallet.user_id, -nano, posted.revision)
                        count += 1
        return count

    async def run(self) -> None:
        """Post expiries until cancelled. After a storage error it tries again in the next round."""
        await run_rounds(self.expire, ENTRY_SECONDS)

    async def verify(self, expected: ChainPosition | None = None) -> LedgerProof:
        """Check the chain, that every wallet is the sum of its entries, and that charges and usage rows
        agree. The ledger may grow meanwhile. `expected`: the head in an earlier proof.
        """
        check = ChainCheck(START, None, done=False)
        sums: dict[str, int] = {}
        wallets: dict[str, WalletRow] = {}
        problem: str | None = None
        while not check.done:  # a unit for each page, because the time of a unit is limited
            check, rows, stored = await self._store.read(_check_page, check.at, expected)
            for row in rows:
                _add(sums, wallets, row)
            if check.damage is not None:
                problem = f"entry {check.at.seq + 1} is wrong: {check.damage}"
            elif check.done:
                problem = _compare(stored, wallets)
        if problem is None:
            problem = await self._find_disagreement()
        totals = {name: sum_ for name, sum_ in sums.items() if not name.startswith("wallet:")}
        totals["wallets"] = sum(wallet.balance_nano for wallet in wallets.values())
        return LedgerProof(check.at.seq, check.at, len(wallets), totals, problem)

    async def _find_disagreement(self) -> str | None:
        """Of the entries with the usage rows and their new costs."""
        if (row_id := await self._find(check_charged_usage, (0, ""))) is not None:
            return f"no entry matches the charge of the usage record {row_id}"
        if (entry_id := await self._find(check_charges, 0)) is not None:
            return f"no usage record matches the entry {entry_id}"
        if (missing := await self._find(check_adjustments, ("", 0))) is not None:
            return f"the entry {missing} for a changed cost is missing or has another amount"
        if (entry_id := await self._find(check_adjustment_entries, 0)) is not None:
            return f"no changed cost matches the entry {entry_id}"
        return None

    async def _find(
        self, check: Callable[[Connection, T], Awaitable[tuple[str | None, T | None]]], start: T
    ) -> str | None:
        """The first row that `check` finds. Each page is a unit, because the time of a unit is limited."""
        at: T | None = start
        while at is not None:
            wrong, at = await self._store.read(check, at)
            if wrong is not None:
                return wrong
        return None

    def _notify(self, user_id: str, nano: int, revision: int) -> None:
        for callback in self._subscribers:
            callback(user_id, nano, revision)


async def _post(
    connection: Connection, row: LedgerRow, ends_at: int | None, audit: AuditRow
) -> tuple[WalletRow | None, LedgerRow]:
    """The wallet if the entry is new, and the entry that is stored."""
    await lock_audit_head(connection)
    await lock_ledger_head(connection)
    if (stored := await select_entry(connection, row.id)) is not None:
        return None, stored
    if await select_user(connection, row.user_id) is None:
        raise NotFound("user_not_found", "There is no user with this id.")
    wallets = await post(connection, [row], ends_at=ends_at)
    await insert_audit(connection, audit)
    return wallets[row.user_id], row


async def _expire(
    connection: Connection, user_id: str, grant_id: str, now: int
) -> tuple[WalletRow | None, int]:
    await lock_ledger_head(connection)
    wallet = await select_wallet(connection, user_id)
    grant = next((one for one in wallet.grants if one.id == grant_id), None) if wallet else None
    if grant is None:
        return None, 0
    row = LedgerRow(
        id=f"expiry:{grant_id}",
        at=now,
        kind="expiry",
        debit=wallet_account(user_id),
        credit="expired",
        amount_nano=grant.left_nano,
        user_id=user_id,
        reference=grant_id,
        detail="{}",
    )
    return (await post(connection, [row])).get(user_id), grant.left_nano


async def _check_page(
    connection: Connection, at: ChainPosition, expected: ChainPosition | None
) -> tuple[ChainCheck, Sequence[LedgerRow], Mapping[str, WalletRow]]:
    """The next entries, and with the last of them all wallets, as they are after these entries."""
    check, rows = await check_ledger(connection, at, expected, ROWS_PER_CHECK)
    stored: dict[str, WalletRow] = {}
    last = ""
    while check.done and (wallets := await select_wallets_after(connection, last, WALLETS_PER_CHECK)):
        last = wallets[-1].user_id
        stored |= {wallet.user_id: wallet for wallet in wallets}
    return check, rows, stored


def _add(sums: dict[str, int], wallets: dict[str, WalletRow], row: LedgerRow) -> None:
    sums[row.debit] = sums.get(row.debit, 0) - row.amount_nano
    sums[row.credit] = sums.get(row.credit, 0) + row.amount_nano
    if not wallet_change(row):
        return
    before = wallets.get(row.user_id) or WalletRow(row.user_id, 0, (), 0)
    ends_at = json.decode(row.detail, type=dict[str, int]).get("ends_at")
    wallets[row.user_id] = moved(before, row, ends_at)


def _compare(stored: Mapping[str, WalletRow], expected: Mapping[str, WalletRow]) -> str | None:
    """Compare the stored wallets with those that follow from the entries."""
    for user_id, wallet in stored.items():
        if expected.get(user_id) != wallet:
            return f"the wallet of the user {user_id} is not the sum of its entries"
    return None if len(stored) == len(expected) else "a wallet is missing"
