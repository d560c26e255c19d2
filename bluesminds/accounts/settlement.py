"""The unit of work that brings an account to the state at a payment provider.

Orders, subscriptions, payments, ledger, tier, audit log and events change in one transaction. The unit is
idempotent: the same state again changes nothing. A payment counts only if it belongs to an order of the same
account and provider, in USD, and if its amount is that of the order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from msgspec import Struct, json

from bluesminds.accounts.audit import Actor, entry
from bluesminds.accounts.invoices import write_number
from bluesminds.accounts.ledger import CreditMoves
from bluesminds.accounts.plans import BillingPlan, PlanBook
from bluesminds.accounts.subscription_states import (
    HOUR,
    DunningPolicy,
    advanced,
    at_time,
    is_in_force,
    next_due,
)
from bluesminds.common.clock import Clock, format_time
from bluesminds.common.crypto import uuid7
from bluesminds.common.money import write_usd
from bluesminds.notify.events import EventKind, new_event
from bluesminds.payments.port import CustomerState, PaymentState, SubscriptionState
from storage.audit import insert_audit, lock_audit_head
from storage.base import Connection
from storage.billing import (
    OrderRow,
    PaymentRow,
    SubscriptionRow,
    insert_billing_event,
    put_payment,
    put_subscription,
    select_open_orders,
    select_order,
    select_provider_payment,
    select_subscriptions,
    set_order,
)
from storage.events import EventRow, insert_events
from storage.invoices import (
    InvoiceRow,
    insert_invoice,
    next_invoice_number,
    select_buyer,
    select_payment_invoice,
)
from storage.ledger import (
    REVENUE,
    EntryKind,
    LedgerRow,
    WalletRow,
    lock_ledger_head,
    post,
    select_wallet,
    wallet_account,
)
from storage.trials import select_referral, set_referral
from storage.users import UserRow, select_user, update_user

CENT: Final = 10**7  # nano-USD
CURRENCY: Final = "usd"
GATEWAY: Final = Actor(name="gateway", address="local")


class BillingRules(Struct, frozen=True):
    """`free_tier`: of accounts without a plan in force. `seller`: lines of each invoice. `invoice_prefix`: of
    its number. `referrer_nano` and `referred_nano`: rewards for the first payment of an invited user that is
    at least `referral_min_cents` without tax.
    """

    plans: PlanBook
    dunning: DunningPolicy
    free_tier: str
    seller: Sequence[str] = ()
    invoice_prefix: str = ""
    referrer_nano: int = 0
    referred_nano: int = 0
    referral_min_cents: int = 0


class Settlement(Struct, frozen=True):
    """What to bring an account to. `event`: id and kind of the event that led here; it is handled once."""

    user_id: str
    provider: str
    state: CustomerState
    event: tuple[str, str] | None = None
    actor: Actor = GATEWAY


class Settled(Struct, frozen=True):
    """`tier_changed`: cached keys of the account are outdated. `refused`: the provider's ids of payments that
    do not match their order.
    """

    tier_changed: bool = False
    refused: Sequence[str] = ()


@dataclass
class _Work:
    """The changes of one settlement."""

    connection: Connection
    asked: Settlement
    rules: BillingRules
    clock: Clock
    now: int
    subscriptions: dict[str, SubscriptionRow]
    entries: list[tuple[LedgerRow, int | None]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    events: list[EventRow] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def tell(self, kind: EventKind, data: Mapping[str, object]) -> None:
        self.events.append(new_event(self.now, kind, self.asked.user_id, data))

    def post(
        self,
        kind: EntryKind,
        key: str,
        debit: str,
        credit: str,
        nano: int,
        reference: str,
        ends_at: int | None = None,
        user_id: str | None = None,
    ) -> None:
        if nano > 0:
            detail = {} if ends_at is None else {"ends_at": ends_at}
            row = LedgerRow(
                id=f"{kind}:{key}",
                at=self.now,
                kind=kind,
                debit=debit,
                credit=credit,
                amount_nano=nano,
                user_id=user_id or self.asked.user_id,
                reference=reference,
                detail=json.encode(detail).decode(),
            )
            self.entries.append((row, ends_at))


async def settle(
    connection: Connection, asked: Settlement, rules: BillingRules, clock: Clock
) -> tuple[Settled, CreditMoves]:
    await lock_audit_head(connection)
    await lock_ledger_head(connection)
    now = clock.now_ms()
    if asked.event is not None and not await insert_billing_event(
        connection, asked.provider, *asked.event, now
    ):
        return Settled(), {}
    user = await select_user(connection, asked.user_id)
    if user is None:
        return Settled(), {}
    before = {row.id: row for row in await select_subscriptions(connection, asked.user_id)}
    work = _Work(connection, asked, rules, clock, now, dict(before))
    orders = await _find_subscriptions(work)
    for payment in sorted(asked.state.payments, key=lambda one: (one.at, one.id)):
        await _pay(work, payment, orders)
    for state in asked.state.subscriptions:
        _advance(work, state)
    await _expire_orders(work)
    for row in list(work.subscriptions.values()):
        work.subscriptions[row.id] = _at_time(work, row)
    tier = _new_tier(work, before, user)
    moves = await _store(work, before, user, tier)
    return Settled(tier != user.tier, work.refused), moves


async def _find_subscriptions(work: _Work) -> dict[str, OrderRow]:
    """Add new subscriptions. Returns the orders of all subscriptions, by the provider's id."""
    known = {
        row.provider_id: row for row in work.subscriptions.values() if row.provider == work.asked.provider
    }
    orders: dict[str, OrderRow] = {}
    for state in work.asked.state.subscriptions:
        row = known.get(state.id)
        order = await _own_order(work, state.order_id if row is None else row.order_id)
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


