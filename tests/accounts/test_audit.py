"""Audit rows: their fields and masked values, the order of locks, and verification of the log."""

import ast
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from msgspec import structs

from bluesminds.accounts.audit import MASK, OPERATOR, Actor, AuditLog, entry
from bluesminds.common.crypto import chain_key
from bluesminds.common.money import NANO
from bluesminds.common.values import LimitSet
from storage import Connection, Store
from storage.audit import AuditQuery, insert_audit
from storage.chain import START, ChainCheck
from storage.store import open_store
from tests.databases import create_sqlite
from tests.storage.samples import NOON

ACCOUNTS = Path(__file__).resolve().parents[2] / "bluesminds" / "accounts"


class Noon:
    def now_ms(self) -> int:
        return NOON


def detail(**parts: object) -> dict[str, object]:
    row = entry(Noon(), OPERATOR, "user.update", "u", **parts)  # type: ignore[arg-type]
    return dict(json.loads(row.detail))


def test_entry_keeps_only_differing_fields() -> None:
    row = entry(Noon(), Actor("u1", "10.0.0.1"), "key.create", "k", after={"name": "n"})
    assert (row.at, row.actor, row.address, row.action, row.subject) == (
        *(NOON, "u1", "10.0.0.1", "key.create", "k"),
    )
    assert detail() == {}
    assert detail(after={"role": "user", "tier": None}) == {"after": {"role": "user", "tier": None}}
    assert detail(before={"role": "user"}) == {"before": {"role": "user"}}
    assert detail(before={"role": "user", "tier": "pro"}, after={"role": "admin", "tier": "pro"}) == {
        "before": {"role": "user"},
        "after": {"role": "admin"},
    }
    assert detail(before={"a": 1}, after={"b": 2}) == {"before": {"a": 1}, "after": {"b": 2}}
    assert detail(before={"limits": {"rpm": 1}}, after={"limits": {"rpm": 1}}) == {}
    changed = detail(before={"models": ("a",)}, after={"models": ("a", "b")})
    assert changed == {"before": {"models": ["a"]}, "after": {"models": ["a", "b"]}}


@pytest.mark.parametrize(
    "name",
    ["key", "password", "password_hash", "api_key", "sealed_api_key", "digest", "csrf_token", "secret"],
)
def test_entry_masks_secrets_and_shows_that_they_changed(name: str) -> None:
    assert detail(after={name: "canary"}) == {"after": {name: MASK}}
    assert detail(before={name: b"canary"}, after={name: b"other"}) == {
        "before": {name: MASK},
        "after": {name: MASK},
    }
    assert detail(before={name: "canary"}, after={name: "canary"}) == {}
    assert detail(before={name: None}, after={name: "canary"}) == {
        "before": {name: None},
        "after": {name: MASK},
    }
    assert detail(after={"metadata": {"inner": {name: "canary"}}}) == {
        "after": {"metadata": {"inner": {name: MASK}}}
    }


def test_entry_shows_fields_that_are_not_secret() -> None:
    fields = {"tokens_per_day": 5, "key_id": "k", "last4": "abcd", "has_api_keys": True}
    assert detail(after=fields) == {"after": fields}


