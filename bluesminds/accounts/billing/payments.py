"""Payments of accounts, and refunds by administrators."""

from collections.abc import Sequence

from bluesminds.accounts.audit import Actor
from bluesminds.accounts.billing.context import BillingContext
from bluesminds.accounts.billing.plans import MANUAL
from bluesminds.accounts.billing.reconciliation import Reconciliation
from bluesminds.accounts.billing.work import Settlement
from bluesminds.common.crypto import is_uuid
from bluesminds.common.errors import NotFound, Unavailable
from bluesminds.payments.port import CustomerState, PaymentState
from storage.billing import PaymentRow, select_payment, select_payments
from storage.users import select_user


class Payments:
    def __init__(self, context: BillingContext, reconciliation: Reconciliation) -> None:
        self._context = context
        self._reconciliation = reconciliation

    async def list(self, user_id: str, *, before: str, limit: int) -> Sequence[PaymentRow]:
        """Newest first, before the id `before`."""
        return await self._context.store.read(select_payments, user_id, before, limit)

    async def refund(self, actor: Actor, payment_id: str) -> PaymentRow:
        """Refund a payment in full through its provider. A manual payment was refunded by the administrator.
        Raises NotFound, Unavailable.
        """
        store = self._context.store
        row = await store.read(select_payment, payment_id) if is_uuid(payment_id) else None
        if row is None:
            raise NotFound("payment_not_found", "There is no payment with this id.")
        if row.reversed_cents >= row.paid_cents:
            return row
        provider = self._context.providers.get(row.provider)
        if provider is None and row.provider != MANUAL:
            raise Unavailable(
                "payment_provider_unavailable",
                f"The payment was made at {row.provider}, which is not configured. Configure it, or refund"
                " the payment there.",
            )
        if provider is None:
            state = PaymentState(
                row.provider_id, row.paid_cents, row.currency, row.at, reversed_cents=row.paid_cents
            )
            async with self._context.lock(row.user_id):
                asked = Settlement(row.user_id, row.provider, CustomerState(payments=[state]), actor=actor)
                await self._context.settle(asked)
        else:
            with self._context.asking():
                await provider.refund(row.provider_id)
                if await store.read(select_user, row.user_id) is None:
                    await self._reconciliation.settle_payment(provider, row.provider_id, actor=actor)
            await self._reconciliation.refresh(row.user_id, actor)
        return await store.read(select_payment, payment_id) or row
