"""Invoices and credit notes: numbers, content, PDF files."""

import email
import re
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import msgspec
import pytest
import trio
from fontTools.ttLib import TTFont

from bluesminds.accounts.audit import OPERATOR
from bluesminds.accounts.billing.invoice_files import InvoiceFiles
from bluesminds.accounts.billing.invoice_font import invoice_font
from bluesminds.accounts.billing.invoice_pdf import write_pdf
from bluesminds.accounts.billing.invoices import NEWEST_INVOICE, Invoice
from bluesminds.common.crypto import Vault, new_master_key
from bluesminds.common.log import Log
from bluesminds.notify.event_mails import EventMails
from bluesminds.notify.events import EventDispatcher
from bluesminds.notify.mail import Mail, build_message
from bluesminds.notify.mail_groups import OptOutLinks
from bluesminds.notify.mail_templates import MailTemplates
from bluesminds.notify.outbox import MailOutbox
from storage.events import select_new_events
from storage.invoices import InvoiceRow
from storage.users import insert_user, update_user
from tests.accounts.billing_sites import billing_site
from tests.accounts.payment_shops import open_shop
from tests.storage.samples import NOON, user


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
        assert set(text_of(write_pdf(note))) >= {"Credit note INV-000002", "Bücher (GmbH)"}
        events = [
            one for one in await site.store.read(select_new_events, 100) if one.kind == "invoice.created"
        ]
        assert [
            (data["kind"], data["number"], data["total_cents"])
            for data in (msgspec.json.decode(one.data) for one in events)
        ] == [("invoice", "INV-000001", 1190), ("credit_note", "INV-000002", -595)]


async def test_mail_about_an_invoice_has_its_file(tmp_path: Path) -> None:
    sent = list[Mail]()

    class Mails:
        async def send(self, _: str, mail: Mail) -> None:
            sent.append(mail)

    async with billing_site(tmp_path) as site:
        placed = await site.billing.orders.place(
            OPERATOR, site.member.id, plan=None, cents=1000, provider=None
        )
        await site.billing.orders.mark_paid(OPERATOR, placed.order.id)
        await site.store.write(update_user, replace(site.member, email_verified_at=1))
        outbox = MailOutbox(
            site.store,
            vault=Vault([new_master_key()]),
            mailer=Mails(),
            clock=site.clock,
            log=Log(site.clock),
            read_file=InvoiceFiles(site.billing.invoices).read,
        )
        links = OptOutLinks.from_pepper("https://ai.example.com", b"pepper")
        mails = EventMails(outbox, MailTemplates("https://ai.example.com"), links, zone="UTC")
        events = EventDispatcher(site.store, clock=site.clock, log=Log(site.clock))
        events.subscribe(mails.consume, dispatched=outbox.wake)
        await events.dispatch()
        await outbox.flush(60.0)
    (mail,) = [one for one in sent if one.kind == "invoice"]
    message = email.message_from_bytes(build_message("m1", mail, "gateway@example.com", NOON).as_bytes())
    (file,) = [part for part in message.walk() if part.get_content_type() == "application/pdf"]
    assert file.get_filename() == "INV-000001.pdf"
    content = file.get_payload(decode=True)
    assert isinstance(content, bytes)
    assert "Invoice INV-000001" in text_of(content)


def text_of(content: bytes) -> list[str]:
    """The lines of a PDF file, by the maps to Unicode in it. Lines of viewer fonts are in Unicode already.

    The regular and the bold font have the same numbers of glyphs.
    """
    assert content.startswith(b"%PDF-1.")
    assert content.rstrip().endswith(b"%%EOF")
    streams = [zlib.decompress(one) for one in re.findall(rb"stream\n(.*?)\nendstream", content, re.DOTALL)]
    maps = b"".join(one for one in streams if b"begincmap" in one)
    unicode = {
        glyph: bytes.fromhex(text.decode()).decode("utf-16-be")
        for glyph, text in re.findall(rb"^<(\w{4})> <(\w+)>$", maps, re.MULTILINE)
    }
    lines = []
    for line in b"\n".join(streams).split(b"\n"):
        runs = re.findall(rb"/(F[123]) \d+ Tf <(\w*)> Tj", line)
        if runs:
            codes = [(name, text[at : at + 4]) for name, text in runs for at in range(0, len(text), 4)]
            lines.append(
                "".join(chr(int(code, 16)) if name == b"F3" else unicode[code] for name, code in codes)
            )
    return lines


def invoice_of(*buyer: str, title: str = "Pro") -> Invoice:
    row = InvoiceRow(1, "", "", "", None, 0, title, "usd", 100, 0, "", "")
    rows = [(title, "1.00 USD"), ("Tax", "0.00 USD"), ("Total", "1.00 USD")]
    return Invoice(row, "Invoice", "INV-000001", None, "2026-11-29", ["Example Ltd"], buyer, rows)


def test_pdf_with_long_names_wraps_them_and_begins_new_pages() -> None:
    words, long = "Verwaltungsgesellschaft und Beteiligungen " * 12, "W" * 300
    pdf = write_pdf(invoice_of(*[f"{number} {words}" for number in range(12)], long, title=words))
    assert pdf.count(b"/Type /Page/") >= 2
    lines = text_of(pdf)
    assert max(len(line) for line in lines) < 72
    text = "".join(lines).replace(" ", "")
    assert text.count("Verwaltungsgesellschaft") == 12 * 12 + 12
    assert "".join(line for line in lines if set(line) == {"W"}) == long


@pytest.mark.parametrize(
    "name", ["Łukasz Żółć", "Київ, Ελλάδα", "株式会社 東京", "한국 주식회사", "(a) \\ b", "Nguyễn €"]
)
def test_pdf_with_letters_of_any_language_has_them(name: str) -> None:
    lines = text_of(write_pdf(invoice_of(name)))
    assert name in lines


def test_pdf_with_letters_of_no_font_replaces_them() -> None:
    assert "?? ok" in text_of(write_pdf(invoice_of("\U00012000\U0001f9ff ok")))


def test_pdf_embeds_only_the_glyphs_it_uses_with_their_widths() -> None:
    pdf = write_pdf(invoice_of("Ελλάδα"))
    assert pdf == write_pdf(invoice_of("Ελλάδα"))
    streams = [zlib.decompress(one) for one in re.findall(rb"stream\n(.*?)\nendstream", pdf, re.DOTALL)]
    fonts = [TTFont(BytesIO(one)) for one in streams if one.startswith(b"\x00\x01\x00\x00")]
    assert len(fonts) == 2
    for font, is_bold in zip(fonts, (False, True), strict=True):
        known, outlines = invoice_font(is_bold), font["glyf"]
        drawn = {
            number for number, name in enumerate(font.getGlyphOrder()) if outlines[name].numberOfContours
        }
        assert known.glyph("I") in drawn and known.glyph("Q") not in drawn
        assert (known.glyph("λ") in drawn) is not is_bold
        assert font["hmtx"].metrics[font.getGlyphName(known.glyph("I"))][0] == known.width("I")
