"""Plans and credit that an administrator marks as paid: states, dunning, ledger."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from bluesminds.accounts.audit import OPERATOR
from bluesminds.accounts.billing.plans import period_end
from bluesminds.common.clock import format_time
from bluesminds.common.errors import Conflict, GatewayError, NotFound
from storage.billing import SubscriptionRow
from tests.accounts.billing_sites import DAY, USD, BillingSite, billing_site
from tests.storage.samples import NOON


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[BillingSite]:
    async with billing_site(tmp_path) as found:
        yield found


async def buy(site: BillingSite, plan: str | None = None, cents: int | None = None) -> None:
    placed = await site.billing.orders.place(OPERATOR, site.member.id, plan=plan, cents=cents, provider=None)
    assert placed.url == ""
    assert (await site.billing.orders.mark_paid(OPERATOR, placed.order.id)).state == "paid"


async def subscription(site: BillingSite) -> SubscriptionRow:
    found = (await site.billing.plans.own(site.member.id)).subscription
    assert found is not None
    return found


async def test_plan_marked_as_paid_gives_tier_and_credit_once(site: BillingSite) -> None:
    placed = await site.billing.orders.place(
        OPERATOR, site.member.id, plan="pro", cents=None, provider="manual"
    )
    assert await site.tier() == site.member.tier

    async def pay() -> None:
        try:
            await site.billing.orders.mark_paid(OPERATOR, placed.order.id)
        except Conflict as exc:
            assert exc.code == "order_not_open"

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(pay)
    assert (await site.tier(), await site.balance(), site.changes) == ("pro", 20 * USD, [1])
    proof = await site.ledger.verify()
    assert proof.problem is None
    assert proof.sums["payments:manual"] == -99 * USD
    assert proof.sums["revenue"] == 99 * USD
    assert await site.events() == ["payment.succeeded", "invoice.created", "subscription.created"]


async def test_plan_without_included_credit_makes_no_wallet(site: BillingSite) -> None:
    """The account is still not charged, or its requests would be rejected."""
    await buy(site, "starter")
    assert (await site.tier(), await site.balance()) == ("starter", None)
    assert await site.proven()


async def test_unpaid_period_is_reminded_and_ends_after_the_grace(site: BillingSite) -> None:
    await buy(site, "pro")
    ends = (await subscription(site)).period_end
    site.clock.now = ends
    await site.billing.reconciliation.settle_due()
    assert ((await subscription(site)).state, await site.tier()) == ("past_due", "pro")
    for day in range(1, 8):
        assert await site.tier() == "pro"
        site.clock.now = ends + day * DAY
        await site.billing.reconciliation.settle_due()
        await site.billing.reconciliation.settle_due()
    assert (await site.tier(), (await site.billing.plans.own(site.member.id)).subscription) == ("free", None)
    assert '"until":"' + format_time(ends + 7 * DAY) in await site.data_of("subscription.past_due")
    kinds = await site.events()
    assert kinds.count("subscription.past_due") == 4
    assert kinds[-1] == "subscription.canceled"
    await site.ledger.expire()
    assert await site.balance() == 0
    assert await site.proven()


async def test_renewal_in_the_grace_period_continues_the_period(site: BillingSite) -> None:
    await buy(site, "pro")
    first = await subscription(site)
    site.clock.now = first.period_end + 3 * DAY
    await site.billing.reconciliation.settle_due()
    await buy(site, "pro")
    second = await subscription(site)
    assert (second.id, second.state, second.period_start) == (first.id, "active", first.period_end)
    await site.ledger.expire()
    assert await site.balance() == 20 * USD
    assert "subscription.updated" in await site.events()


async def test_canceled_plan_is_in_force_until_its_period_ends(site: BillingSite) -> None:
    await buy(site, "starter")
    await site.billing.subscriptions.cancel(OPERATOR, site.member.id, cancel=True)
    await site.billing.subscriptions.cancel(OPERATOR, site.member.id, cancel=False)
    await site.billing.subscriptions.cancel(OPERATOR, site.member.id, cancel=True)
    row = await subscription(site)
    assert (row.cancel_at_end, await site.tier()) == (True, "starter")
    site.clock.now = row.period_end - 1
    await site.billing.reconciliation.settle_due()
    assert await site.tier() == "starter"
    site.clock.now += 1
    await site.billing.reconciliation.settle_due()
    assert await site.tier() == "free"
    with pytest.raises(NotFound):
        await site.billing.subscriptions.cancel(OPERATOR, site.member.id, cancel=False)


async def test_dearer_plan_replaces_the_other(site: BillingSite) -> None:
    await buy(site, "starter")
    await buy(site, "pro")
    assert ((await subscription(site)).plan, await site.tier()) == ("pro", "pro")


async def test_tier_of_an_administrator_stays_until_a_subscription_changes(site: BillingSite) -> None:
    from_admin = "UPDATE users SET tier = 'enterprise'"
    await site.store.write(lambda connection: connection.execute(from_admin))
    await site.billing.reconciliation.refresh(site.member.id)
    assert await site.tier() == "enterprise"
    await buy(site, "starter")
    assert await site.tier() == "starter"


async def test_credit_marked_as_paid_can_be_refunded_once(site: BillingSite) -> None:
    await buy(site, cents=1250)
    assert await site.balance() == 12 * USD + USD // 2
    (payment,) = await site.billing.payments.list(site.member.id, before="", limit=10)
    await site.billing.payments.refund(OPERATOR, payment.id)
    again = await site.billing.payments.refund(OPERATOR, payment.id)
    assert (again.reversed_cents, await site.balance()) == (1250, 0)
    assert await site.proven()


@pytest.mark.parametrize(
    ("plan", "cents", "code"),
    [
        ("free", None, "plan_not_sold"),
        ("none", None, "plan_not_found"),
        (None, 499, "invalid_value"),
        (None, 50_001, "invalid_value"),
        (None, None, "invalid_value"),
        ("pro", 500, "invalid_value"),
    ],
)
async def test_order_that_is_not_sold_is_refused(
    site: BillingSite, plan: str | None, cents: int | None, code: str
) -> None:
    with pytest.raises(GatewayError) as refused:
        await site.billing.orders.place(OPERATOR, site.member.id, plan=plan, cents=cents, provider=None)
    assert refused.value.code == code


async def test_plan_without_overage_refuses_to_sell_credit(site: BillingSite) -> None:
    await buy(site, "fixed")
    with pytest.raises(Conflict) as refused:
        await buy(site, cents=1000)
    assert refused.value.code == "topup_not_allowed"


def test_period_end_in_a_shorter_month_is_its_last_day() -> None:
    january = 1_769_860_800_000  # 2026-01-31T12:00:00Z
    assert period_end(january, "month") == january + 28 * DAY
    assert period_end(january, "year") == january + 365 * DAY
    assert period_end(NOON + 7, "month") % 1000 == 7