async def _own_order(work: _Work, order_id: str) -> OrderRow | None:
    """The order, if it is of this account and provider."""
    order = await select_order(work.connection, order_id) if order_id else None
    if order is None or (order.user_id, order.provider) != (work.asked.user_id, work.asked.provider):
        return None
    return order


def _subscription_of(work: _Work, provider_id: str) -> SubscriptionRow | None:
    for row in work.subscriptions.values():
        if (row.provider, row.provider_id) == (work.asked.provider, provider_id):
            return row
    return None


async def _pay(work: _Work, payment: PaymentState, orders: Mapping[str, OrderRow]) -> None:
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
    if payment.reversed_cents > row.reversed_cents:
        await _reverse(work, row, payment.reversed_cents)


def _is_checkout(work: _Work, order: OrderRow, payment: PaymentState) -> bool:
    return (
        order.checkout_id == payment.checkout
        and order.provider == work.asked.provider
        and bool(order.plan) == bool(payment.subscription)
    )


async def _add_payment(work: _Work, payment: PaymentState, order: OrderRow) -> PaymentRow:
    """Store a new payment, and post what it buys."""
    subscription = _subscription_of(work, payment.subscription) if payment.subscription else None
    is_renewal = subscription is not None and subscription.is_paid
    matches = payment.currency == CURRENCY and (
        is_renewal
        or (
            order.state == "open"
            and order.amount_cents in (payment.paid_cents, payment.paid_cents - payment.tax_cents)
            and (subscription is not None or not order.plan)
        )
    )
    plan = work.rules.plans.find(subscription.plan if subscription else order.plan)
    row = PaymentRow(
        id=uuid7(work.now),
        user_id=work.asked.user_id,
        provider=work.asked.provider,
        provider_id=payment.id,
        order_id=order.id,
        subscription_id=subscription.id if subscription else "",
        title=plan.title if plan is not None else order.plan or "Credit",
        currency=payment.currency,
        paid_cents=payment.paid_cents,
        tax_cents=payment.tax_cents,
        credit_nano=order.amount_cents * CENT if matches and not order.plan else 0,
        reversed_cents=0,
        state="paid" if matches else "refused",
        at=payment.at,
    )
    await put_payment(work.connection, row)
    if order.state == "open":
        await set_order(work.connection, replace(order, state=row.state))
    if not matches:
        work.refused.append(payment.id)
        work.tell("payment.failed", {**_payment_fields(row), "reason": "mismatch"})
        work.notes.append(f"payment {row.id} refused")
        return row
    source, key = f"payments:{row.provider}", f"{row.provider}:{payment.id}"
    if subscription is None:
        work.post("topup", key, source, wallet_account(row.user_id), row.credit_nano, row.id)
    else:
        work.subscriptions[subscription.id] = replace(subscription, is_paid=True)
        net = (row.paid_cents - row.tax_cents) * CENT
        work.post("subscription", key, source, REVENUE, net, row.id)
    work.tell("payment.succeeded", _payment_fields(row))
    await _invoice(work, row, row.paid_cents, row.tax_cents)
    work.notes.append(f"payment {row.id}")
    await _reward(work, row)
    return row


async def _reward(work: _Work, payment: PaymentRow) -> None:
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


