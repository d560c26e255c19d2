"""Takes back what a refunded or disputed payment has bought."""

from dataclasses import replace

from bluesminds.accounts.billing.invoices import write_cents
from bluesminds.accounts.billing.invoicing import issue_invoice
from bluesminds.accounts.billing.states import HOUR
from bluesminds.accounts.billing.work import CENT, SettlementWork, payment_fields
from storage.billing import PaymentRow, put_payment
from storage.ledger import REVENUE, select_wallet, wallet_account
from storage.trials import select_referral, set_referral


async def reverse(work: SettlementWork, row: PaymentRow, reversed_cents: int) -> None:
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
        await issue_invoice(work, row, row.reversed_cents - reversed_cents, tax[0] - tax[1])
        work.post("payment_refund", key, source, target, parts[1] - parts[0], row.id)
    await put_payment(work.connection, replace(row, reversed_cents=reversed_cents))
    work.tell("payment.refunded", {**payment_fields(row), "refunded": write_cents(reversed_cents)})
    work.notes.append(f"payment {row.id} refunded")
    if reversed_cents >= row.paid_cents and row.state == "paid":
        await end_reward(work, row)
        await _end_included(work, row)


async def _end_included(work: SettlementWork, payment: PaymentRow) -> None:
    """The payment of the current period was reversed in full: what is left of its included credit ends."""
    row = work.subscriptions.get(payment.subscription_id)
    if row is None or payment.at < row.period_start - HOUR:
        return
    wallet = await select_wallet(work.connection, payment.user_id)
    for one in wallet.grants if wallet else ():
        if one.id.startswith(f"grant:plan:{row.id}:{row.period_start}:"):
            account = wallet_account(payment.user_id)
            work.post("expiry", one.id, account, "expired", one.left_nano, one.id)


async def end_reward(work: SettlementWork, payment: PaymentRow) -> None:
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
