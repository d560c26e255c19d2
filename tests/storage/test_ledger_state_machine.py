"""A state machine on both engines: in any order of events, money agrees everywhere.

The ledger, the wallets, the usage rows, the budgets in memory and the stored counters follow a plain model. A
request is reserved, may be extended and written down, and is settled or lost in a crash. Usage rows wait for
their commit as in the recorder, so a crash can come between accepting and committing. RUNS sets the number of
examples.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC
from itertools import count
from typing import LiteralString

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run

from bluesminds.accounts.audit import OPERATOR
from bluesminds.accounts.ledger import CreditEntry, CreditKind, Ledger
from bluesminds.common.clock import Calendar
from bluesminds.common.errors import GatewayError
from bluesminds.common.values import Caller, LimitSet
from bluesminds.gateway.limits.counters import Estimate
from bluesminds.gateway.limits.reserve import RateLimiter, Reservation
from storage.base import Connection, Store
from storage.ledger import select_wallet
from storage.open_requests import open_request, settle_open_requests, store_open_requests
from storage.quotas import select_quotas
from storage.usage import UsageRow, insert_batch
from tests.storage.samples import usage
from tests.storage.store_thread import StoreThread
from tests.storage.test_ledger import USERS, FixedClock, with_users

RUNS = int(os.environ.get("RUNS") or 15)
OWNERS = {"key-1": "user-1", "key-2": "user-1", "key-3": "user-2"}
SUBJECTS = [f"key:{key_id}" for key_id in OWNERS] + [f"user:{user_id}" for user_id in USERS]
TIER, TIER_BUDGET = "pro", 2200  # of both users together
LIMITS = {
    "key-1": LimitSet(usd_total=900),
    "key-2": LimitSet(),
    "key-3": LimitSet(usd_total=1500),
    "user-1": LimitSet(usd_total=1200),
    "user-2": LimitSet(),
}
AMOUNTS = st.integers(1, 200)
COSTS = st.integers(0, 600)
TABLES: Sequence[LiteralString] = ("usage", "quota_counters", "open_requests", "ledger", "wallets", "users")


async def empty(connection: Connection) -> None:
    for table in TABLES:
        await connection.execute("DELETE FROM " + table)  # noqa: S608
    await connection.execute("UPDATE chain_heads SET seq = 0, hash = '' WHERE chain = 'ledger'")


@dataclass
class RunningRequest:
    """`held`: nano-USD on each level."""

    number: int
    key_id: str
    reservation: Reservation
    held: int
    prepaid: bool

    @property
    def user_id(self) -> str:
        return OWNERS[self.key_id]


@dataclass
class WalletModel:
    """Balances in the store and in memory; grants as (no end, end, id, what is left)."""

    stored: int = 0
    memory: int = 0
    grants: list[tuple[bool, int, str, int]] = field(default_factory=list)

    def charge(self, nano: int) -> None:
        self.stored -= nano
        kept = []
        for endless, end, name, left in self.grants:
            part = min(left, nano)
            nano -= part
            if part < left:
                kept.append((endless, end, name, left - part))
        self.grants = kept


class Money(RuleBasedStateMachine):
    def __init__(self, thread: StoreThread) -> None:
        super().__init__()
        self.thread = thread
        self.numbers = count(1)
        self.wallets: dict[str, WalletModel] = {}
        self.running: list[RunningRequest] = []
        self.written: dict[str, UsageRow] = {}  # what requests have used so far
        self.waiting: list[UsageRow] = []  # settled, and not committed
        self.committed: list[UsageRow] = []
        self.posted: list[tuple[str, CreditEntry]] = []

    @property
    def store(self) -> Store:
        return self.thread.store

    @initialize()
    def begin(self) -> None:
        self.thread.call(self.store.write, empty)
        self.thread.call(self.store.write, with_users)
        self.clock = FixedClock()
        self.start()

    def start(self) -> None:
        """As a process does: settle, then open the accounts from the store."""
        self.thread.call(self.store.write, settle_open_requests)
        self.ledger = Ledger(self.store, clock=self.clock)
        budgets = {TIER: LimitSet(usd_per_month=TIER_BUDGET)}
        self.limiter = RateLimiter(
            self.clock, Calendar(UTC), lambda: True, monotonic=lambda: 100.0, tier_budgets=budgets
        )
        self.limiter.restore_tiers(self.thread.call(self.store.read, select_quotas, [f"tier:{TIER}"]))
        self.ledger.subscribe(self.limiter.credit_changed)
        quotas = self.thread.call(self.store.read, select_quotas, SUBJECTS)
        for subject in SUBJECTS:
            kind, _, owner = subject.partition(":")
            wallet = self.thread.call(self.store.read, select_wallet, owner) if kind == "user" else None
            self.limiter.open_account(subject, quotas.get(subject), wallet)

    # Credit.

    @rule(
        user_id=st.sampled_from(USERS),
        kind=st.sampled_from(["topup", "grant", "refund", "adjustment"]),
        nano=AMOUNTS,
        taken=st.booleans(),
        lasts=st.none() | st.integers(1, 50),
    )
    def post(self, user_id: str, kind: CreditKind, nano: int, taken: bool, lasts: int | None) -> None:
        nano = -nano if taken and kind == "adjustment" else nano
        ends_at = self.clock.now + lasts if lasts and kind == "grant" else None
        entry = CreditEntry(kind, nano, ends_at, key=f"{next(self.numbers):06}")
        self.thread.call(self.ledger.post, OPERATOR, user_id, entry)
        self.posted.append((user_id, entry))
        wallet = self.wallets.setdefault(user_id, WalletModel())
        wallet.memory += nano
        if nano < 0:
            wallet.charge(-nano)
        else:
            wallet.stored += nano
        if kind == "grant":
            wallet.grants.append((ends_at is None, ends_at or 0, f"grant:{entry.key}", nano))
            wallet.grants.sort()

    @precondition(lambda self: self.posted)
    @rule(data=st.data())
    def post_again(self, data: st.DataObject) -> None:
        """A repeated entry changes nothing."""
        self.thread.call(self.ledger.post, OPERATOR, *data.draw(st.sampled_from(self.posted)))

    @rule(milliseconds=st.integers(1, 30))
    def wait(self, milliseconds: int) -> None:
        self.clock.now += milliseconds
        self.thread.call(self.ledger.expire)
        for wallet in self.wallets.values():
            ended = [one for one in wallet.grants if not one[0] and one[1] <= self.clock.now]
            wallet.grants = [one for one in wallet.grants if one not in ended]
            wallet.stored -= sum(one[3] for one in ended)
            wallet.memory -= sum(one[3] for one in ended)

    # Requests.

    def held(self, owner: str) -> int:
        return sum(one.held for one in self.running if owner in (one.key_id, one.user_id, TIER))

    def used(self, owner: str) -> int:
        rows = (*self.committed, *self.waiting)
        return sum(row.cost_nano or 0 for row in rows if owner in (row.key_id, row.user_id, TIER))

    def available(self, user_id: str) -> int:
        prepaid = sum(one.held for one in self.running if one.user_id == user_id and one.prepaid)
        return self.wallets[user_id].memory - prepaid

    def fits(self, key_id: str, nano: int, *, prepaid: bool) -> bool:
        user_id = OWNERS[key_id]
        if prepaid and nano > self.available(user_id):
            return False
        levels = [(LIMITS[owner].usd_total, owner) for owner in (key_id, user_id)]
        levels.append((TIER_BUDGET, TIER))
        return all(not limit or self.used(one) + self.held(one) + nano <= limit for limit, one in levels)

    @rule(key_id=st.sampled_from(sorted(OWNERS)), nano=st.integers(0, 200), cost=st.none() | COSTS)
    def reserve(self, key_id: str, nano: int, cost: int | None) -> None:
        """`cost`: what is written down at once."""
        user_id = OWNERS[key_id]
        caller = Caller(key_id, user_id, LIMITS[key_id], LIMITS[user_id], None, tier=TIER)
        prepaid = user_id in self.wallets
        fits = self.fits(key_id, nano, prepaid=prepaid)
        try:
            reservation = self.limiter.reserve(caller, Estimate(1, nano))
        except GatewayError:
            assert not fits
            return
        assert fits
        request = RunningRequest(next(self.numbers), key_id, reservation, nano, prepaid)
        self.running.append(request)
        if cost is not None:
            self._write_down(request, cost)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), more=AMOUNTS)
    def extend(self, data: st.DataObject, more: int) -> None:
        request = data.draw(st.sampled_from(self.running))
        fits = self.fits(request.key_id, more, prepaid=request.prepaid)
        assert request.reservation.extend(request.held + more) == fits
        request.held += more * fits

    @precondition(lambda self: self.running)
    @rule(data=st.data(), cost=COSTS)
    def write_down(self, data: st.DataObject, cost: int) -> None:
        self._write_down(data.draw(st.sampled_from(self.running)), cost)

    def _write_down(self, request: RunningRequest, cost: int) -> None:
        assert request.reservation.has_credit == request.prepaid
        row = self.row(request, cost, cost if request.prepaid else None)
        self.thread.call(self.store.write, store_open_requests, [open_request(row)])
        self.written[row.id] = row

    @precondition(lambda self: self.running)
    @rule(data=st.data(), cost=COSTS)
    def settle(self, data: st.DataObject, cost: int) -> None:
        request = data.draw(st.sampled_from(self.running))
        self.running.remove(request)
        request.reservation.settle(3, cost)
        request.reservation.settle(3, cost)  # only the first counts
        paid = None
        if request.prepaid:
            paid = max(0, min(cost, self.available(request.user_id)))
            self.wallets[request.user_id].memory -= paid
        assert request.reservation.charged == paid
        self.waiting.append(self.row(request, cost, paid))

    def row(self, request: RunningRequest, cost: int, charged: int | None) -> UsageRow:
        row = usage(request.number, key_id=request.key_id, user_id=request.user_id, cost_nano=cost)
        day, month = request.reservation.day, request.reservation.month
        return replace(row, charged_nano=charged, day=day, month=month, budget_tier=TIER)

    @rule(repeated=st.booleans())
    def commit(self, repeated: bool) -> None:
        """Repeated, as after a commit with an unknown result."""
        if repeated:
            self.thread.call(self.store.write, insert_batch, self.waiting)
        self._commit()

    def _commit(self) -> None:
        self.thread.call(self.store.write, insert_batch, self.waiting)
        for row in self.waiting:
            if row.charged_nano:
                self.wallets[row.user_id].charge(row.charged_nano)
        self.committed += self.waiting
        self.waiting = []

    @rule()
    def crash(self) -> None:
        """What waits is lost. What was written down is settled, unless it was committed."""
        settled = {row.id for row in self.committed}
        for row in sorted(self.written.values(), key=lambda one: one.id):
            if row.id in settled:
                continue
            if row.charged_nano is not None:
                wallet = self.wallets[row.user_id]
                paid = max(0, min(row.charged_nano, wallet.stored))
                wallet.charge(paid)
                row = replace(row, charged_nano=paid)
            self.committed.append(row)
        self.running, self.waiting, self.written = [], [], {}
        for wallet in self.wallets.values():
            wallet.memory = wallet.stored
        self.start()
        self.check()

    @rule()
    def restart(self) -> None:
        """An orderly end: running requests are cut and settled, and every row is committed."""
        while self.running:
            request = self.running.pop()
            request.reservation.settle(0, 0)
            self.waiting.append(self.row(request, 0, 0 if request.prepaid else None))
        self._commit()
        self.start()
        self.check()

    def check(self) -> None:
        """What must be true at any time."""
        proof = self.thread.call(self.ledger.verify)
        assert proof.problem is None
        assert sum(proof.sums.values()) == 0
        for user_id, expected in self.wallets.items():
            wallet = self.thread.call(self.store.read, select_wallet, user_id)
            assert wallet is not None
            assert wallet.balance_nano == expected.stored
            assert [(one.id, one.left_nano) for one in wallet.grants] == [one[2:] for one in expected.grants]
            waiting = sum(row.charged_nano or 0 for row in self.waiting if row.user_id == user_id)
            assert expected.memory == expected.stored - waiting
        quotas = self.thread.call(self.store.read, select_quotas, SUBJECTS)
        for subject in SUBJECTS:
            owner = subject.partition(":")[2]
            rows = [row for row in self.committed if owner in (row.key_id, row.user_id)]
            found = quotas.get(subject)
            assert (found.total_nano if found else 0) == sum(row.cost_nano or 0 for row in rows)
        of_tier = self.thread.call(self.store.read, select_quotas, [f"tier:{TIER}"]).get(f"tier:{TIER}")
        assert (of_tier.month_nano if of_tier else 0) == sum(row.cost_nano or 0 for row in self.committed)

    def teardown(self) -> None:
        self.check()


def test_money_in_any_order_of_events_agrees(thread: StoreThread) -> None:
    run(lambda: Money(thread), settings=settings(max_examples=RUNS, stateful_step_count=40))
