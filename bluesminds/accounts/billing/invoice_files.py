"""Invoices as PDF files."""

from typing import Final

import trio
from msgspec import Struct

from bluesminds.accounts.billing.invoices import Invoice, Invoices
from bluesminds.common.errors import NotFound
from bluesminds.notify.mail import MailFile

PDF: Final = "application/pdf"


class InvoiceFiles(Struct, frozen=True):
    """Invoices as attachments of mails."""

    invoices: Invoices

    async def read(self, attachment: str) -> MailFile | None:
        kind, _, invoice_id = attachment.partition(":")
        if kind != "invoice":
            return None
        try:
            found = await self.invoices.get(invoice_id, None)
        except NotFound:
            return None
        return await pdf_file(found)


async def pdf_file(invoice: Invoice) -> MailFile:
    content = await trio.to_thread.run_sync(_written, invoice)
    return MailFile(f"{invoice.number.replace('/', '-')}.pdf", PDF, content)


def _written(invoice: Invoice) -> bytes:
    from bluesminds.accounts.billing.invoice_pdf import write_pdf  # loads libraries, only for the first file

    return write_pdf(invoice)
