"""/api/billing/invoices, /api/billing/details and /api/admin/invoices. Only with [billing]."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from bluesminds.accounts.billing.invoice_files import PDF, pdf_file
from bluesminds.accounts.billing.invoices import NEWEST_INVOICE, Invoice, Invoices, write_cents
from bluesminds.common.clock import format_time
from bluesminds.web.fields import Name, NumberCursor
from bluesminds.web.guard import Access, Principal
from bluesminds.web.routes import HandlerResponse, Page, Paging, RawBody, Route, route


class InvoicePage(Paging, frozen=True, forbid_unknown_fields=True):
    """Newest first."""

    after: NumberCursor = ""


class BillingDetails(Struct, frozen=True, forbid_unknown_fields=True):
    """Lines that replace the name on invoices, such as a company, its address and its VAT number."""

    lines: Annotated[list[Name], Meta(max_length=6, description="at most 6 lines")]


class InvoiceView(Struct, frozen=True):
    """Amounts contain the tax, and are negative for a credit note. `of_number`: its invoice."""

    id: str
    number: str
    kind: Literal["invoice", "credit_note"]
    of_number: str | None
    issued_at: str
    user_id: str
    payment_id: str
    title: str
    total: str
    tax: str
    currency: str
    seller: list[str]
    buyer: list[str]


class InvoiceHandlers(Struct, frozen=True):
    invoices: Invoices

    async def own(self, principal: Principal, query: InvoicePage) -> Page[InvoiceView]:
        """List your invoices and credit notes, newest first."""
        return await self._page(principal.user_id, query)

    async def one(self, principal: Principal, invoice_id: str) -> InvoiceView:
        """Get one of your invoices."""
        return _view(await self.invoices.get(invoice_id, principal.user_id))

    async def pdf(self, principal: Principal, invoice_id: str) -> HandlerResponse[RawBody]:
        """Get one of your invoices as a PDF file."""
        return await _pdf(await self.invoices.get(invoice_id, principal.user_id))

    async def details(self, principal: Principal) -> BillingDetails:
        """Get your lines on invoices."""
        return BillingDetails(list(await self.invoices.details(principal.user_id)))

    async def set_details(self, principal: Principal, body: BillingDetails) -> BillingDetails:
        """Set your lines on invoices. Earlier invoices stay as they are."""
        await self.invoices.set_details(principal.user_id, body.lines)
        return body

    async def all(self, query: InvoicePage) -> Page[InvoiceView]:
        """List the invoices and credit notes of all users, newest first."""
        return await self._page(None, query)

    async def any_pdf(self, invoice_id: str) -> HandlerResponse[RawBody]:
        """Get an invoice of a user as a PDF file."""
        return await _pdf(await self.invoices.get(invoice_id, None))

    async def _page(self, user_id: str | None, query: InvoicePage) -> Page[InvoiceView]:
        before = int(query.after) if query.after else NEWEST_INVOICE
        rows = await self.invoices.list(user_id, before=before, limit=query.limit + 1)
        return Page.of(rows, query.limit, _view, cursor=lambda one: str(one.row.number))


def routes(handlers: InvoiceHandlers) -> list[Route]:
    tag, own, admin = "Billing", "/api/billing", "/api/admin/invoices"
    return [
        route("GET", f"{own}/invoices", Access.SESSION, handlers.own, tag=tag),
        route("GET", own + "/invoices/{invoice_id}", Access.SESSION, handlers.one, tag=tag),
        route("GET", own + "/invoices/{invoice_id}/pdf", Access.SESSION, handlers.pdf, tag=tag, media=PDF),
        route("GET", f"{own}/details", Access.SESSION, handlers.details, tag=tag),
        route("PUT", f"{own}/details", Access.SESSION, handlers.set_details, tag=tag),
        route("GET", admin, Access.ADMIN, handlers.all, tag=tag),
        route("GET", admin + "/{invoice_id}/pdf", Access.ADMIN, handlers.any_pdf, tag=tag, media=PDF),
    ]


def _view(found: Invoice) -> InvoiceView:
    row = found.row
    return InvoiceView(
        id=row.id,
        number=found.number,
        kind="credit_note" if row.total_cents < 0 else "invoice",
        of_number=found.of_number,
        issued_at=format_time(row.issued_at),
        user_id=row.user_id,
        payment_id=row.payment_id,
        title=row.title,
        total=write_cents(row.total_cents),
        tax=write_cents(row.tax_cents),
        currency=row.currency.upper(),
        seller=list(found.seller),
        buyer=list(found.buyer),
    )


async def _pdf(found: Invoice) -> HandlerResponse[RawBody]:
    file = await pdf_file(found)
    name = f'attachment; filename="{file.name}"'
    return HandlerResponse(RawBody(file.content, PDF), headers=(("content-disposition", name),))
