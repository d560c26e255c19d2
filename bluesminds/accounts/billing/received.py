"""What a payment buys: credit, or a period of a plan; and the reward for a referral."""

from collections.abc import Mapping
from dataclasses import replace

from bluesminds.accounts.billing.invoicing import issue_invoice
from bluesminds.accounts.billing.reversals import set_reversed
from bluesminds.accounts.billing.states import HOUR
from bluesminds.accounts.billing.work import CENT, CURRENCY, SettlementWork, payment_fields
from bluesminds.common.clock import format_time
from bluesminds.common.crypto import uuid7
from bluesminds.common.money import write_usd
from bluesminds.notify.events import new_event
from bluesminds.payments.port import PaymentState
from storage.billing import (
    OrderRow,
    PaymentRow,
    SubscriptionRow,
    put_payment,
    select_open_orders,
    select_provider_payment,
    set_order,
)
from storage.ledger import REVENUE, wallet_account
from storage.trials import select_referral, set_referral
from storage.users import select_user


async def find_subscriptions(work: SettlementWork) -> dict[str, OrderRow]:
    """Add new subscriptions. Returns the orders of all subscriptions, by the provider's id."""
    known = {
        row.provider_id: row for row in work.subscriptions.values() if row.provider == work.asked.provider
    }
    orders: dict[str, OrderRow] = {}
    for state in work.asked.state.subscriptions:
        row = known.get(state.id)
        order = await work.own_order(state.order_id if row is None else row.order_id)
        if order is None or not order.plan:
            continue
        orders[state.id] = order
        plan = work.rules.plans.of_product(work.asked.provider, state.product)
        if row is None and plan is not None and plan.name == order.plan:
            row = SubscriptionRow(
                id=uuid7(work.now),
                user_id=work.asked.user_id,
                provider=work.asked.provider,
                provider_id=state.id,
                order_id=order.id,
                plan=plan.name,
                state="incomplete",
                period_start=state.period_start,
                period_end=state.period_end,
                created_at=work.now,
            )
            work.subscriptions[row.id] = row
    return orders


async def pay(work: SettlementWork, payment: PaymentState, orders: Mapping[str, OrderRow]) -> None:
    row = await select_provider_payment(work.connection, work.asked.provider, payment.id)
    if row is None:
        mine = await select_open_orders(work.connection, work.asked.user_id) if payment.checkout else ()
        order = next((one for one in mine if _is_checkout(work, one, payment)), None)
        if order is None and payment.subscription:
            order = orders.get(payment.subscription)
        if order is None:
            return  # not sold by this gateway
        row = await _add_payment(work, payment, order)
    elif row.user_id != work.asked.user_id:
        return
    if payment.reversed_cents != row.reversed_cents:
        await set_reversed(work, row, payment.reversed_cents)


def _is_checkout(work: SettlementWork, order: OrderRow, payment: PaymentState) -> bool:
    return (
        order.checkout_id == payment.checkout
        and order.provider == work.asked.provider
        and bool(order.plan) == bool(payment.subscription)
    )


async def _add_payment(work: SettlementWork, payment: PaymentState, order: OrderRow) -> PaymentRow:
    """Store a new payment, and post what it buys. The first payment of a second subscription buys nothing; it
    is refunded.
    """
    subscription = work.subscription(payment.subscription) if payment.subscription else None
    is_renewal = subscription is not None and subscription.is_paid
    matches = payment.currency == CURRENCY and (
        is_renewal
        or (
            order.state in ("open", "expired")  # the provider says that it was paid
            and order.amount_cents in (payment.paid_cents, payment.paid_cents - payment.tax_cents)
            and (subscription is not None or not order.plan)
        )
    )
    is_duplicate = subscription is not None and not is_renewal and work.has_other(subscription)
    is_sold = matches and not is_duplicate
    row = PaymentRow(
        id=uuid7(work.now),
        user_id=work.asked.user_id,
        provider=work.asked.provider,
        provider_id=payment.id,
        order_id=order.id,
        subscription_id=subscription.id if subscription else "",
        title=_title(work, payment, order, subscription),
        currency=payment.currency,
        paid_cents=payment.paid_cents,
        tax_cents=payment.tax_cents,
        credit_nano=order.amount_cents * CENT if is_sold and not order.plan else 0,
        reversed_cents=0,
        state="duplicate" if is_duplicate else "paid" if matches else "refused",
        at=payment.at,
    )
    await put_payment(work.connection, row)
    if order.state in ("open", "expired"):
        await set_order(work.connection, replace(order, state="paid" if is_sold else "refused"))
    if not is_sold:
        work.refused.append(payment.id)
        reason = "duplicate" if is_duplicate else "mismatch"
        work.tell("payment.failed", {**payment_fields(row), "reason": reason})
        work.notes.append(f"payment {row.id} refused")
        return row
    source, key = f"payments:{row.provider}", f"{row.provider}:{payment.id}"
    if subscription is None:
        work.post("topup", key, source, wallet_account(row.user_id), row.credit_nano, row.id)
    else:
        work.subscriptions[subscription.id] = replace(subscription, is_paid=True)
        net = (row.paid_cents - row.tax_cents) * CENT
        work.post("subscription", key, source, REVENUE, net, row.id)
    work.tell("payment.succeeded", payment_fields(row))
    await issue_invoice(work, row, row.paid_cents, row.tax_cents)
    work.notes.append(f"payment {row.id}")
    await reward(work, row)
    return row


def _title(
    work: SettlementWork, payment: PaymentState, order: OrderRow, subscription: SubscriptionRow | None
) -> str:
    """What was paid: credit, or a plan. The period is known for the newest payment of a subscription."""
    if not order.plan:
        return "Credit"
    old = work.rules.plans.find(subscription.plan if subscription else order.plan)
    title = order.plan if old is None else old.title
    state = next((one for one in work.asked.state.subscriptions if one.id == payment.subscription), None)
    later = (one for one in work.asked.state.payments if one.subscription == payment.subscription)
    if state is None or subscription is None or payment.at < max(one.at for one in later):
        return title
    if payment.at < state.period_start - HOUR:
        return title
    new, start = work.rules.plans.of_product(work.asked.provider, state.product), state.period_start
    if new is not None and subscription.is_paid and start == subscription.period_start:
        start = payment.at  # an upgrade is paid for the rest of the period
    title = title if new is None else new.title
    return f"{title}, {format_time(start)[:10]} to {format_time(state.period_end)[:10]}"


async def reward(work: SettlementWork, payment: PaymentRow) -> None:
    """Reward both sides of a referral after the first payment that is large enough."""
    referral = await select_referral(work.connection, payment.user_id)
    net = payment.paid_cents - payment.tax_cents
    if referral is None or referral.payment_id or net <= 0 or net < work.rules.referral_min_cents:
        return
    earned = 0
    for user_id, nano in (
        (referral.user_id, work.rules.referred_nano),
        (referral.referrer_id, work.rules.referrer_nano),
    ):
        if nano and await select_user(work.connection, user_id) is not None:
            wallet, key = wallet_account(user_id), f"referral:{referral.user_id}:{user_id}"
            work.post("grant", key, "grants", wallet, nano, "Referral", user_id=user_id)
            data = {"amount_usd": write_usd(nano)}
            work.events.append(new_event(work.now, "referral.rewarded", user_id, data))
            earned = nano if user_id == referral.referrer_id else earned
    await set_referral(work.connection, replace(referral, payment_id=payment.id, earned_nano=earned))
