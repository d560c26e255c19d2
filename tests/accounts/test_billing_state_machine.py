"""Life cycles of subscriptions against a provider whose events are lost, doubled, late and in any order.

The steps of an example are collected and played at its end. After a reconciliation, the account has what the
provider says, and a second reconciliation changes nothing. RUNS sets the number of examples
in the process tier. The fast tier tries a third of them.
"""

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from bluesminds.accounts.audit import OPERATOR
from bluesminds.common.errors import Conflict, GatewayError
from storage.base import Connection
from tests.accounts.billing_sites import DAY, USD
from tests.accounts.payment_shops import Shop, open_shop
from tests.fakes.payment_server import PRICES, stripe_signature

RUNS = int(os.environ.get("RUNS") or 25)
PLANS = st.sampled_from(("starter", "pro"))
PLACES = st.integers(0, 20)
Step = tuple[Any, ...]


class Subscriptions(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []

    @rule(plan=PLANS)
    def order(self, plan: str) -> None:
        self.steps.append(("order", plan))

    @rule(cents=st.integers(500, 3000))
    def order_credit(self, cents: int) -> None:
        self.steps.append(("order_credit", cents))

    @rule(at=PLACES)
    def pay(self, at: int) -> None:
        self.steps.append(("pay", at))

    @rule(what=st.sampled_from(("renew", "fail", "recover", "end")), at=PLACES)
    def happen(self, what: str, at: int) -> None:
        self.steps.append(("happen", what, at))

    @rule(at=PLACES, percent=st.integers(1, 100))
    def refund(self, at: int, percent: int) -> None:
        self.steps.append(("refund", at, percent))

    @rule(cancel=st.booleans())
    def cancel(self, cancel: bool) -> None:
        self.steps.append(("cancel", cancel))

    @rule(plan=PLANS)
    def change(self, plan: str) -> None:
        self.steps.append(("change", plan))

    @rule(plan=PLANS, other=PLANS)
    def pay_two(self, plan: str, other: str) -> None:
        """Two checkouts are paid at the same moment."""
        self.steps.append(("pay_two", plan, other))

    @rule(at=PLACES, percent=st.integers(1, 100))
    def dispute(self, at: int, percent: int) -> None:
        self.steps.append(("dispute", at, percent))

    @rule(at=PLACES, times=st.integers(0, 2))
    def deliver(self, at: int, times: int) -> None:
        """One of the events that wait, in any order; 0 times: it is lost."""
        self.steps.append(("deliver", at, times))

    @rule(days=st.integers(1, 9))
    def wait(self, days: int) -> None:
        self.steps.append(("wait", days))

    def teardown(self) -> None:
        with tempfile.TemporaryDirectory() as home:
            trio.run(play, self.steps, Path(home))


async def play(steps: Sequence[Step], home: Path) -> None:
    async with open_shop(home) as shop:
        for step in steps:
            await take(shop, step)
            now = max(shop.site.clock.now, shop.stripe.now * 1000)
            shop.site.clock.now, shop.stripe.now = now, now // 1000
        await shop.site.billing.reconciliation.sync()
        await check(shop)
        before = await shop.site.store.read(everything)
        await shop.site.billing.reconciliation.sync()
        for headers, body in shop.stripe.events:  # late ones change nothing either
            await shop.site.billing.reconciliation.handle(
                "stripe", stripe_signature(body, shop.stripe.now), body
            )
            assert headers
        assert await shop.site.store.read(everything) == before


async def take(shop: Shop, step: Step) -> None:
    server, site = shop.stripe, shop.site
    match step:
        case "order", plan:
            with suppress(GatewayError):
                await shop.order(plan)
        case "order_credit", cents:
            with suppress(Conflict):  # too many open orders
                await shop.order(cents=cents)
        case "pay", at:
            unpaid = [id_ for id_, one in server.checkouts.items() if one["status"] == "open"]
            if unpaid:
                server.pay(unpaid[at % len(unpaid)])
        case "happen", what, at:
            if server.subscriptions:
                getattr(server, what)(list(server.subscriptions)[at % len(server.subscriptions)])
        case "refund", at, percent:
            if server.charges:
                charge = list(server.charges.values())[at % len(server.charges)]
                cents = max(charge["amount_refunded"], charge["amount"] * percent // 100)
                server.refund(charge["payment_intent"], cents)
        case "pay_two", plan, other:
            server.keeps_checkouts = True
            with suppress(GatewayError):
                for checkout in (await shop.order(plan), await shop.order(other)):
                    server.pay(checkout)
            server.keeps_checkouts = False
        case "dispute", at, percent:
            whole = [one for one in server.charges.values() if not one["amount_refunded"]]
            if whole:
                server.dispute(whole[at % len(whole)]["payment_intent"], "won" if percent > 30 else "lost")
        case "cancel", cancel:
            with suppress(GatewayError):
                await site.billing.subscriptions.cancel(OPERATOR, site.member.id, cancel=cancel)
        case "change", plan:
            with suppress(GatewayError):
                await site.billing.subscriptions.change_plan(OPERATOR, site.member.id, plan)
        case "deliver", at, times:
            if server.events:
                _, body = server.events.pop(at % len(server.events))
                for _ in range(times):
                    await site.billing.reconciliation.handle(
                        "stripe", stripe_signature(body, server.now), body
                    )
        case "wait", days:
            site.clock.now += days * DAY
            await site.billing.reconciliation.settle_due()


async def check(shop: Shop) -> None:
    server, site = shop.stripe, shop.site
    proof = await site.ledger.verify()
    assert proof.problem is None
    assert sum(proof.sums.values()) == 0
    lost = {one["charge"] for one in server.disputes.values() if one["status"] == "lost"}
    paid = sum(
        0 if one["id"] in lost else one["amount"] - one["amount_refunded"] for one in server.charges.values()
    )
    assert proof.sums.get("payments:stripe", 0) == -paid * USD // 100
    payments = await site.billing.payments.list(site.member.id, before="", limit=1000)
    assert sorted(one.provider_id for one in payments) == sorted(
        one["payment_intent"] for one in server.charges.values()
    )
    states = {one["status"] for one in server.subscriptions.values()}
    prices = [
        one["items"]["data"][0]["price"]["id"]
        for one in server.subscriptions.values()
        if one["status"] == "active"
    ]
    found = await site.tier()
    if prices:
        # A cheaper plan is in force from the next period only, so the tier may still be that of the other.
        best = max(prices, key=lambda price: PRICES[price]).removeprefix("price_")
        assert found in (best, "pro")
    elif "past_due" not in states:  # its grace period begins when the gateway learns of it
        assert found in ("free", site.member.tier)


async def everything(connection: Connection) -> list[object]:
    """The ledger, the wallets and what is known about payments."""
    return [
        await connection.all("SELECT * FROM ledger ORDER BY seq"),
        await connection.all("SELECT * FROM wallets ORDER BY user_id"),
        await connection.all("SELECT * FROM payments ORDER BY id"),
        await connection.all("SELECT id, plan, state, tier, next_plan FROM subscriptions ORDER BY id"),
        await connection.all("SELECT id, tier FROM users ORDER BY id"),
    ]


@pytest.mark.parametrize("runs", [RUNS // 3, pytest.param(RUNS, marks=pytest.mark.process)])
def test_subscription_with_lost_and_doubled_events_ends_reconciled(runs: int) -> None:
    run_state_machine_as_test(
        Subscriptions, settings=settings(max_examples=runs, stateful_step_count=25, deadline=None)
    )
