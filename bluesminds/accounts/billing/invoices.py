"""Invoices and credit notes for payments: lists, and one as a PDF file. settlement.py issues them."""

from collections.abc import Iterator, Sequence
from io import BytesIO
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
_PAGE: Final = (595, 842)  # A4 in points
_LEFT: Final = 56
_RIGHT: Final = 400


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


def write_pdf(invoice: Invoice) -> bytes:
    """An invoice on one page. Its font has the letters of Western European languages; others become "?"."""
    import pydyf

    document = pydyf.PDF()
    content = pydyf.Stream(compress=True)
    content.begin_text()
    at_x, at_y = 0, 0
    for x, y, font, size, text in _lines(invoice):
        content.set_font_size(font, size)
        content.move_text_to(x - at_x, y - at_y)
        content.show_text_string(text.encode("cp1252", "replace"))
        at_x, at_y = x, y
    content.end_text()
    document.add_object(content)
    fonts = {}
    for name, base in (("F1", "Helvetica"), ("F2", "Helvetica-Bold")):
        font_object = pydyf.Dictionary(
            {"Type": "/Font", "Subtype": "/Type1", "BaseFont": f"/{base}", "Encoding": "/WinAnsiEncoding"}
        )
        document.add_object(font_object)
        fonts[name] = font_object.reference
    resources = pydyf.Dictionary({"Font": pydyf.Dictionary(fonts)})
    page = {
        "Type": "/Page",
        "Parent": document.pages.reference,
        "MediaBox": pydyf.Array([0, 0, *_PAGE]),
        "Contents": content.reference,
        "Resources": resources,
    }
    document.add_page(pydyf.Dictionary(page))
    output = BytesIO()
    document.write(output)
    return output.getvalue()


def _lines(invoice: Invoice) -> Iterator[tuple[int, int, str, int, str]]:
    """Position in points, font, size and text of each line."""
    y = 780
    yield _LEFT, y, "F2", 18, f"{invoice.title} {invoice.number}"
    yield _LEFT, y - 20, "F1", 10, f"Issued on {invoice.day}"
    if invoice.of_number is not None:
        yield _LEFT, y - 34, "F1", 10, f"For the invoice {invoice.of_number}"
    for x, label, lines in ((_LEFT, "From", invoice.seller), (320, "To", invoice.buyer)):
        yield x, 710, "F2", 10, label
        for number, line in enumerate(lines):
            yield x, 694 - 14 * number, "F1", 10, line[:48]
    for number, (label, amount) in enumerate(invoice.rows):
        font = "F2" if label == "Total" else "F1"
        yield _LEFT, 520 - 20 * number, font, 11, label[:60]
        yield _RIGHT, 520 - 20 * number, font, 11, amount
