"""Searches in the ledger on both engines."""

from dataclasses import replace

from storage.base import Connection, Store
from storage.ledger import LedgerRow, post
from storage.ledger_search import LedgerPage, LedgerQuery, select_entries
from tests.storage.samples import NOON


def entry(serial: int, kind: str = "charge", user: str = "ada") -> LedgerRow:
    debit, credit = (f"wallet:{user}", "revenue") if kind == "charge" else ("grants", f"wallet:{user}")
    return LedgerRow(
        id=f"{kind}:{serial}",
        at=NOON + serial * 1000,
        kind=kind,  # type: ignore[arg-type]
        debit=debit,
        credit=credit,
        amount_nano=serial + 1,
        user_id=user,
        reference="",
        detail="{}",
    )


async def fill(connection: Connection) -> None:
    rows = [entry(serial, "grant" if serial % 4 == 0 else "charge") for serial in range(12)]
    await post(connection, [*rows, entry(12, "grant", "bob")])


def ids(page: LedgerPage) -> list[int]:
    return [int(chained.row.id.partition(":")[2]) for chained in page.rows]


async def test_entries_with_filters_are_those_that_match(store: Store) -> None:
    store.chain_key = b"key"
    await store.write(fill)
    ada = LedgerQuery(20, user_id="ada")
    assert ids(await store.read(select_entries, ada)) == list(range(11, -1, -1))
    assert ids(await store.read(select_entries, LedgerQuery(20))) == list(range(12, -1, -1))
    assert ids(await store.read(select_entries, replace(ada, kind="grant"))) == [8, 4, 0]
    within = replace(ada, since=NOON + 3000, until=NOON + 5000)
    assert ids(await store.read(select_entries, within)) == [4, 3]


async def test_entries_in_pages_are_each_returned_once(store: Store) -> None:
    store.chain_key = b"key"
    await store.write(fill)
    query, found, pages = LedgerQuery(2, kind="grant", scan=3), list[int](), 0
    while True:
        page = await store.read(select_entries, query)
        assert len(page.rows) <= 2
        found, pages = found + ids(page), pages + 1
        if page.next is None:
            break
        query = query.after(page)
    assert found == [12, 8, 4, 0]
    assert pages == 5, "a page reads three entries"
