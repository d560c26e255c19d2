"""Writes an invoice as a PDF file. Long lines are wrapped, and what does not fit begins another page.

The glyphs that are used are embedded. The letters of Chinese, Japanese and Korean are not in the font; they
are written with the fonts that each PDF viewer has for them (ISO 32000-1, 9.7.5.2). Other letters that are
not in the font become "?". Text from right to left is not reordered.
"""

import lzma
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.resources import files
from io import BytesIO
from itertools import groupby
from typing import Any, Final

import trio
from msgspec import Struct

from bluesminds.accounts.billing.invoices import Invoice, Invoices
from bluesminds.accounts.billing.truetype import TrueTypeFont
from bluesminds.common.errors import NotFound
from bluesminds.notify.mail import MailFile

PDF: Final = "application/pdf"
_PAGE: Final = (595, 842)  # A4 in points
_TOP, _BOTTOM, _LEFT, _MIDDLE, _RIGHT = 780, 60, 56, 320, 539
_LINE: Final = 1.4  # height of a line, in font sizes
# The font of viewers and its encoding for text with a letter from the first to the second code.
# The last row that fits is used.
_VIEWER_FONTS: Final = (
    (0x2E80, 0xFFEF, "STSong-Light", "GB1", 2, "UniGB-UCS2-H"),
    (0x3040, 0x30FF, "HeiseiKakuGo-W5", "Japan1", 2, "UniJIS-UCS2-H"),
    (0xAC00, 0xD7A3, "HYGoThic-Medium", "Korea1", 1, "UniKS-UCS2-H"),
)


class PlacedText(Struct, frozen=True):
    """In points from the lower left corner. A line with `is_right` ends at `x`."""

    x: float
    y: float
    size: int
    text: str
    is_bold: bool = False
    is_right: bool = False


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
    content = await trio.to_thread.run_sync(write_pdf, invoice)
    return MailFile(f"{invoice.number.replace('/', '-')}.pdf", PDF, content)


def write_pdf(invoice: Invoice) -> bytes:
    pages = list(_pages(invoice))
    file = _PdfFile(f"{invoice.title} {invoice.number}", "".join(one.text for page in pages for one in page))
    for page in pages:
        file.add_page(page)
    return file.content()


def _pages(invoice: Invoice) -> Iterator[list[PlacedText]]:
    placed, y = [PlacedText(_LEFT, _TOP, 18, f"{invoice.title} {invoice.number}", is_bold=True)], _TOP - 20.0
    about = [f"Issued on {invoice.day}"]
    if invoice.of_number is not None:
        about.append(f"For the invoice {invoice.of_number}")
    for line in about:
        placed.append(PlacedText(_LEFT, y, 10, line))
        y -= 14
    columns = [
        (x, [label, *(part for line in lines for part in wrapped(line, 10, end - x))])
        for x, end, label, lines in (
            (_LEFT, _MIDDLE - 20, "From", invoice.seller),
            (_MIDDLE, _RIGHT, "To", invoice.buyer),
        )
    ]
    y -= 30
    for number in range(max(len(lines) for _, lines in columns)):
        if y < _BOTTOM:
            yield placed
            placed, y = [], _TOP
        for x, lines in columns:
            if number < len(lines):
                placed.append(PlacedText(x, y, 10, lines[number], is_bold=not number))
        y -= 10 * _LINE
    y -= 30
    for label, amount in invoice.rows:
        parts = wrapped(label, 11, _RIGHT - _LEFT - 120)
        if y - 11 * _LINE * len(parts) < _BOTTOM:
            yield placed
            placed, y = [], _TOP
        placed.append(PlacedText(_RIGHT, y, 11, amount, is_bold=label == "Total", is_right=True))
        for part in parts:
            placed.append(PlacedText(_LEFT, y, 11, part, is_bold=label == "Total"))
            y -= 11 * _LINE
        y -= 6
    yield placed


def wrapped(text: str, size: float, width: float) -> list[str]:
    """Lines of at most this width in points, broken at spaces where possible."""
    lines, line = [], ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if line and _width(joined, size) > width:
            lines.append(line)
            joined = word
        while _width(joined, size) > width:
            fits = max(1, next(n for n in range(len(joined)) if _width(joined[: n + 1], size) > width))
            lines.append(joined[:fits])
            joined = joined[fits:]
        line = joined
    return [*lines, line]


@cache
def _font() -> TrueTypeFont:
    packed = files("bluesminds.accounts.billing").joinpath("DejaVuSans.ttf.xz").read_bytes()
    return TrueTypeFont(lzma.decompress(packed))


def _is_of_viewer(character: str) -> bool:
    first, last = _VIEWER_FONTS[0][:2]
    return not _font().glyph(character) and first <= ord(character) <= last


def _known(text: Iterable[str]) -> Iterator[str]:
    """With a "?" for each character that no font has."""
    for one in text:
        yield one if _font().glyph(one) else "?"


def _width(text: str, size: float) -> float:
    font = _font()
    units = sum(
        1000 if _is_of_viewer(one) else font.width(font.glyph(one) or font.glyph("?")) for one in text
    )
    return units * size / 1000


