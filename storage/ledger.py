"""The ledger of prepaid credit, and the wallets whose sum it proves.

An entry moves an amount from one account (debit) to another (credit), so that the sum of all accounts is
zero. Entries are only appended and form the hash chain "ledger". An entry whose id exists already changes
nothing. A user with a wallet pays for requests; others are not charged.

A unit that posts entries locks the head of the chain before anything else, except that of the audit log: a
unit that also writes there locks that head first.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from operator import attrgetter
from typing import Final, Literal, LiteralString

from storage.base import Connection, Row
from storage.chain import START, ChainCheck, ChainPosition, check_rows, lock_head, next_positions
from storage.id_lists import IN_POSTGRES, IN_SQLITE, id_list
from storage.settings import USAGE_DELETED_BEFORE, select_setting

CHAIN: Final = "ledger"
REVENUE: Final = "revenue"
CHECKED: Final = 5_000  # rows that one check reads
EntryKind = Literal[
    "topup", "grant", "charge", "refund", "adjustment", "expiry", "subscription", "payment_refund"
]


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One entry. `id` is its idempotency key, such as charge:USAGE_ID. `amount_nano` is above 0. `detail` is
    a JSON object as text.
    """

    id: str
    at: int
    kind: EntryKind
    debit: str
    credit: str
    amount_nano: int
    user_id: str
    reference: str
    detail: str


@dataclass(frozen=True, slots=True)
class ChainedLedgerRow:
    position: ChainPosition
    row: LedgerRow


@dataclass(frozen=True, slots=True)
class Grant:
    """Money that was given and is left. `ends_at`: milliseconds; None: it does not end."""

    id: str
    left_nano: int
    ends_at: int | None


@dataclass(frozen=True, slots=True)
class WalletRow:
    """`balance_nano` includes what is left of `grants`, which are used first, the one that ends first before
    others. `revision` counts the entries that are not charges.
    """

    user_id: str
    balance_nano: int
    grants: tuple[Grant, ...]
    revision: int


def wallet_account(user_id: str) -> str:
    return f"wallet:{user_id}"


async def lock_ledger_head(connection: Connection) -> ChainPosition | None:
    return await lock_head(connection, CHAIN)


async def select_wallet(connection: Connection, user_id: str) -> WalletRow | None:
    """None: the user has no prepaid credit."""
    row = await connection.one(
        "SELECT user_id, balance_nano, grants, revision FROM wallets WHERE user_id = :user_id",
        user_id=user_id,
    )
    if row is None:
        return None
    return _wallet(row)


def _wallet(row: Row) -> WalletRow:
    return WalletRow(row[0], row[1], tuple(Grant(*one) for one in json.loads(row[2])), row[3])


# As `astuple`, which takes 7 us more.
_fields: Final = attrgetter(*LedgerRow.__slots__)


async def post(
    connection: Connection, rows: Sequence[LedgerRow], *, ends_at: int | None = None
) -> dict[str, WalletRow]:
    """Append entries and move the balances. Entries that exist are left out. `ends_at`: of grants among the
    rows. Returns the wallets that were moved, by user.
    """
    head = await lock_ledger_head(connection)
    known = await _existing(connection, [row.id for row in rows])
    new = list({row.id: row for row in reversed(rows) if row.id not in known}.values())[::-1]
    if not new:
        return {}
    newest = await connection.one("SELECT seq, hash FROM ledger ORDER BY seq DESC LIMIT 1")
    last = START if newest is None else ChainPosition(*newest)
    positions = await next_positions(connection, CHAIN, head, last, map(_fields, new))
    await connection.many(_INSERT, [_Placed(row, at) for row, at in zip(new, positions, strict=True)])
    wallets = await _wallets_of(connection, {row.user_id for row in new if wallet_change(row)})
    for row in new:
        if not wallet_change(row):
            continue
        before = wallets.get(row.user_id) or WalletRow(row.user_id, 0, (), 0)
        wallets[row.user_id] = moved(before, row, ends_at)
    await connection.many(_STORE, [_StoredWallet(wallet) for wallet in wallets.values()])
    return wallets


