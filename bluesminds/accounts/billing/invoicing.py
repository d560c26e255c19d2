"""Issues invoices and credit notes with the payments that they are about."""

from msgspec import json

from bluesminds.accounts.billing.invoices import write_number
from bluesminds.accounts.billing.work import SettlementWork
from bluesminds.common.crypto import uuid7
from storage.billing import PaymentRow
from storage.invoices import (
    InvoiceRow,
    insert_invoice,
    next_invoice_number,
    select_buyer,
    select_payment_invoice,
)


async def issue_invoice(work: SettlementWork, payment: PaymentRow, total_cents: int, tax_cents: int) -> int:
    """Issue an invoice, or a credit note for a negative total. Later ones for the same payment refer to the
    first, and have the same seller and buyer. Returns the number.
    """
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
        seller=json.encode(work.rules.seller).decode() if first is None else first.seller,
        buyer=json.encode(await select_buyer(work.connection, payment.user_id)).decode()
        if first is None
        else first.buyer,
    )
    await insert_invoice(work.connection, row)
    data = {
        "invoice": row.id,
        "kind": "credit_note" if total_cents < 0 else "invoice",
        "number": write_number(work.rules.invoice_prefix, row.number),
        "total_cents": total_cents,
        "currency": row.currency,
    }
    work.tell("invoice.created", data)
    return row.number
