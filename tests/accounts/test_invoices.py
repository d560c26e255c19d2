"""Invoices and credit notes: numbers, content, PDF files."""

import re
import zlib
from pathlib import Path

import msgspec
import trio

from bluesminds.accounts.audit import OPERATOR
from bluesminds.accounts.billing.invoices import NEWEST_INVOICE, write_pdf
from storage.events import select_new_events
from storage.users import insert_user
from tests.accounts.billing_sites import billing_site
from tests.accounts.test_payment_providers import open_shop
from tests.storage.samples import user


async def test_invoice_numbers_of_parallel_payments_have_no_gaps(tmp_path: Path) -> None:
    async with billing_site(tmp_path) as site:
        others = [user(serial, f"user-{serial}@example.com") for serial in range(2, 8)]
        for other in others:
            await site.store.write(insert_user, other)

        async def buy(user_id: str) -> None:
            for cents in (500, 600):
                placed = await site.billing.orders.place(
                    OPERATOR, user_id, plan=None, cents=cents, provider="manual"
                )
                await site.billing.orders.mark_paid(OPERATOR, placed.order.id)

        async with trio.open_nursery() as nursery:
            for other in (site.member, *others):
                nursery.start_soon(buy, other.id)
        found = await site.billing.invoices.list(None, before=NEWEST_INVOICE, limit=100)
        assert [one.number for one in found] == [f"INV-{number:06}" for number in range(14, 0, -1)]


async def test_invoice_and_credit_note_of_a_payment_have_tax_and_both_parties(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        site, member = shop.site, shop.site.member
        await site.billing.invoices.set_details(member.id, ["Bücher (GmbH)", "VAT DE123"])
        shop.stripe.pay(await shop.order(cents=1000), amount=999)  # does not match, so it has no invoice
        shop.stripe.pay(await shop.order(cents=1000), tax=190)
        await shop.deliver()
        payment = next(
            one
            for one in await site.billing.payments.list(member.id, before="", limit=5)
            if one.state == "paid"
        )
        shop.stripe.refund(payment.provider_id, 595)
        await shop.deliver()
        note, invoice = await site.billing.invoices.list(member.id, before=NEWEST_INVOICE, limit=5)
        assert (invoice.title, invoice.number, invoice.of_number) == ("Invoice", "INV-000001", None)
        assert invoice.rows == [("Credit", "10.00 USD"), ("Tax", "1.90 USD"), ("Total", "11.90 USD")]
        assert (invoice.seller, invoice.buyer) == (
            ["Example Ltd"],
            ["Bücher (GmbH)", "VAT DE123", "ada@example.com"],
        )
        assert (note.title, note.number, note.of_number) == ("Credit note", "INV-000002", "INV-000001")
        assert [amount for _, amount in note.rows] == ["-5.00 USD", "-0.95 USD", "-5.95 USD"]
        assert text_of(write_pdf(note)) >= {b"Credit note INV-000002", "Bücher \\(GmbH\\)".encode("cp1252")}
        events = [
            one for one in await site.store.read(select_new_events, 100) if one.kind == "invoice.created"
        ]
        assert [
            (data["kind"], data["number"], data["total_cents"])
            for data in (msgspec.json.decode(one.data) for one in events)
        ] == [("invoice", "INV-000001", 1190), ("credit_note", "INV-000002", -595)]


def text_of(content: bytes) -> set[bytes]:
    """The texts of a PDF file."""
    assert content.startswith(b"%PDF-1.")
    assert content.rstrip().endswith(b"%%EOF")
    (stream,) = re.findall(rb"stream\n(.*?)\nendstream", content, re.DOTALL)
    return set(re.findall(rb"^\((.*)\) Tj$", zlib.decompress(stream), re.MULTILINE))