def wallet_change(row: LedgerRow) -> int:
    """By how much the entry changes the credit of its user. The payment of a plan does not change it."""
    account = wallet_account(row.user_id)
    return row.amount_nano * ((row.credit == account) - (row.debit == account))


def moved(wallet: WalletRow, row: LedgerRow, ends_at: int | None = None) -> WalletRow:
    """The wallet after an entry."""
    change = wallet_change(row)
    grants = wallet.grants
    if row.kind == "grant":
        grants = tuple(
            sorted(
                (*grants, Grant(row.id, row.amount_nano, ends_at)),
                key=lambda one: (one.ends_at is None, one.ends_at or 0, one.id),
            )
        )
    elif row.kind == "expiry":
        grants = tuple(one for one in grants if one.id != row.reference)
    elif row.kind == "payment_refund":  # takes back bought credit first
        given = sum(one.left_nano for one in grants)
        grants = _used(grants, max(0, given - wallet.balance_nano - change))
    elif change < 0:
        grants = _used(grants, -change)
    revision = wallet.revision + (row.kind != "charge")
    return WalletRow(wallet.user_id, wallet.balance_nano + change, grants, revision)


def _used(grants: Iterable[Grant], nano: int) -> tuple[Grant, ...]:
    left = []
    for one in grants:
        part = min(one.left_nano, nano)
        nano -= part
        if part < one.left_nano:
            left.append(Grant(one.id, one.left_nano - part, one.ends_at))
    return tuple(left)


class _Placed:
    """An entry at its position, with the parameters of _INSERT as attributes."""

    def __init__(self, row: LedgerRow, position: ChainPosition) -> None:
        self.seq, self.hash = position.seq, position.hash
        self.id, self.at, self.kind = row.id, row.at, row.kind
        self.debit, self.credit, self.amount_nano = row.debit, row.credit, row.amount_nano
        self.user_id, self.reference, self.detail = row.user_id, row.reference, row.detail


class _StoredWallet:
    """A wallet with the parameters of _STORE as attributes."""

    def __init__(self, wallet: WalletRow) -> None:
        self.user_id, self.balance_nano = wallet.user_id, wallet.balance_nano
        self.grants = json.dumps([astuple(one) for one in wallet.grants])
        self.revision = wallet.revision


_INSERT: Final[LiteralString] = """
    INSERT INTO ledger (
        seq, id, at, kind, debit, credit, amount_nano, user_id, reference, detail, hash
    ) VALUES (
        :seq, :id, :at, :kind, :debit, :credit, :amount_nano, :user_id, :reference, :detail, :hash
    )
"""
_STORE: Final[LiteralString] = """
    INSERT INTO wallets (user_id, balance_nano, grants, revision)
    VALUES (:user_id, :balance_nano, :grants, :revision)
    ON CONFLICT (user_id) DO UPDATE SET
        balance_nano = excluded.balance_nano, grants = excluded.grants, revision = excluded.revision
"""
_EXISTING: Final[LiteralString] = "SELECT id FROM ledger WHERE id"
_WALLETS: Final[LiteralString] = "SELECT user_id, balance_nano, grants, revision FROM wallets WHERE user_id"


async def _existing(connection: Connection, ids: Sequence[str]) -> set[str]:
    statement = _EXISTING + (IN_SQLITE if connection.engine == "sqlite" else IN_POSTGRES)
    return {row[0] for row in await connection.all(statement, ids=id_list(connection, ids))}


async def _wallets_of(connection: Connection, users: Iterable[str]) -> dict[str, WalletRow]:
    """In the order of the users."""
    ids = sorted(users)
    statement = _WALLETS + (IN_SQLITE if connection.engine == "sqlite" else IN_POSTGRES)
    rows = await connection.all(statement, ids=id_list(connection, ids))
    return {row[0]: _wallet(row) for row in rows}