def test_entry_formats_values_as_in_the_api() -> None:
    assert detail(
        before=structs.asdict(LimitSet(usd_per_day=1)),
        after=structs.asdict(LimitSet(rpm=5, tokens_per_day=10**12, usd_per_month=50 * NANO)),
    ) == {
        "before": {"rpm": None, "tokens_per_day": None, "usd_per_day": "0.000000001", "usd_per_month": None},
        "after": {"rpm": 5, "tokens_per_day": 10**12, "usd_per_day": None, "usd_per_month": "50"},
    }
    for name in ("expires_at", "revoked_at", "rotated_at", "previous_until"):
        assert detail(before={name: None}, after={name: NOON + 7}) == {
            "before": {name: None},
            "after": {name: "2027-01-15T12:00:00.007Z"},
        }
    own = {"usd_per_month": "50", "paid_at": "noon", "rpm": "0"}
    nested = {"limits": {"usd_total": NANO // 2, "rpm": 1}, "metadata": own}
    assert detail(after=nested) == {"after": {"limits": {"usd_total": "0.5", "rpm": 1}, "metadata": own}}
    assert detail(after={"removed": 0, "weight": 0}) == {"after": {"removed": 0, "weight": 0}}


def units() -> Iterator[tuple[str, list[str]]]:
    """The units of work that write an audit row, and their parts. Each with the names of the
    functions that it awaits, in order.
    """
    for path in sorted(ACCOUNTS.glob("*.py")):
        text = path.read_text()
        for function in ast.walk(ast.parse(text)) if "audit" in text else ():
            if isinstance(function, ast.AsyncFunctionDef) and path.name != "audit.py":
                awaited = [
                    (node.lineno, node.col_offset, ast.unparse(node.value.func))
                    for node in ast.walk(function)
                    if isinstance(node, ast.Await) and isinstance(node.value, ast.Call)
                ]
                names = [name for *_, name in sorted(awaited)]
                if "insert_audit" in names or "lock_audit_head" in names:
                    yield f"{path.name}:{function.name}", names


def test_transactions_with_audit_row_lock_the_head_first() -> None:
    """Transactions that lock other rows first could deadlock."""
    found = dict(units())
    parts = {name.rpartition(".")[2] for names in found.values() for name in names}
    complete = {unit: names for unit, names in found.items() if unit.partition(":")[2] not in parts}
    assert len(complete) > 5
    for unit, names in complete.items():
        assert names[0] in ("insert_audit", "lock_audit_head"), unit


@pytest.fixture
async def store(home: Path) -> AsyncIterator[Store]:
    create_sqlite(home / "test.db")
    # Sixty queued writes must all start within this time.
    async with open_store(f"sqlite://{home / 'test.db'}", statement_timeout=120) as store:
        store.chain_key = chain_key(b"pepper")
        yield store


async def test_verify_of_long_log_reads_it_in_parts(store: Store) -> None:
    async def fill(connection: Connection) -> None:
        for serial in range(1100):
            row = entry(Noon(), OPERATOR, "key.create", str(serial))
            await insert_audit(connection, row)

    await store.write(fill)
    log = AuditLog(store)
    intact = await log.verify()
    assert (intact.at.seq, intact.damage) == (1100, None)
    assert await log.verify(intact.at) == intact
    assert (await log.verify(replace(intact.at, hash="0" * 64))).damage == "rewritten"
    (newest, _) = await log.page(AuditQuery(before=2**62, limit=2))
    assert (newest.position, newest.row.subject) == (intact.at, "1099")

    async def alter(connection: Connection) -> None:
        await connection.execute("UPDATE audit SET address = 'x' WHERE seq = 777")

    await store.write(alter)
    found = await log.verify()
    assert (found.at.seq, found.damage) == (776, "altered")


async def test_verify_of_growing_log_finds_no_damage(store: Store) -> None:
    log = AuditLog(store)
    found: list[ChainCheck] = []
    async with trio.open_nursery() as nursery:
        for serial in range(60):
            row = entry(Noon(), OPERATOR, "key.create", str(serial))
            nursery.start_soon(store.write, insert_audit, row)
        while len(found) < 20:
            found.append(await log.verify())
    assert [one.damage for one in found] == [None] * 20
    assert (await log.verify()).at.seq == 60


async def test_verify_with_another_pepper_finds_damage(store: Store) -> None:
    await store.write(insert_audit, entry(Noon(), OPERATOR, "key.create", "k"))
    store.chain_key = chain_key(b"another")
    assert await AuditLog(store).verify() == ChainCheck(START, "altered", done=True)
