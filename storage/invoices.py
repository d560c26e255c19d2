"""Invoices and credit notes, and what users want to have on them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from storage.base import Connection


@dataclass(frozen=True, slots=True)
class InvoiceRow:
    """`of_number`: of the invoice that a credit note is for. `total_cents` contains the tax; both are below 0
    for a credit note. `seller` and `buyer`: JSON arrays of lines as text.
    """

    number: int
    id: str
    user_id: str
    payment_id: str
    of_number: int | None
    issued_at: int
    title: str
    currency: str
    total_cents: int
    tax_cents: int
    seller: str
    buyer: str


async def next_invoice_number(connection: Connection) -> int:
    """The transaction holds the lock of the ledger, so that no other one gets the same number."""
    found = await connection.value("SELECT coalesce(max(number), 0) + 1 FROM invoices")
    return int(str(found))


async def insert_invoice(connection: Connection, row: InvoiceRow) -> None:
    await connection.many(
        """
        INSERT INTO invoices (
            number, id, user_id, payment_id, of_number, issued_at, title, currency, total_cents, tax_cents,
            seller, buyer
        ) VALUES (
            :number, :id, :user_id, :payment_id, :of_number, :issued_at, :title, :currency, :total_cents,
            :tax_cents, :seller, :buyer
        )
        """,
        [row],
    )


async def select_payment_invoice(connection: Connection, payment_id: str) -> InvoiceRow | None:
    """The invoice of a payment, without credit notes."""
    row = await connection.one(
        """
        SELECT number, id, user_id, payment_id, of_number, issued_at, title, currency, total_cents, tax_cents,
            seller, buyer
        FROM invoices WHERE payment_id = :payment_id ORDER BY number LIMIT 1
        """,
        payment_id=payment_id,
    )
    return None if row is None else InvoiceRow(*row)


async def select_invoice(connection: Connection, invoice_id: str) -> InvoiceRow | None:
    row = await connection.one(
        """
        SELECT number, id, user_id, payment_id, of_number, issued_at, title, currency, total_cents, tax_cents,
            seller, buyer
        FROM invoices WHERE id = :invoice_id
        """,
        invoice_id=invoice_id,
    )
    return None if row is None else InvoiceRow(*row)


async def select_invoices(
    connection: Connection, user_id: str | None, before: int, limit: int
) -> Sequence[InvoiceRow]:
    """Newest first, those with a number below `before`; of all users without `user_id`."""
    if user_id is None:
        rows = await connection.all(
            """
            SELECT number, id, user_id, payment_id, of_number, issued_at, title, currency, total_cents,
                tax_cents, seller, buyer
            FROM invoices WHERE number < :before ORDER BY number DESC LIMIT :limit
            """,
            before=before,
            limit=limit,
        )
    else:
        rows = await connection.all(
            """
            SELECT number, id, user_id, payment_id, of_number, issued_at, title, currency, total_cents,
                tax_cents, seller, buyer
            FROM invoices WHERE user_id = :user_id AND number < :before ORDER BY number DESC LIMIT :limit
            """,
            user_id=user_id,
            before=before,
            limit=limit,
        )
    return [InvoiceRow(*row) for row in rows]


async def select_billing_details(connection: Connection, user_id: str) -> Sequence[str]:
    found = await connection.value(
        "SELECT lines FROM billing_details WHERE user_id = :user_id", user_id=user_id
    )
    return () if found is None else tuple(json.loads(str(found)))


async def put_billing_details(connection: Connection, user_id: str, lines: Sequence[str]) -> None:
    await connection.execute(
        """
        INSERT INTO billing_details (user_id, lines) VALUES (:user_id, :lines)
        ON CONFLICT (user_id) DO UPDATE SET lines = excluded.lines
        """,
        user_id=user_id,
        lines=json.dumps(list(lines)),
    )


async def select_buyer(connection: Connection, user_id: str) -> Sequence[str]:
    """The lines about a user for an invoice: the billing details, or else the name; and the address."""
    row = await connection.one("SELECT full_name, email FROM users WHERE id = :user_id", user_id=user_id)
    name, email = row if row is not None else ("", None)
    details = await select_billing_details(connection, user_id)
    return [line for line in (*(details or (name,)), email) if line]