async def select_wallets_after(connection: Connection, user_id: str, limit: int) -> Sequence[WalletRow]:
    """Wallets in the order of their users, those after `user_id`."""
    rows = await connection.all(
        """
        SELECT user_id, balance_nano, grants, revision FROM wallets
        WHERE user_id > :user_id ORDER BY user_id LIMIT :limit
        """,
        user_id=user_id,
        limit=limit,
    )
    return [_wallet(row) for row in rows]


async def select_entry(connection: Connection, id_: str) -> LedgerRow | None:
    row = await connection.one(
        """
        SELECT id, at, kind, debit, credit, amount_nano, user_id, reference, detail
        FROM ledger WHERE id = :id
        """,
        id=id_,
    )
    return None if row is None else LedgerRow(*row)


async def check_ledger(
    connection: Connection, at: ChainPosition, expected: ChainPosition | None, limit: int
) -> tuple[ChainCheck, Sequence[LedgerRow]]:
    """Check at most `limit` entries after `at`. See storage.chain.check_rows. Also returns the entries."""
    rows = await connection.all(
        """
        SELECT seq, hash, id, at, kind, debit, credit, amount_nano, user_id, reference, detail
        FROM ledger WHERE seq > :after ORDER BY seq LIMIT :limit
        """,
        after=at.seq,
        limit=limit,
    )
    links = [(ChainPosition(*row[:2]), tuple(row[2:])) for row in rows]
    check = await check_rows(connection, CHAIN, at, links, expected=expected, last=len(rows) < limit)
    return check, [LedgerRow(*fields) for _, fields in links]


async def check_charged_usage(
    connection: Connection, after: tuple[int, str], limit: int = CHECKED
) -> tuple[str | None, tuple[int, str] | None]:
    """Of `limit` usage rows after the position `(at, id)`: one that says that it was charged, without its
    entry, or with one of another amount. Also returns the next position, None at the end.
    """
    found = await connection.one(
        """
        WITH page AS (
            SELECT at, id, user_id, charged_nano FROM usage WHERE (at, id) > (:at, :id)
            ORDER BY at, id LIMIT :limit
        )
        SELECT
            (SELECT count(*) FROM page),
            (SELECT at FROM page ORDER BY at DESC, id DESC LIMIT 1),
            (SELECT id FROM page ORDER BY at DESC, id DESC LIMIT 1),
            (
                SELECT page.id FROM page LEFT JOIN ledger ON ledger.id = 'charge:' || page.id
                WHERE page.charged_nano > 0 AND (
                    ledger.id IS NULL OR ledger.amount_nano <> page.charged_nano
                    OR ledger.user_id <> page.user_id
                )
                LIMIT 1
            )
        """,
        at=after[0],
        id=after[1],
        limit=limit,
    )
    count, at, id_, wrong = found or (0, 0, "", None)
    return wrong, None if count < limit else (at, id_)


async def check_charges(
    connection: Connection, after: int, limit: int = CHECKED
) -> tuple[str | None, int | None]:
    """Of `limit` entries after the number `after`: a charge without its usage row, unless the row may have
    been deleted because of its age. Also returns the next number, None at the end.
    """
    deleted = await select_setting(connection, USAGE_DELETED_BEFORE)
    found = await connection.one(
        """
        WITH page AS (
            SELECT seq, id, at, kind, reference, amount_nano FROM ledger WHERE seq > :after
            ORDER BY seq LIMIT :limit
        )
        SELECT
            (SELECT count(*) FROM page), (SELECT max(seq) FROM page),
            (
                SELECT page.id FROM page LEFT JOIN usage
                    ON usage.at = page.at AND usage.id = page.reference
                WHERE page.kind = 'charge' AND page.at >= :kept_from
                    AND coalesce(usage.charged_nano, 0) <> page.amount_nano
                LIMIT 1
            )
        """,
        after=after,
        limit=limit,
        kept_from=int(deleted or 0),
    )
    count, last, wrong = found or (0, 0, None)
    return wrong, None if count < limit else last