async def _end_reward(work: _Work, payment: PaymentRow) -> None:
    """The first payment was refunded in full: what is left of the rewards ends."""
    referral = await select_referral(work.connection, payment.user_id)
    if referral is None or referral.payment_id != payment.id:
        return
    for user_id in (referral.user_id, referral.referrer_id):
        id_ = f"grant:referral:{referral.user_id}:{user_id}"
        wallet = await select_wallet(work.connection, user_id)
        left = next((one.left_nano for one in wallet.grants if one.id == id_), 0) if wallet else 0
        work.post("expiry", id_, wallet_account(user_id), "expired", left, id_, user_id=user_id)
    await set_referral(work.connection, replace(referral, earned_nano=0))


def _payment_fields(row: PaymentRow) -> Mapping[str, object]:
    return {
        "payment": row.id,
        "provider": row.provider,
        "title": row.title,
        "amount": _amount(row.paid_cents),
        "currency": row.currency,
    }


async def _invoice(work: _Work, payment: PaymentRow, total_cents: int, tax_cents: int) -> None:
    """Issue an invoice, or a credit note for a negative total."""
    first = await select_payment_invoice(work.connection, payment.id)
    row = InvoiceRow(
        number=await next_invoice_number(work.connection),
        id=uuid7(work.now),
        user_id=payment.user_id,
        payment_id=payment.id,
        of_number=None if first is None else first.number,
        issued_at=work.now,
        title=payment.title,
        currency=payment.currency,
        total_cents=total_cents,
        tax_cents=tax_cents,
        seller=json.encode(work.rules.seller).decode(),
        buyer=json.encode(await select_buyer(work.connection, payment.user_id)).decode(),
    )
    await insert_invoice(work.connection, row)
    data = {
        "invoice": row.id,
        "kind": "invoice" if row.of_number is None else "credit_note",
        "number": write_number(work.rules.invoice_prefix, row.number),
        "total_cents": total_cents,
        "currency": row.currency,
    }
    work.tell("invoice.created", data)


def _amount(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02}"


