"""`bluesminds ledger`: entries, balances and the proof."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from bluesminds.cli import exits
from tests.cli.test_users import ADA, make
from tests.terminal import User


def test_ledger_entries_change_the_balance_once(home: Path) -> None:
    user = User(home).prepare()
    make(user)
    assert "no prepaid credit" in user.call("ledger", "show", ADA).stdout
    for _ in range(2):
        done = user.call("ledger", "topup", ADA, "25", "--reference", "invoice-7", "--key", "invoice-7")
        assert done.stdout == "posted topup:invoice-7: 25 USD\n"
    user.call("ledger", "grant", ADA, "5", "--ends-at", "2099-12-31T00:00:00Z")
    user.call("ledger", "refund", ADA, "0.5")
    assert user.call("ledger", "adjust", ADA, "--", "-1").returncode == 0
    assert user.call("ledger", "show", ADA).stdout == "29.5 USD\n"
    listed = json.loads(user.call("ledger", "list", ADA, "--json").stdout)["data"]
    assert [row["kind"] for row in listed] == ["adjustment", "refund", "grant", "topup"]
    other = user.call("ledger", "topup", ADA, "26", "--key", "invoice-7")
    assert other.returncode != 0
    assert user.call("ledger", "topup", "bob@example.com", "1").returncode == exits.NOT_FOUND
    assert user.call("ledger", "topup", ADA, "-1").returncode == exits.USAGE


def test_ledger_verify_finds_a_changed_entry(home: Path) -> None:
    user = User(home).prepare()
    make(user)
    user.call("ledger", "topup", ADA, "25")
    proof = user.call("ledger", "verify")
    assert proof.returncode == 0
    assert "1 entries, 1 wallets" in proof.stdout
    assert "wallets\t25" in proof.stdout
    end = json.loads(user.call("ledger", "verify", "--json").stdout)["end"]
    assert user.call("ledger", "verify", "--noted", end).returncode == 0
    (path,) = home.rglob("bluesminds.db")
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE ledger SET amount_nano = 1")
    wrong = user.call("ledger", "verify")
    assert wrong.returncode == exits.FAILURE
    assert "entry 1 is wrong: altered" in wrong.stderr


def test_statement_shows_the_month_and_writes_csv(home: Path) -> None:
    user = User(home).prepare()
    make(user)
    assert "not charged" in user.call("ledger", "statement", ADA).stdout
    user.call("ledger", "topup", ADA, "25", "--reference", "=invoice", "--key", "one")
    user.call("ledger", "adjust", ADA, "--", "-1.5")
    shown = user.call("ledger", "statement", ADA).stdout
    assert "opening balance\t-\t0\n" in shown and "closing balance\t-\t23.5\n" in shown
    found = json.loads(user.call("ledger", "statement", ADA, "--json").stdout)
    assert [(one["kind"], one["amount_usd"]) for one in found["sums"]] == [
        ("adjustment", "-1.5"),
        ("topup", "25"),
    ]
    header, first, second = user.call("ledger", "statement", ADA, "--csv").stdout.splitlines()
    assert header == "at,kind,amount_usd,balance_usd,id,reference"
    assert first.endswith(",topup,25,25,topup:one,'=invoice") and ",adjustment,-1.5,23.5," in second
    old = json.loads(user.call("ledger", "statement", ADA, "--month", "2024-02", "--json").stdout)
    assert (old["prepaid"], old["closing_usd"], old["sums"]) == (True, "0", [])
    wrong = user.call("ledger", "statement", ADA, "--month", "2026-13")
    assert wrong.returncode == exits.USAGE and "--month must be" in wrong.stderr
