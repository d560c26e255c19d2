"""Reverses refunded and disputed payments, and posts them again if a dispute is won."""

from dataclasses import replace

from bluesminds.accounts.billing.invoices import write_cents
from bluesminds.accounts.billing.invoicing import issue_invoice
from bluesminds.accounts.billing.plans import MANUAL
from bluesminds.accounts.billing.states import HOUR
from bluesminds.accounts.billing.work import CENT, SettlementWork, payment_fields
from bluesminds.notify.events import EventKind
from storage.billing import PaymentRow, SubscriptionRow, put_payment
from storage.ledger import REVENUE, EntryKind, select_entry, select_wallet, wallet_account
from storage.trials import ReferralRow, select_referral, set_referral


async def set_reversed(work: SettlementWork, row: PaymentRow, reversed_cents: int) -> None:
    """Post the difference to what was reversed before, in proportion to the payment. A dispute that is won
    and a refund that fails make it less.
    """
    is_more, was_full = reversed_cents > row.reversed_cents, row.reversed_cents >= row.paid_cents
    await put_payment(work.connection, replace(row, reversed_cents=reversed_cents))
    kind: EventKind = "payment.refunded" if is_more else "payment.restored"
    work.tell(kind, {**payment_fields(row), "refunded": write_cents(reversed_cents)})
    work.notes.append(f"payment {row.id} {kind.removeprefix('payment.')}")
    if row.state != "paid":  # it bought nothing
        return
    number = await _post(work, row, reversed_cents)
    if reversed_cents >= row.paid_cents:
        await _end_reward(work, row)
        await _end_included(work, row)
    elif was_full:
        await _give_reward_again(work, row, number)
        await _give_included_again(work, row, number)


async def _post(work: SettlementWork, row: PaymentRow, reversed_cents: int) -> int:
    """Returns the number of the credit note or invoice."""

    def part(amount: int) -> int:
        before, after = (amount * cents // row.paid_cents for cents in (row.reversed_cents, reversed_cents))
        return after - before

    number = await issue_invoice(work, row, row.reversed_cents - reversed_cents, -part(row.tax_cents))
    key, provider = f"{row.provider}:{row.provider_id}:{number}", f"payments:{row.provider}"
    if row.subscription_id:
        nano, account = part(row.paid_cents - row.tax_cents) * CENT, REVENUE
    else:
        nano, account = part(row.credit_nano), wallet_account(row.user_id)
    if nano > 0:
        work.post("payment_refund", key, account, provider, nano, row.id)
    else:
        kind: EntryKind = "subscription" if row.subscription_id else "topup"
        work.post(kind, key, provider, account, -nano, row.id)
    return number


def _current_period(work: SettlementWork, payment: PaymentRow) -> SubscriptionRow | None:
    """The subscription, if the payment was for its current period."""
    row = work.subscriptions.get(payment.subscription_id)
    return None if row is None or payment.at < row.period_start - HOUR else row


async def _end_included(work: SettlementWork, payment: PaymentRow) -> None:
    """What is left of the included credit ends. So does a plan without a provider that could end it."""
    row = _current_period(work, payment)
    if row is None:
        return
    wallet = await select_wallet(work.connection, payment.user_id)
    for one in wallet.grants if wallet else ():
        if one.id.startswith(f"grant:plan:{row.id}:{row.period_start}:"):
            account = wallet_account(payment.user_id)
            work.post("expiry", one.id, account, "expired", one.left_nano, one.id)
    if row.provider == MANUAL:
        work.subscriptions[row.id] = replace(row, state="ended", ends_at=work.now, cancel_at_end=False)


async def _give_included_again(work: SettlementWork, payment: PaymentRow, number: int) -> None:
    row = _current_period(work, payment)
    if row is not None and row.period_end > work.now:
        for plan in work.rules.plans:
            key = f"plan:{row.id}:{row.period_start}:{plan.name}"
            await _give_again(work, key, number, row.user_id, row.period_end)


def _reward_keys(referral: ReferralRow) -> list[tuple[str, str]]:
    """Users, and the keys of their grants."""
    return [
        (user_id, f"referral:{referral.user_id}:{user_id}")
        for user_id in (referral.user_id, referral.referrer_id)
    ]


async def _end_reward(work: SettlementWork, payment: PaymentRow) -> None:
    """If it was the payment that the rewards are for, what is left of them ends."""
    referral = await select_referral(work.connection, payment.user_id)
    if referral is None or referral.payment_id != payment.id:
        return
    for user_id, key in _reward_keys(referral):
        wallet = await select_wallet(work.connection, user_id)
        for one in wallet.grants if wallet else ():
            if one.id == f"grant:{key}" or one.id.startswith(f"grant:{key}:"):
                account = wallet_account(user_id)
                work.post("expiry", one.id, account, "expired", one.left_nano, one.id, user_id=user_id)
    await set_referral(work.connection, replace(referral, earned_nano=0))


async def _give_reward_again(work: SettlementWork, payment: PaymentRow, number: int) -> None:
    referral = await select_referral(work.connection, payment.user_id)
    if referral is None or referral.payment_id != payment.id:
        return
    for user_id, key in _reward_keys(referral):
        await _give_again(work, key, number, user_id)
    await set_referral(work.connection, replace(referral, earned_nano=work.rules.referrer_nano))


async def _give_again(
    work: SettlementWork, key: str, number: int, user_id: str, ends_at: int | None = None
) -> None:
    """Grant what was left when the grant with this key was ended."""
    ended = await select_entry(work.connection, f"expiry:grant:{key}")
    if ended is not None:
        wallet, nano = wallet_account(user_id), ended.amount_nano
        work.post("grant", f"{key}:{number}", "grants", wallet, nano, "Refund taken back", ends_at, user_id)