async def _reverse(work: _Work, row: PaymentRow, reversed_cents: int) -> None:
    """Take back what a refunded or disputed payment has bought, in proportion."""
    key = f"{row.provider}:{row.provider_id}:{reversed_cents}"
    target = f"payments:{row.provider}"
    if row.subscription_id:
        net = row.paid_cents - row.tax_cents
        parts = [net * cents // row.paid_cents * CENT for cents in (row.reversed_cents, reversed_cents)]
        source = REVENUE
    else:
        parts = [row.credit_nano * cents // row.paid_cents for cents in (row.reversed_cents, reversed_cents)]
        source = wallet_account(row.user_id)
    if row.state == "paid":
        tax = [row.tax_cents * cents // row.paid_cents for cents in (row.reversed_cents, reversed_cents)]
        await _invoice(work, row, row.reversed_cents - reversed_cents, tax[0] - tax[1])
        work.post("payment_refund", key, source, target, parts[1] - parts[0], row.id)
    await put_payment(work.connection, replace(row, reversed_cents=reversed_cents))
    work.tell("payment.refunded", {**_payment_fields(row), "refunded": _amount(reversed_cents)})
    work.notes.append(f"payment {row.id} refunded")
    if reversed_cents >= row.paid_cents and row.state == "paid":
        await _end_reward(work, row)
        await _end_included(work, row)


async def _end_included(work: _Work, payment: PaymentRow) -> None:
    """The payment of the current period was reversed in full: what is left of its included credit ends."""
    row = work.subscriptions.get(payment.subscription_id)
    if row is None or payment.at < row.period_start - HOUR:
        return
    wallet = await select_wallet(work.connection, payment.user_id)
    for one in wallet.grants if wallet else ():
        if one.id.startswith(f"grant:plan:{row.id}:{row.period_start}:"):
            account = wallet_account(payment.user_id)
            work.post("expiry", one.id, account, "expired", one.left_nano, one.id)


def _advance(work: _Work, state: SubscriptionState) -> None:
    row = _subscription_of(work, state.id)
    new = work.rules.plans.of_product(work.asked.provider, state.product)
    if row is None or new is None:
        return
    before, row = row, advanced(row, state, work.rules.plans.find(row.plan), new, work.now)
    plan = work.rules.plans.find(row.plan)
    if plan is not None and before.is_paid and before.plan != row.plan:
        row = replace(row, granted_nano=_not_included(before, row, plan, work.now))
    if plan is not None and row.state == "active" and state.paid and plan.included_nano > row.granted_nano:
        work.post(
            "grant",
            f"plan:{row.id}:{row.period_start}:{row.plan}",
            "grants",
            wallet_account(row.user_id),
            plan.included_nano - row.granted_nano,
            plan.title,
            ends_at=row.period_end,
        )
        row = replace(row, granted_nano=plan.included_nano)
    work.subscriptions[row.id] = row


def _not_included(before: SubscriptionRow, row: SubscriptionRow, plan: BillingPlan, now: int) -> int:
    """How much of the included credit is not granted after a change of the plan: a change inside a period is
    paid for the rest of the period, and gives credit for the rest of it.
    """
    length, more = row.period_end - row.period_start, plan.included_nano - row.granted_nano
    if row.period_start > before.period_start or length <= 0 or more <= 0:
        return row.granted_nano
    left = min(max(row.period_end - now, 0), length)
    return plan.included_nano - more * left // length


async def _expire_orders(work: _Work) -> None:
    if not work.asked.state.expired:
        return
    for order in await select_open_orders(work.connection, work.asked.user_id):
        is_expired = order.checkout_id in work.asked.state.expired
        if is_expired and order.provider == work.asked.provider:
            await set_order(work.connection, replace(order, state="expired"))


def _at_time(work: _Work, row: SubscriptionRow) -> SubscriptionRow:
    policy = work.rules.dunning
    row = at_time(row, work.now, policy)
    plan = work.rules.plans.find(row.plan)
    in_force = is_in_force(row, work.now, policy)
    known = row.tier if plan is None else plan.tier  # a plan that was removed stays as it was
    tier = known if in_force else None
    return replace(row, tier=tier, due_at=next_due(row, work.now, policy))


def _new_tier(work: _Work, before: Mapping[str, SubscriptionRow], user: UserRow) -> str | None:
    """A tier that an administrator gave stays until a subscription changes."""
    if {row.id: row.tier for row in before.values() if row.tier} == {
        row.id: row.tier for row in work.subscriptions.values() if row.tier
    }:
        return user.tier
    found = [
        (plan.price_cents if plan is not None else 0, row.tier)
        for row in work.subscriptions.values()
        if row.tier
        for plan in (work.rules.plans.find(row.plan),)
    ]
    return max(found)[1] if found else work.rules.free_tier


async def _store(
    work: _Work, before: Mapping[str, SubscriptionRow], user: UserRow, tier: str | None
) -> CreditMoves:
    changed = [row for row in work.subscriptions.values() if row != before.get(row.id)]
    for row in changed:
        _report(work, before.get(row.id), row)
    if work.notes or tier != user.tier:
        after = {"tier": tier, "changes": "; ".join(work.notes)}
        audit = entry(
            work.clock, work.asked.actor, "billing.settle", user.id, before={"tier": user.tier}, after=after
        )
        await insert_audit(work.connection, audit)
    for row in changed:
        await put_subscription(work.connection, row)
    if tier != user.tier:
        await update_user(work.connection, replace(user, tier=tier))
    await insert_events(work.connection, work.events)
    return await _post_all(work)


async def _post_all(work: _Work) -> CreditMoves:
    if not work.entries:
        return {}
    before = {row.user_id: await select_wallet(work.connection, row.user_id) for row, _ in work.entries}
    after: dict[str, WalletRow] = {}
    for row, ends_at in work.entries:
        after |= await post(work.connection, [row], ends_at=ends_at)
    moves = {}
    for user_id, wallet in after.items():
        start = before[user_id]
        moves[user_id] = wallet.balance_nano - (start.balance_nano if start else 0), wallet.revision
    return moves


def _report(work: _Work, old: SubscriptionRow | None, new: SubscriptionRow) -> None:
    """Events and audit notes about a change of a subscription."""

    def happened(kind: EventKind, change: str, **more: object) -> None:
        fields = {"subscription": new.id, "plan": new.plan, "period_end": format_time(new.period_end)}
        work.tell(kind, fields | {"change": change} | more)
        work.notes.append(f"subscription {new.id} {change} {new.plan}")

    was_tier = None if old is None else old.tier
    if new.tier and not was_tier and (old is None or old.state == "incomplete"):
        happened("subscription.created", "started")
    if old is None:
        return
    if old.plan != new.plan:
        happened("subscription.updated", "changed", plan_before=old.plan)
    elif new.period_start > old.period_start and new.state == "active":
        happened("subscription.updated", "renewed")
    if new.next_plan and new.next_plan != old.next_plan:
        happened("subscription.updated", "change_scheduled", next_plan=new.next_plan)
    if new.cancel_at_end != old.cancel_at_end and new.state != "ended":
        happened("subscription.updated", "cancel_scheduled" if new.cancel_at_end else "resumed")
    if new.state == "past_due" and old.state != "past_due":
        work.tell("payment.failed", {"plan": new.plan, "reason": "unpaid"})
        happened("subscription.past_due", "past_due", reminder=0)
    elif new.state == "past_due" and new.reminders > old.reminders:
        happened("subscription.past_due", "past_due", reminder=new.reminders)
    if was_tier and not new.tier:
        happened("subscription.canceled", "ended")
