"""Stripe and Creem against servers with their formats: checkout, events, forged events, refunds, changes."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stripe
import trio

from bluesminds.accounts.audit import OPERATOR
from bluesminds.accounts.billing.orders import MAX_OPEN_ORDERS
from bluesminds.accounts.users import Users
from bluesminds.common.errors import Conflict, Unavailable
from bluesminds.payments.port import SignatureInvalid
from storage.billing import select_customer_user, select_due_users
from storage.users import insert_user, update_user
from tests.accounts.billing_sites import USD
from tests.accounts.payment_shops import Shop, open_shop, shop
from tests.accounts.test_billing_state_machine import everything
from tests.fakes import payment_server
from tests.fakes.payment_server import (
    SECRET,
    creem_signature,
    standard_signature,
    stripe_signature,
)
from tests.storage.conftest import postgres, postgres_url
from tests.storage.samples import NOON, user

__all__ = ["postgres", "postgres_url", "shop"]


async def test_checkout_that_is_paid_gives_plan_and_credit_once(shop: Shop) -> None:
    checkout = await shop.order("pro")
    assert await shop.site.tier() == shop.site.member.tier
    shop.server.pay(checkout, tax=1900)
    events = shop.server.events[:]
    await shop.deliver()
    assert (await shop.site.tier(), await shop.site.balance()) == ("pro", 20 * USD)
    shop.server.events[:] = events * 2
    await shop.deliver()
    assert await shop.site.balance() == 20 * USD
    proof = await shop.site.ledger.verify()
    assert (proof.problem, proof.sums["revenue"]) == (None, 99 * USD)
    assert [
        one.tax_cents
        for one in await shop.site.billing.payments.list(shop.site.member.id, before="", limit=5)
    ] == [1900]
    assert (await shop.site.events()).count("payment.succeeded") == 1


async def test_credit_event_hundred_times_in_parallel_is_posted_once(shop: Shop) -> None:
    shop.server.pay(await shop.order(cents=2500))
    headers, body = shop.server.events[-1]
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(shop.site.billing.reconciliation.handle, shop.name, headers, body)
    assert await shop.site.balance() == 25 * USD
    assert await shop.site.proven()


def altered(body: bytes) -> bytes:
    return body.replace(b"paid", b"Paid", 1) + b" "


@pytest.mark.parametrize("kind", ["forged", "empty", "altered", "missing", "old", "future"])
async def test_event_that_is_not_from_the_provider_is_refused(shop: Shop, kind: str) -> None:
    shop.server.pay(await shop.order(cents=2500))
    headers, body = shop.server.events[-1]
    now = NOON // 1000
    is_stripe = shop.name == "stripe"
    if kind in ("forged", "empty"):
        secret = "whsec_d3Jvbmc=" if kind == "forged" else ""
        headers = stripe_signature(body, now, secret) if is_stripe else creem_signature(body, secret)
    elif kind == "altered":
        body = altered(body)
    elif kind == "missing":
        headers = {}
    elif is_stripe:
        headers = stripe_signature(body, now + (301 if kind == "future" else -301))
    else:  # only the standard form has a time
        headers = standard_signature(body, now + (301 if kind == "future" else -301))
    with pytest.raises(SignatureInvalid):
        await shop.site.billing.reconciliation.handle(shop.name, headers, body)
    assert await shop.site.balance() is None
    assert shop.server.calls == 2  # customer and checkout: nothing is asked for an event that is refused


async def test_provider_with_an_empty_secret_refuses_every_event(shop: Shop) -> None:
    shop.server.pay(await shop.order(cents=2500))
    _, body = shop.server.events[-1]
    shop.site.billing.providers[shop.name]._secret = ""  # type: ignore[attr-defined]
    assert not shop.site.billing.providers[shop.name].has_webhook
    for headers in (stripe_signature(body, NOON // 1000, ""), creem_signature(body, ""), {}):
        with pytest.raises(SignatureInvalid):
            await shop.site.billing.reconciliation.handle(shop.name, headers, body)


async def test_event_about_an_order_of_the_other_provider_gives_nothing(shop: Shop) -> None:
    """The event is signed, but names an order that belongs to the other provider."""
    shop.server.pay(await shop.order(cents=2500))
    other = "creem" if shop.name == "stripe" else "stripe"
    order = json.loads(shop.server.events[-1][1])
    about = order["data"]["object"] if shop.name == "stripe" else order["object"]
    body = {"id": "evt_other", "created": 1, "created_at": 1, "type": "x", "eventType": "x"}
    foreign = {"metadata": about["metadata"], "customer": about["customer"]}
    content = json.dumps(body | {"data": {"object": foreign}, "object": foreign}).encode()
    signed = stripe_signature(content, NOON // 1000) if other == "stripe" else creem_signature(content)
    await shop.site.billing.reconciliation.handle(other, signed, content)
    assert await shop.site.balance() is None
    assert any(b"payment_event_ignored" in line for line in shop.site.lines)


async def test_signature_of_the_stripe_library_is_accepted(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        shop.server.pay(await shop.order(cents=2500))
        _, body = shop.server.events[-1]
        header = stripe.WebhookSignature.generate_signature_header(
            payload=body.decode(), secret=SECRET, timestamp=NOON // 1000 - 299
        )
        await shop.site.billing.reconciliation.handle(
            "stripe", {"stripe-signature": f"{header},v0=abc"}, body
        )
        assert await shop.site.balance() == 25 * USD


async def test_standard_signature_of_creem_is_accepted(tmp_path: Path) -> None:
    async with open_shop(tmp_path, "creem") as shop:
        shop.server.pay(await shop.order(cents=2500))
        _, body = shop.server.events[-1]
        await shop.site.billing.reconciliation.handle(
            "creem", standard_signature(body, NOON // 1000 + 299), body
        )
        assert await shop.site.balance() == 25 * USD


@pytest.mark.parametrize("wrong", [{"amount": 2499}, {"currency": "eur"}, {"amount": 0}])
async def test_payment_that_does_not_match_its_order_gives_nothing(shop: Shop, wrong: dict[str, Any]) -> None:
    shop.server.pay(await shop.order(cents=2500), **wrong)
    shop.server.pay(await shop.order("pro"), **wrong)
    await shop.deliver()
    assert (await shop.site.balance(), await shop.site.tier()) == (None, shop.site.member.tier)
    payments = await shop.site.billing.payments.list(shop.site.member.id, before="", limit=5)
    assert {one.state for one in payments} == {"refused"}
    assert any(b'"payment_refused"' in line for line in shop.site.lines)


async def test_lost_events_are_found_by_the_reconciliation(shop: Shop) -> None:
    await shop.buy("pro")
    shop.server.pay(await shop.order(cents=2500))
    shop.server.renew(shop.server.last_subscription())
    shop.server.events.clear()
    shop.site.clock.now = shop.server.now * 1000
    await shop.site.ledger.expire()
    report = await shop.site.billing.reconciliation.sync()
    assert (report.users, report.failed) == (1, 0)
    assert await shop.site.balance() == 45 * USD
    await shop.site.billing.reconciliation.sync()
    assert await shop.site.balance() == 45 * USD
    assert await shop.site.proven()


async def test_payment_with_another_address_is_found_without_its_event(shop: Shop) -> None:
    """Some providers make another customer for it."""
    for lost in (True, False):
        checkout = await shop.order(cents=2500)
        shop.server.customers[f"cust_other_{lost}"] = {"id": f"cust_other_{lost}"}
        shop.server.checkouts[checkout]["customer"] = f"cust_other_{lost}"
        shop.server.pay(checkout)
        if lost:
            shop.server.events.clear()
            await shop.site.billing.reconciliation.sync()
        await shop.deliver()
        assert await shop.site.balance() == (25 if lost else 50) * USD


async def test_customer_of_another_user_is_not_taken_over(tmp_path: Path) -> None:
    """Creem has one customer for an address, which may have belonged to another account."""
    async with open_shop(tmp_path, "creem") as shop:
        await shop.buy(cents=2500)
        other = user(9, "bob@example.com")
        await shop.site.store.write(insert_user, other)
        known = next(iter(shop.creem.customers))

        async def same(_: object) -> str:
            return known

        shop.site.billing.providers["creem"].create_customer = same  # type: ignore[method-assign]
        with pytest.raises(Conflict) as refused:
            await shop.site.billing.orders.place(OPERATOR, other.id, plan=None, cents=500, provider="creem")
        assert refused.value.code == "customer_taken"


async def test_events_in_any_order_leave_the_same_state(shop: Shop) -> None:
    await shop.buy("starter")
    await shop.site.billing.subscriptions.change_plan(OPERATOR, shop.site.member.id, "pro")
    shop.server.renew(shop.server.last_subscription())
    shop.server.pay(await shop.order(cents=2500))
    payment = (await shop.site.billing.payments.list(shop.site.member.id, before="", limit=1))[0]
    shop.server.refund(payment.provider_id, 700)
    shop.site.clock.now = shop.server.now * 1000
    events = shop.server.events * 2
    random.Random(7).shuffle(events)  # noqa: S311
    async with trio.open_nursery() as nursery:
        for headers, body in events:
            if shop.name == "stripe":
                headers = stripe_signature(body, shop.server.now)
            nursery.start_soon(shop.site.billing.reconciliation.handle, shop.name, headers, body)
    await shop.site.ledger.expire()
    assert (await shop.site.tier(), await shop.site.balance()) == ("pro", 45 * USD)
    assert await shop.site.proven()
    again = await shop.site.billing.payments.list(shop.site.member.id, before="", limit=10)
    assert sorted(one.paid_cents for one in again) == [2500, 2900, 7000, 9900]
    assert sum(one.reversed_cents for one in again) == 700


STRIPE_EVENTS = {
    "checkouts": (
        *("checkout.session.completed", "checkout.session.expired"),
        *("checkout.session.async_payment_succeeded", "checkout.session.async_payment_failed"),
    ),
    "invoices": (
        *("invoice.paid", "invoice.payment_failed", "invoice.payment_action_required", "invoice.created"),
    ),
    "subscriptions": (
        *("customer.subscription.created", "customer.subscription.updated", "customer.subscription.deleted"),
        *("customer.subscription.paused", "customer.subscription.resumed"),
        "customer.subscription.trial_will_end",
    ),
    "charges": ("charge.succeeded", "charge.refunded", "charge.updated"),
    "disputes": ("charge.dispute.created", "charge.dispute.updated", "charge.dispute.closed"),
    "customers": ("customer.created", "customer.updated", "customer.deleted"),
}
CREEM_EVENTS = {
    "checkouts": ("checkout.completed",),
    "subscriptions": (
        *("subscription.active", "subscription.paid", "subscription.trialing", "subscription.canceled"),
        *("subscription.scheduled_cancel", "subscription.expired", "subscription.past_due"),
        *("subscription.unpaid", "subscription.paused", "subscription.update"),
    ),
    "customers": (
        "credits.granted",
        "credits.consumed",
        "credits.auto_recharged",
        "customer_credits.exhausted",
    ),
}


async def test_every_kind_of_event_twice_and_in_parallel_leaves_the_same_state(shop: Shop) -> None:
    await shop.buy("pro")
    await shop.buy(cents=2500)
    payment = (await shop.payments())[0]
    shop.server.dispute(payment.provider_id, "won")
    await shop.deliver()
    before = await shop.site.store.read(everything)
    for objects, kinds in (STRIPE_EVENTS if shop.name == "stripe" else CREEM_EVENTS).items():
        about = next(iter(getattr(shop.server, objects).values()))
        for kind in kinds:
            named = {"id": "x", "customer_id": about["id"]} if "credits" in kind else about
            shop.server.event(kind, named)
    if shop.name == "creem":
        transaction = next(iter(shop.creem.transactions.values()))
        for kind in ("refund.created", "dispute.created"):
            shop.creem.event(kind, {"id": f"{kind}_1", "object": kind[:-8], "transaction": transaction})
    events = shop.server.events * 2
    random.Random(5).shuffle(events)  # noqa: S311
    async with trio.open_nursery() as nursery:
        for headers, body in events:
            nursery.start_soon(shop.site.billing.reconciliation.handle, shop.name, headers, body)
    assert await shop.site.store.read(everything) == before
    assert not any(b"payment_event_ignored" in line for line in shop.site.lines)


async def test_upgrade_is_in_force_at_once_and_downgrade_later(shop: Shop) -> None:
    await shop.buy("starter")
    member = shop.site.member.id
    await shop.site.billing.subscriptions.change_plan(OPERATOR, member, "pro")
    assert (await shop.site.tier(), await shop.site.balance()) == ("pro", 20 * USD)
    assert [one.title.partition(", ")[0] for one in await shop.payments()] == ["Pro", "Starter"]
    found = await shop.site.billing.subscriptions.change_plan(OPERATOR, member, "starter")
    assert found.subscription is not None
    assert (found.subscription.plan, found.subscription.next_plan) == ("pro", "starter")
    assert await shop.site.tier() == "pro"
    await shop.site.billing.subscriptions.change_plan(OPERATOR, member, "pro")
    again = await shop.site.billing.subscriptions.change_plan(OPERATOR, member, "starter")
    assert again.subscription is not None
    shop.server.renew(shop.server.last_subscription())
    shop.site.clock.now = shop.server.now * 1000
    await shop.site.billing.reconciliation.refresh(member)
    assert await shop.site.tier() == "starter"


async def test_canceled_subscription_ends_with_its_period(shop: Shop) -> None:
    await shop.buy("starter")
    await shop.site.billing.subscriptions.cancel(OPERATOR, shop.site.member.id, cancel=True)
    await shop.site.billing.subscriptions.cancel(OPERATOR, shop.site.member.id, cancel=False)
    await shop.site.billing.subscriptions.cancel(OPERATOR, shop.site.member.id, cancel=True)
    assert await shop.site.tier() == "starter"
    shop.server.renew(shop.server.last_subscription())
    shop.site.clock.now = shop.server.now * 1000 + 3_600_000
    await shop.site.billing.reconciliation.settle_due()
    assert await shop.site.tier() == "free"
    assert (await shop.site.events())[-1] == "subscription.canceled"


async def test_refund_takes_back_credit_and_included_revenue(shop: Shop) -> None:
    await shop.buy("starter")
    await shop.buy(cents=2500)
    for payment in await shop.site.billing.payments.list(shop.site.member.id, before="", limit=5):
        await shop.site.billing.payments.refund(OPERATOR, payment.id)
        await shop.site.billing.payments.refund(OPERATOR, payment.id)
    await shop.deliver()
    proof = await shop.site.ledger.verify()
    assert (proof.problem, await shop.site.balance()) == (None, 0)
    assert {name: sum_ for name, sum_ in proof.sums.items() if sum_} == {}


async def test_provider_that_is_down_makes_the_event_come_again(shop: Shop) -> None:
    """A crash between the payment and the grant is the same: nothing is stored for the event."""
    shop.server.pay(await shop.order(cents=2500))
    shop.server.down = True
    events = shop.server.events[:]
    with pytest.raises(Unavailable):
        await shop.deliver()
    shop.server.down, shop.server.events[:] = False, events
    await shop.deliver()
    assert await shop.site.balance() == 25 * USD


async def test_unit_that_fails_after_the_payment_stores_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.server.pay(await shop.order("pro"))
    events = shop.server.events[:]

    async def crash(*_: object) -> None:
        raise RuntimeError("crash")

    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr("bluesminds.accounts.billing.settlement.put_subscription", crash)
        await shop.deliver()
    assert await shop.site.billing.payments.list(shop.site.member.id, before="", limit=5) == []
    shop.server.events[:] = events
    await shop.deliver()
    assert (await shop.site.tier(), await shop.site.balance()) == ("pro", 20 * USD)


async def test_portal_is_that_of_the_provider(shop: Shop) -> None:
    await shop.buy(cents=2500)
    assert (await shop.site.billing.subscriptions.portal(shop.site.member.id)).startswith("https://")


async def test_unpaid_stripe_subscription_ends_after_the_grace(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.buy("pro")
        shop.server.fail(shop.server.last_subscription())
        shop.site.clock.now = shop.server.now * 1000
        await shop.site.billing.reconciliation.sync()
        assert (await shop.site.tier(), await shop.site.events()) == (
            "pro",
            [
                *("payment.succeeded", "invoice.created", "subscription.created"),
                *("payment.failed", "subscription.past_due"),
            ],
        )
        shop.site.clock.now += 7 * 86_400_000
        await shop.site.billing.reconciliation.settle_due()
        assert await shop.site.tier() == "free"
        shop.server.recover(shop.server.last_subscription())
        await shop.site.billing.reconciliation.sync()
        await shop.site.ledger.expire()
        assert (await shop.site.tier(), await shop.site.balance()) == ("pro", 20 * USD)


async def test_account_with_a_subscription_is_not_deleted(shop: Shop) -> None:
    """Its provider would continue to charge."""
    await shop.buy("starter")
    users, member = Users(shop.site.store, clock=shop.site.clock), shop.site.member
    with pytest.raises(Conflict) as refused:
        await users.delete(OPERATOR, member.id)
    assert refused.value.code == "subscription_active"
    await shop.site.billing.subscriptions.cancel(OPERATOR, member.id, cancel=True)
    await users.delete(OPERATOR, member.id)
    shop.server.events.clear()
    shop.server.renew(shop.server.last_subscription())
    shop.site.clock.now = shop.server.now * 1000
    await shop.deliver()
    assert await shop.site.proven()


async def test_deleted_account_is_not_asked_about_and_frees_its_customer(shop: Shop) -> None:
    site, member = shop.site, shop.site.member
    await shop.buy("starter")
    await site.billing.subscriptions.cancel(OPERATOR, member.id, cancel=True)
    await Users(site.store, clock=site.clock).delete(OPERATOR, member.id)
    shop.server.events.clear()
    shop.server.renew(shop.server.last_subscription())
    site.clock.now = shop.server.now * 1000
    await shop.deliver()
    site.clock.now += 7_200_000
    calls = shop.server.calls
    await site.billing.reconciliation.settle_due()
    report = await site.billing.reconciliation.sync()
    assert (shop.server.calls, report.users) == (calls, 0)
    assert await site.billing.plans.subscribers() == {}
    assert await site.store.read(select_due_users, site.clock.now, 10) == []
    customer = next(iter(shop.server.customers))
    assert await site.store.read(select_customer_user, shop.name, customer) is None


async def test_order_whose_checkout_fails_does_not_stay_open(shop: Shop) -> None:
    shop.server.down = True
    for _ in range(MAX_OPEN_ORDERS + 1):
        with pytest.raises(Unavailable) as failed:
            await shop.order(cents=2500)
        assert failed.value.code == "payment_provider_unavailable"
    assert await shop.site.billing.orders.open(after="", limit=100) == []
    shop.server.down = False
    await shop.buy(cents=2500)
    assert await shop.site.balance() == 25 * USD


async def test_upgrade_at_the_end_of_a_period_gives_credit_for_the_rest_of_it(shop: Shop) -> None:
    await shop.buy("starter")
    site, member = shop.site, shop.site.member.id
    start = site.clock.now
    site.clock.now = start + payment_server.MONTH * 1000 * 9 // 10
    await site.billing.subscriptions.change_plan(OPERATOR, member, "pro")
    await site.billing.reconciliation.refresh(member)
    assert (await site.tier(), await site.balance()) == ("pro", 2 * USD)
    shop.server.renew(shop.server.last_subscription())
    site.clock.now = shop.server.now * 1000
    await site.billing.reconciliation.refresh(member)
    await site.ledger.expire()
    assert await site.balance() == 20 * USD
    assert await site.proven()


async def test_refund_of_a_plan_ends_what_is_left_of_its_included_credit(shop: Shop) -> None:
    await shop.buy("pro")
    await shop.buy(cents=2500)
    payments = await shop.site.billing.payments.list(shop.site.member.id, before="", limit=5)
    (plan,) = [one for one in payments if one.subscription_id]
    for _ in range(2):
        await shop.site.billing.payments.refund(OPERATOR, plan.id)
    await shop.deliver()
    assert await shop.site.balance() == 25 * USD
    assert await shop.site.proven()


async def test_upgrade_whose_payment_is_declined_changes_nothing(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.buy("starter")
        shop.stripe.declines = True
        with pytest.raises(Conflict) as refused:
            await shop.site.billing.subscriptions.change_plan(OPERATOR, shop.site.member.id, "pro")
        assert refused.value.code == "payment_declined"
        await shop.site.billing.reconciliation.refresh(shop.site.member.id)
        assert (await shop.site.tier(), await shop.site.balance()) == ("starter", None)


@pytest.mark.process
async def test_everything_on_postgres_is_as_on_sqlite(tmp_path: Path, postgres_url: str) -> None:
    async with open_shop(tmp_path, url=postgres_url) as shop:
        site, member = shop.site, shop.site.member
        friend = replace(user(9, "bob@example.com"), email_verified_at=1)
        await site.store.write(insert_user, friend)
        await site.store.write(update_user, replace(member, email_verified_at=1))
        await site.billing.trials.start(OPERATOR, member.id)
        code = (await site.billing.referrals.own(friend.id)).code
        await site.billing.referrals.use(OPERATOR, member.id, code)
        await shop.buy("starter")
        await site.billing.subscriptions.change_plan(OPERATOR, member.id, "pro")
        await shop.buy(cents=2500)
        await site.billing.subscriptions.cancel(OPERATOR, member.id, cancel=True)
        assert (await site.tier(), await site.balance()) == ("pro", (10 + 4 + 20 + 25) * USD)
        assert await site.balance(friend.id) == 5 * USD
        payment = (await site.billing.payments.list(member.id, before="", limit=1))[0]
        await site.billing.payments.refund(OPERATOR, payment.id)
        await site.billing.invoices.set_details(member.id, ["Example Ltd"])
        assert [one.title for one in await site.billing.invoices.list(member.id, before=100, limit=9)] == [
            "Credit note",
            *["Invoice"] * 3,
        ]
        shop.stripe.renew(shop.stripe.last_subscription())
        site.clock.now = shop.stripe.now * 1000 + 3_600_000
        await site.billing.reconciliation.settle_due()
        await site.billing.trials.settle_due()
        report = await site.billing.reconciliation.sync()
        assert (report.users, report.failed, await site.tier()) == (1, 0, "free")
        assert await site.billing.plans.subscribers() == {}
        await site.ledger.expire()
        assert await site.proven()
