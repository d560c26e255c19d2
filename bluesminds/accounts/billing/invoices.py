"""Invoices and credit notes for payments. invoicing.py issues them, invoice_pdf.py prints them."""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct, json

from bluesminds.common.clock import format_time
from bluesminds.common.crypto import is_uuid
from bluesminds.common.errors import NotFound
from storage.base import Store
from storage.invoices import (
    InvoiceRow,
    put_billing_details,
    select_billing_details,
    select_invoice,
    select_invoices,
)

NEWEST_INVOICE: Final = 2**53


class Invoice(Struct, frozen=True):
    """`title`: "Invoice" or "Credit note". Amounts are texts like 29.00. `rows`: labels and amounts."""

    row: InvoiceRow
    title: str
    number: str
    of_number: str | None
    day: str
    seller: Sequence[str]
    buyer: Sequence[str]
    rows: Sequence[tuple[str, str]]


class Invoices:
    """`prefix` of each number."""

    def __init__(self, store: Store, *, prefix: str) -> None:
        self._store = store
        self._prefix = prefix

    async def list(self, user_id: str | None, *, before: int, limit: int) -> Sequence[Invoice]:
        """Newest first, before a number; of all users without `user_id`."""
        rows = await self._store.read(select_invoices, user_id, before, limit)
        return [self._invoice(row) for row in rows]

    async def get(self, invoice_id: str, user_id: str | None) -> Invoice:
        """Of a user, or of any without `user_id`. Raises NotFound."""
        row = await self._store.read(select_invoice, invoice_id) if is_uuid(invoice_id) else None
        if row is None or user_id not in (None, row.user_id):
            raise NotFound("invoice_not_found", "There is no invoice with this id.")
        return self._invoice(row)

    async def details(self, user_id: str) -> Sequence[str]:
        """The lines that a user wants on invoices instead of the name."""
        return await self._store.read(select_billing_details, user_id)

    async def set_details(self, user_id: str, lines: Sequence[str]) -> None:
        await self._store.write(put_billing_details, user_id, lines)

    def _invoice(self, row: InvoiceRow) -> Invoice:
        currency = row.currency.upper()
        net = row.total_cents - row.tax_cents
        rows = [(row.title, net), ("Tax", row.tax_cents), ("Total", row.total_cents)]
        return Invoice(
            row=row,
            title="Credit note" if row.total_cents < 0 else "Invoice",
            number=write_number(self._prefix, row.number),
            of_number=None if row.of_number is None else write_number(self._prefix, row.of_number),
            day=format_time(row.issued_at)[:10],
            seller=json.decode(row.seller, type=list[str]),
            buyer=json.decode(row.buyer, type=list[str]),
            rows=[(label, f"{write_cents(cents)} {currency}") for label, cents in rows],
        )


def write_number(prefix: str, number: int) -> str:
    """Such as INV-000012."""
    return f"{prefix}{number:06}"


def write_cents(cents: int) -> str:
    """Such as -12.50."""
    sign = "-" if cents < 0 else ""
    return f"{sign}{abs(cents) // 100}.{abs(cents) % 100:02}"
