"""The unit of work that brings an account to the state at a payment provider.

Orders, subscriptions, payments, ledger, tier, audit log and events change in one transaction. The unit is
idempotent: the same state again changes nothing. A payment counts only if it belongs to an order of the same
account and provider, in USD, and if its amount is that of the order.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace

from bluesminds.accounts.audit import entry
from bluesminds.accounts.billing.plans import BillingPlan
from bluesminds.accounts.billing.received import find_subscriptions, pay
from bluesminds.accounts.billing.reports import report
from bluesminds.accounts.billing.states import advanced, at_time, is_in_force, next_due
from bluesminds.accounts.billing.work import BillingRules, Settled, Settlement, SettlementWork
from bluesminds.accounts.ledger import CreditMoves
from bluesminds.common.clock import Clock
from bluesminds.payments.port import SubscriptionState
from storage.audit import insert_audit, lock_audit_head
from storage.base import Connection
from storage.billing import (
    SubscriptionRow,
    insert_billing_event,
    put_subscription,
    select_open_orders,
    select_refunded_subscriptions,
    select_subscriptions,
    set_order,
)
from storage.events import insert_events
from storage.ledger import WalletRow, lock_ledger_head, post, select_wallet, wallet_account
from storage.users import UserRow, select_user, update_user


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
        return await _settle_deleted(SettlementWork(connection, asked, rules, clock, now, {}))
    before = {row.id: row for row in await select_subscriptions(connection, asked.user_id)}
    work = SettlementWork(connection, asked, rules, clock, now, dict(before))
    orders = await find_subscriptions(work)
    for payment in sorted(asked.state.payments, key=lambda one: (one.at, one.id)):
        await pay(work, payment, orders)
    refunded = await select_refunded_subscriptions(connection, asked.user_id)
    for state in asked.state.subscriptions:
        _advance(work, state)
        _end_refunded(work, state, refunded)
    if asked.state.is_complete:
        _end_unknown(work)
    await _expire_orders(work)
    for row in list(work.subscriptions.values()):
        work.subscriptions[row.id] = _at_time(work, row)
    tier = _new_tier(work, before, user)
    moves = await _store(work, before, user, tier)
    return Settled(tier != user.tier, work.refused), moves


async def _settle_deleted(work: SettlementWork) -> tuple[Settled, CreditMoves]:
    """Refunds of payments that a deleted user has made."""
    for payment in work.asked.state.payments:
        await pay(work, payment, {})
    if work.notes:
        after = {"changes": "; ".join(work.notes)}
        audit = entry(work.clock, work.asked.actor, "billing.settle", work.asked.user_id, after=after)
        await insert_audit(work.connection, audit)
    return Settled(), await _post_all(work)


def _end_unknown(work: SettlementWork) -> None:
    """The provider does not know these subscriptions any more. They stay until the end of their period."""
    known = {state.id for state in work.asked.state.subscriptions}
    for row in list(work.subscriptions.values()):
        if row.provider == work.asked.provider and row.provider_id not in known and row.state != "ended":
            work.subscriptions[row.id] = replace(row, state="ended", ends_at=row.period_end, next_plan="")


def _advance(work: SettlementWork, state: SubscriptionState) -> None:
    row = work.subscription(state.id)
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


def _end_refunded(work: SettlementWork, state: SubscriptionState, refunded: Collection[str]) -> None:
    """An ended subscription whose last payment was refunded is not in force until the end of its period."""
    row = work.subscription(state.id)
    if row is not None and row.state == "ended" and row.id in refunded:
        work.subscriptions[row.id] = replace(row, ends_at=min(row.ends_at or work.now, work.now))


def _not_included(before: SubscriptionRow, row: SubscriptionRow, plan: BillingPlan, now: int) -> int:
    """How much of the included credit is not granted after a change of the plan: a change inside a period is
    paid for the rest of the period, and gives credit for the rest of it.
    """
    length, more = row.period_end - row.period_start, plan.included_nano - row.granted_nano
    if row.period_start > before.period_start or length <= 0 or more <= 0:
        return row.granted_nano
    left = min(max(row.period_end - now, 0), length)
    return plan.included_nano - more * left // length


async def _expire_orders(work: SettlementWork) -> None:
    if not work.asked.state.expired:
        return
    for order in await select_open_orders(work.connection, work.asked.user_id):
        is_expired = order.checkout_id in work.asked.state.expired
        if is_expired and order.provider == work.asked.provider:
            await set_order(work.connection, replace(order, state="expired"))


def _at_time(work: SettlementWork, row: SubscriptionRow) -> SubscriptionRow:
    policy = work.rules.dunning
    row = at_time(row, work.now, policy)
    plan = work.rules.plans.find(row.plan)
    in_force = is_in_force(row, work.now, policy)
    known = row.tier if plan is None else plan.tier  # a plan that was removed stays as it was
    tier = known if in_force else None
    return replace(row, tier=tier, due_at=next_due(row, work.now, policy))


def _new_tier(work: SettlementWork, before: Mapping[str, SubscriptionRow], user: UserRow) -> str | None:
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
    work: SettlementWork, before: Mapping[str, SubscriptionRow], user: UserRow, tier: str | None
) -> CreditMoves:
    changed = [row for row in work.subscriptions.values() if row != before.get(row.id)]
    for row in changed:
        report(work, before.get(row.id), row)
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


async def _post_all(work: SettlementWork) -> CreditMoves:
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
