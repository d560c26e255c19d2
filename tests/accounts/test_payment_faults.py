"""What goes wrong with payments: two checkouts, disputes, unknown customers, deleted accounts."""

import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from bluesminds.accounts.audit import OPERATOR
from bluesminds.accounts.users import Users
from bluesminds.common.crypto import uuid7
from bluesminds.common.errors import Conflict, Unavailable
from storage.billing import insert_order
from tests.accounts.billing_sites import DAY, USD, BillingSite
from tests.accounts.payment_shops import Shop, open_shop, shop
from tests.fakes import payment_server
from tests.gateways import eventually
from tests.storage.samples import user

__all__ = ["shop"]


async def states(site: BillingSite) -> list[str]:
    """Of the member's payments, oldest first."""
    rows = await site.billing.payments.list(site.member.id, before="", limit=10)
    return [row.state for row in reversed(rows)]


async def test_second_checkout_of_a_plan_expires_the_first_one(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        first = await shop.order("starter")
        second = await shop.order("pro")
        assert [shop.stripe.checkouts[one]["status"] for one in (first, second)] == ["expired", "open"]
        shop.stripe.pay(second)
        with pytest.raises(Conflict) as refused:
            await shop.order("starter")
        assert refused.value.code == "order_paid"
        await shop.deliver()
        assert await shop.site.tier() == "pro"


@pytest.mark.parametrize("lost", [True, False])
async def test_second_paid_subscription_is_refunded_and_ended(shop: Shop, lost: bool) -> None:
    """Creem cannot expire a checkout, and a browser can pay while the second one is ordered."""
    shop.stripe.keeps_checkouts = True
    first, second = await shop.order("starter"), await shop.order("pro")
    shop.server.pay(first)
    shop.server.pay(second)
    if lost:
        await shop.site.billing.reconciliation.sync()
    events = shop.server.events[:]
    random.Random(3).shuffle(events)  # noqa: S311
    async with trio.open_nursery() as nursery:
        for headers, body in events:
            nursery.start_soon(shop.site.billing.reconciliation.handle, shop.name, headers, body)
    await shop.deliver()
    assert (await shop.site.tier(), await shop.site.balance()) == ("starter", None)
    kept, ended = (shop.server.subscriptions[one]["status"] for one in shop.server.subscriptions)
    assert (kept, ended) == ("active", "canceled")
    rows = await shop.payments()
    assert sorted((one.state, one.reversed_cents) for one in rows) == [("duplicate", 9900), ("paid", 0)]
    proof = await shop.site.ledger.verify()
    assert (proof.problem, proof.sums["revenue"]) == (None, 29 * USD)
    assert len(await shop.site.billing.invoices.list(shop.site.member.id, before=100, limit=9)) == 1


async def test_second_subscription_whose_refund_fails_is_refunded_later(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        shop.stripe.keeps_checkouts = True
        first, second = await shop.order("starter"), await shop.order("pro")
        shop.stripe.pay(first)
        shop.stripe.pay(second)
        shop.stripe.refuses_refunds = True
        await shop.deliver()
        assert await shop.site.tier() == "starter"
        assert shop.stripe.subscriptions[shop.stripe.last_subscription()]["status"] == "active"
        shop.stripe.refuses_refunds = False
        shop.site.clock.now += 3_600_001
        await shop.site.billing.reconciliation.settle_due()
        assert shop.stripe.subscriptions[shop.stripe.last_subscription()]["status"] == "canceled"
        assert [one.reversed_cents for one in await shop.payments() if one.state == "duplicate"] == [9900]


async def test_order_confirmed_beside_a_subscription_is_refused(shop: Shop) -> None:
    placed = await shop.site.billing.orders.place(
        OPERATOR, shop.site.member.id, plan="starter", cents=None, provider="manual"
    )
    await shop.buy("pro")
    with pytest.raises(Conflict) as refused:
        await shop.site.billing.orders.mark_paid(OPERATOR, placed.order.id)
    assert refused.value.code == "subscription_exists"
    assert await shop.site.tier() == "pro"


async def test_upgrade_after_a_scheduled_downgrade_is_charged_from_the_plan_in_force(shop: Shop) -> None:
    await shop.buy("pro")
    site, member = shop.site, shop.site.member.id
    await site.billing.subscriptions.change_plan(OPERATOR, member, "starter")
    found = await site.billing.subscriptions.change_plan(OPERATOR, member, "business")
    assert found.subscription is not None
    assert (found.subscription.plan, found.subscription.next_plan) == ("business", "")
    assert sorted(one.paid_cents for one in await shop.payments()) == [9900, 10_000]


async def test_upgrade_that_is_asked_for_twice_is_charged_once(shop: Shop) -> None:
    await shop.buy("starter")
    member, change = shop.site.member.id, shop.site.billing.subscriptions.change_plan
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(change, OPERATOR, member, "pro")
    assert sorted(one.paid_cents for one in await shop.payments()) == [2900, 7000]
    assert await shop.site.tier() == "pro"


async def test_declined_upgrade_keeps_the_scheduled_downgrade(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.buy("pro")
        member = shop.site.member.id
        await shop.site.billing.subscriptions.change_plan(OPERATOR, member, "starter")
        shop.stripe.declines = True
        with pytest.raises(Conflict) as refused:
            await shop.site.billing.subscriptions.change_plan(OPERATOR, member, "business")
        assert refused.value.code == "payment_declined"
        found = (await shop.site.billing.plans.own(member)).subscription
        assert found is not None
        assert (found.plan, found.next_plan) == ("pro", "starter")


async def test_dispute_takes_credit_back_and_gives_it_again_if_it_is_won(shop: Shop) -> None:
    await shop.buy(cents=2500)
    (payment,) = await shop.payments()
    for _ in range(2):
        shop.server.dispute(payment.provider_id)
        await shop.deliver()
        assert await shop.site.balance() == 0
        shop.server.dispute(payment.provider_id, "won")
        await shop.deliver()
        assert await shop.site.balance() == 25 * USD
    assert await shop.site.proven()
    kinds = await shop.site.events()
    assert (kinds.count("payment.refunded"), kinds.count("payment.restored")) == (2, 2)
    invoices = await shop.site.billing.invoices.list(shop.site.member.id, before=100, limit=9)
    assert [(one.title, one.row.total_cents) for one in reversed(invoices)] == [
        ("Invoice", 2500),
        *[("Credit note", -2500), ("Invoice", 2500)] * 2,
    ]
    assert {one.of_number for one in invoices[:-1]} == {invoices[-1].number}


async def test_won_dispute_of_a_plan_gives_its_included_credit_again(shop: Shop) -> None:
    await shop.buy("pro")
    (payment,) = await shop.payments()
    shop.server.dispute(payment.provider_id)
    await shop.deliver()
    assert await shop.site.balance() == 0
    shop.server.dispute(payment.provider_id, "won")
    shop.server.events.clear()  # the next reconciliation finds it
    await shop.site.billing.reconciliation.sync()
    assert (await shop.site.balance(), await shop.site.tier()) == (20 * USD, "pro")
    assert await shop.site.proven()


async def test_inquiry_before_a_dispute_takes_nothing_back(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.buy(cents=2500)
        (payment,) = await shop.payments()
        for status in ("warning_needs_response", "warning_closed"):
            shop.stripe.dispute(payment.provider_id, status)
            await shop.deliver()
            assert await shop.site.balance() == 25 * USD


async def test_customer_of_another_mode_is_skipped_and_replaced(shop: Shop) -> None:
    """The operator went from test keys to live keys."""
    await shop.buy("pro")
    await shop.order(cents=1000)
    site, member = shop.site, shop.site.member.id
    ends = site.clock.now + payment_server.MONTH * 1000
    for objects in (shop.server.customers, shop.server.checkouts, shop.server.subscriptions):
        objects.clear()
    await site.billing.reconciliation.refresh(member)
    assert (await site.tier(), len(await site.billing.orders.own_open(member))) == ("pro", 1)
    assert any(b"payment_customer_unknown" in line for line in site.lines)
    with pytest.raises(Exception, match="no subscription"):
        await site.billing.subscriptions.cancel(OPERATOR, member, cancel=True)
    site.clock.now = ends
    shop.server.now = ends // 1000
    await site.billing.reconciliation.settle_due()
    assert (await site.tier(), await site.billing.orders.own_open(member)) == ("free", [])
    await shop.buy("starter")
    assert await site.tier() == "starter"
    report = await site.billing.reconciliation.sync()
    assert (report.users, report.failed) == (1, 0)


async def test_subscription_comes_back_with_the_right_key(shop: Shop) -> None:
    await shop.buy("pro")
    site, member, known = shop.site, shop.site.member.id, dict(shop.server.customers)
    shop.server.customers.clear()
    await site.billing.reconciliation.sync()
    shop.server.customers |= known
    await site.billing.reconciliation.sync()
    found = (await site.billing.plans.own(member)).subscription
    assert found is not None
    assert (found.state, await site.tier(), await site.balance()) == ("active", "pro", 20 * USD)


async def test_product_that_the_provider_does_not_know_makes_no_new_customer(shop: Shop) -> None:
    await shop.buy(cents=1000)
    shop.server.unknown_products = True
    with pytest.raises(Conflict) as refused:
        await shop.order("pro")
    assert refused.value.code == "payment_object_unknown"
    assert len(shop.server.customers) == 1


@pytest.mark.parametrize("by", ["administrator", "provider"])
async def test_refund_of_a_deleted_user_is_recorded(shop: Shop, by: str) -> None:
    await shop.buy(cents=2500)
    site, member = shop.site, shop.site.member
    (payment,) = await shop.payments()
    await Users(site.store, clock=site.clock).delete(OPERATOR, member.id)
    if by == "administrator":
        await site.billing.payments.refund(OPERATOR, payment.id)
    else:
        shop.server.refund(payment.provider_id, 2500)
        shop.server.events *= 2
    await shop.deliver()
    (row,) = await shop.payments()
    assert (row.reversed_cents, await site.balance()) == (2500, 0)
    note, invoice = await site.billing.invoices.list(member.id, before=100, limit=9)
    assert (note.title, note.buyer, note.of_number) == ("Credit note", invoice.buyer, invoice.number)
    assert await site.proven()


async def test_manual_order_expires_or_is_canceled(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        site, orders, member = shop.site, shop.site.billing.orders, shop.site.member.id
        kept, old = [
            (await orders.place(OPERATOR, member, plan=None, cents=1000, provider="manual")).order
            for _ in range(2)
        ]
        other = user(9, "bob@example.com")
        with pytest.raises(Exception, match="no order with this id"):
            await orders.cancel(OPERATOR, kept.id, other.id)
        await orders.cancel(OPERATOR, kept.id, member)
        with pytest.raises(Conflict, match="already canceled"):
            await orders.cancel(OPERATOR, kept.id, member)
        lost = replace(old, id=uuid7(site.clock.now_ms()), provider="stripe", checkout_id="")  # after a crash
        await site.store.write(insert_order, lost)
        site.clock.now += 14 * DAY
        await site.billing.reconciliation.settle_due()
        assert {one.id for one in await orders.own_open(member)} == {old.id, lost.id}
        site.clock.now += 1
        await site.billing.reconciliation.settle_due()
        assert await orders.own_open(member) == []
        with pytest.raises(Conflict, match="already expired"):
            await orders.mark_paid(OPERATOR, old.id)


async def test_order_at_a_provider_is_canceled_if_it_can_no_longer_be_paid(shop: Shop) -> None:
    orders, member = shop.site.billing.orders, shop.site.member.id
    checkout = await shop.order(cents=2500)
    (order,) = await orders.own_open(member)
    if shop.name == "creem":
        with pytest.raises(Conflict) as refused:
            await orders.cancel(OPERATOR, order.id, member)
        assert refused.value.code == "order_not_cancelable"
        shop.server.pay(checkout)
        await shop.deliver()
        assert await shop.site.balance() == 25 * USD
    else:
        await orders.cancel(OPERATOR, order.id, member)
        assert shop.stripe.checkouts[checkout]["status"] == "expired"


async def test_refund_at_a_provider_that_is_not_configured_is_refused(shop: Shop) -> None:
    await shop.buy(cents=2500)
    (payment,) = await shop.payments()
    shop.site.context.providers = {}
    with pytest.raises(Unavailable, match="not configured"):
        await shop.site.billing.payments.refund(OPERATOR, payment.id)
    assert ((await shop.payments())[0].reversed_cents, await shop.site.balance()) == (0, 25 * USD)


async def test_order_is_either_canceled_or_marked_as_paid(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        orders, member = shop.site.billing.orders, shop.site.member.id
        order = (await orders.place(OPERATOR, member, plan=None, cents=1000, provider="manual")).order
        refused: list[Conflict] = []

        async def mark_paid() -> None:
            try:
                await orders.mark_paid(OPERATOR, order.id)
            except Conflict as exc:
                refused.append(exc)

        async with trio.open_nursery() as nursery, shop.site.context.lock(member):
            lock = shop.site.context._locks[member]
            nursery.start_soon(orders.cancel, OPERATOR, order.id, member)
            await eventually(lambda: lock.statistics().tasks_waiting == 1)
            nursery.start_soon(mark_paid)
            await eventually(lambda: lock.statistics().tasks_waiting == 2)
        assert [one.code for one in refused] == ["order_not_open"]
        assert await shop.site.balance() is None


async def test_manual_plan_that_is_canceled_while_it_is_paid_keeps_the_paid_period(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        orders, member = shop.site.billing.orders, shop.site.member.id
        first, second = [
            (await orders.place(OPERATOR, member, plan="pro", cents=None, provider="manual")).order.id
            for _ in range(2)
        ]
        await orders.mark_paid(OPERATOR, first)
        changes = shop.site.billing.subscriptions
        async with trio.open_nursery() as nursery, shop.site.context.lock(member):
            lock = shop.site.context._locks[member]
            nursery.start_soon(orders.mark_paid, OPERATOR, second)
            await eventually(lambda: lock.statistics().tasks_waiting == 1)
            nursery.start_soon(partial(changes.cancel, OPERATOR, member, cancel=True))
            await eventually(lambda: lock.statistics().tasks_waiting == 2)
        found = (await shop.site.billing.plans.own(member)).subscription
        assert found is not None
        assert found.cancel_at_end
        assert found.period_end > shop.site.clock.now + 50 * DAY


async def test_refund_of_a_manual_plan_ends_it(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        site, member = shop.site, shop.site.member.id
        placed = await site.billing.orders.place(OPERATOR, member, plan="pro", cents=None, provider="manual")
        await site.billing.orders.mark_paid(OPERATOR, placed.order.id)
        (payment,) = await shop.payments()
        await site.billing.payments.refund(OPERATOR, payment.id)
        assert (await site.tier(), await site.balance()) == ("free", 0)


async def test_subscription_that_is_refunded_and_ended_is_not_in_force(shop: Shop) -> None:
    """Creem says until when an ended subscription was paid."""
    await shop.buy("pro")
    (payment,) = await shop.payments()
    await shop.site.billing.payments.refund(OPERATOR, payment.id)
    assert await shop.site.tier() == "pro"
    await shop.site.billing.providers[shop.name].end_now(shop.server.last_subscription())
    await shop.deliver()
    await shop.site.billing.reconciliation.refresh(shop.site.member.id)
    assert (await shop.site.tier(), await shop.site.balance()) == ("free", 0)