def _command(placed: PlacedText) -> bytes:
    x = placed.x - (_width(placed.text, placed.size) if placed.is_right else 0)
    stroke = b"2 Tr %.2f w" % (placed.size / 30) if placed.is_bold else b"0 Tr"  # bold: with an outline
    parts = [b"BT %b 1 0 0 1 %.2f %.2f Tm" % (stroke, x, placed.y)]
    for is_of_viewer, run in groupby(placed.text, _is_of_viewer):
        if is_of_viewer:
            name, codes = b"F2", "".join(run).encode("utf-16-be")
        else:
            name, codes = b"F1", b"".join(_font().glyph(one).to_bytes(2, "big") for one in _known(run))
        parts.append(b"/%b %d Tf <%b> Tj" % (name, placed.size, codes.hex().encode()))
    return b" ".join([*parts, b"ET"])


class _PdfFile:
    """`text`: all text of the file."""

    def __init__(self, title: str, text: str) -> None:
        import pydyf  # only for the first file

        self._pydyf: Any = pydyf
        self._document = pydyf.PDF()
        self._document.info["Title"] = pydyf.String(title)
        fonts = pydyf.Dictionary({"F1": self._embedded_font(text), "F2": self._viewer_font(text)})
        self._resources = pydyf.Dictionary({"Font": fonts})

    def add_page(self, placed: Sequence[PlacedText]) -> None:
        page = self._pydyf.Dictionary(
            {
                "Type": "/Page",
                "Parent": self._document.pages.reference,
                "MediaBox": self._pydyf.Array([0, 0, *_PAGE]),
                "Contents": self._stream([_command(one) for one in placed]),
                "Resources": self._resources,
            }
        )
        self._document.add_page(page)

    def content(self) -> bytes:
        output = BytesIO()
        self._document.write(output)
        return output.getvalue()

    def _embedded_font(self, text: str) -> bytes:
        font, name = _font(), "/AAAAAA+DejaVuSans"
        glyphs = {font.glyph(one): one for one in _known(text)}
        subset, box = font.subset(glyphs), self._pydyf.Array(font.box)
        descriptor = self._added(
            Type="/FontDescriptor",
            FontName=name,
            Flags=4,
            FontBBox=box,
            ItalicAngle=0,
            Ascent=box[3],
            Descent=box[1],
            CapHeight=729,
            StemV=80,
            FontFile2=self._stream([subset], Length1=len(subset)),
        )
        widths = [part for one in sorted(glyphs) for part in (one, self._pydyf.Array([font.width(one)]))]
        descendant = self._added(
            Type="/Font",
            Subtype="/CIDFontType2",
            BaseFont=name,
            CIDSystemInfo=self._system("Identity", 0),
            FontDescriptor=descriptor,
            CIDToGIDMap="/Identity",
            W=self._pydyf.Array(widths),
        )
        unicode = self._stream([_to_unicode(glyphs)])
        return self._composite_font(name, "/Identity-H", descendant, ToUnicode=unicode)

    def _viewer_font(self, text: str) -> bytes:
        found = [row for row in _VIEWER_FONTS if any(row[0] <= ord(one) <= row[1] for one in text)]
        _, _, name, ordering, supplement, encoding = (found or _VIEWER_FONTS[:1])[-1]
        descriptor = self._added(
            Type="/FontDescriptor",
            FontName=f"/{name}",
            Flags=4,
            FontBBox=self._pydyf.Array([0, -200, 1000, 900]),
            ItalicAngle=0,
            Ascent=880,
            Descent=-120,
            CapHeight=880,
            StemV=90,
        )
        descendant = self._added(
            Type="/Font",
            Subtype="/CIDFontType0",
            BaseFont=f"/{name}",
            CIDSystemInfo=self._system(ordering, supplement),
            FontDescriptor=descriptor,
            DW=1000,
        )
        return self._composite_font(f"/{name}", f"/{encoding}", descendant)

    def _composite_font(self, name: str, encoding: str, descendant: bytes, **more: object) -> bytes:
        descendants = self._pydyf.Array([descendant])
        return self._added(
            Type="/Font",
            Subtype="/Type0",
            BaseFont=name,
            Encoding=encoding,
            DescendantFonts=descendants,
            **more,
        )

    def _added(self, **fields: object) -> bytes:
        made = self._pydyf.Dictionary(fields)
        self._document.add_object(made)
        return bytes(made.reference)

    def _stream(self, content: Sequence[bytes], **fields: object) -> bytes:
        made = self._pydyf.Stream(content, fields, compress=True)
        self._document.add_object(made)
        return bytes(made.reference)

    def _system(self, ordering: str, supplement: int) -> Any:  # noqa: ANN401 - pydyf has no types
        text = self._pydyf.String
        fields = {"Registry": text("Adobe"), "Ordering": text(ordering), "Supplement": supplement}
        return self._pydyf.Dictionary(fields)


def _to_unicode(glyphs: dict[int, str]) -> bytes:
    """So that the text can be copied and searched (ISO 32000-1, 9.10.3)."""
    rows = [f"<{glyph:04x}> <{text.encode('utf-16-be').hex()}>" for glyph, text in sorted(glyphs.items())]
    blocks: Sequence[Sequence[str]] = [rows[at : at + 100] for at in range(0, len(rows), 100)]
    mapped = [line for block in blocks for line in (f"{len(block)} beginbfchar", *block, "endbfchar")]
    lines = [
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap",
        "/CIDSystemInfo << /Registry (Adobe) /Ordering (UCS) /Supplement 0 >> def",
        "/CMapName /Adobe-Identity-UCS def /CMapType 2 def",
        "1 begincodespacerange <0000> <ffff> endcodespacerange",
        *mapped,
        "endcmap CMapName currentdict /CMap defineresource pop end end",
    ]
    return "\n".join(lines).encode("ascii")
