"""Writes an invoice as a PDF file. Long lines are wrapped, and what does not fit begins another page.

The glyphs that are used are embedded. The letters of Chinese, Japanese and Korean are not in the font; they
are written with the fonts that each PDF viewer has for them (ISO 32000-1, 9.7.5.2). Other letters that are
not in the font become "?". Only load this module to write a file: its libraries are large.
"""

from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from itertools import groupby
from typing import Any, Final

import pydyf
from msgspec import Struct

from bluesminds.accounts.billing.invoice_font import InvoiceFont, invoice_font
from bluesminds.accounts.billing.invoices import Invoice

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


def write_pdf(invoice: Invoice) -> bytes:
    pages = list(_pages(invoice))
    file = _PdfFile(f"{invoice.title} {invoice.number}", [one for page in pages for one in page])
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


def _is_of_viewer(character: str) -> bool:
    first, last = _VIEWER_FONTS[0][:2]
    return first <= ord(character) <= last and not invoice_font(False).glyph(character)


def _known(text: Iterable[str], font: InvoiceFont) -> Iterator[str]:
    """With a "?" for each character that no font has."""
    for one in text:
        yield one if font.glyph(one) else "?"


def _width(text: str, size: float, is_bold: bool = False) -> float:
    font = invoice_font(is_bold)
    return sum(1000 if _is_of_viewer(one) else font.width(one) for one in text) * size / 1000


def _command(placed: PlacedText) -> bytes:
    font, embedded = invoice_font(placed.is_bold), b"F2" if placed.is_bold else b"F1"
    x = placed.x - (_width(placed.text, placed.size, placed.is_bold) if placed.is_right else 0)
    parts = [b"BT 1 0 0 1 %.2f %.2f Tm" % (x, placed.y)]
    for is_of_viewer, run in groupby(placed.text, _is_of_viewer):
        if is_of_viewer:
            name, codes = b"F3", "".join(run).encode("utf-16-be")
        else:
            name, codes = embedded, b"".join(font.glyph(one).to_bytes(2, "big") for one in _known(run, font))
        parts.append(b"/%b %d Tf <%b> Tj" % (name, placed.size, codes.hex().encode()))
    return b" ".join([*parts, b"ET"])


class _PdfFile:
    """`placed`: all text of the file."""

    def __init__(self, title: str, placed: Sequence[PlacedText]) -> None:
        self._document = pydyf.PDF()
        self._document.info["Title"] = pydyf.String(title)
        regular, bold = (
            "".join(one.text for one in placed if one.is_bold == is_bold) for is_bold in (False, True)
        )
        fonts = {
            "F1": self._embedded_font(regular, invoice_font(False)),
            "F2": self._embedded_font(bold, invoice_font(True)),
            "F3": self._viewer_font(regular + bold),
        }
        self._resources = pydyf.Dictionary({"Font": pydyf.Dictionary(fonts)})

    def add_page(self, placed: Sequence[PlacedText]) -> None:
        page = pydyf.Dictionary(
            {
                "Type": "/Page",
                "Parent": self._document.pages.reference,
                "MediaBox": pydyf.Array([0, 0, *_PAGE]),
                "Contents": self._stream([_command(one) for one in placed]),
                "Resources": self._resources,
            }
        )
        self._document.add_page(page)

    def content(self) -> bytes:
        output = BytesIO()
        self._document.write(output)
        return output.getvalue()

    def _embedded_font(self, text: str, font: InvoiceFont) -> bytes:
        name = f"/AAAAAA+{font.name}"
        glyphs = {font.glyph(one): one for one in _known(text, font)}
        subset = font.subset(glyphs)
        descriptor = self._added(
            Type="/FontDescriptor",
            FontName=name,
            Flags=4,
            FontBBox=pydyf.Array(font.box),
            ItalicAngle=0,
            Ascent=font.box[3],
            Descent=font.box[1],
            CapHeight=font.cap_height,
            StemV=80,
            FontFile2=self._stream([subset], Length1=len(subset)),
        )
        widths = [part for one in sorted(glyphs) for part in (one, pydyf.Array([font.widths[one]]))]
        descendant = self._added(
            Type="/Font",
            Subtype="/CIDFontType2",
            BaseFont=name,
            CIDSystemInfo=self._system("Identity", 0),
            FontDescriptor=descriptor,
            CIDToGIDMap="/Identity",
            W=pydyf.Array(widths),
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
            FontBBox=pydyf.Array([0, -200, 1000, 900]),
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
        descendants = pydyf.Array([descendant])
        return self._added(
            Type="/Font",
            Subtype="/Type0",
            BaseFont=name,
            Encoding=encoding,
            DescendantFonts=descendants,
            **more,
        )

    def _added(self, **fields: object) -> bytes:
        made = pydyf.Dictionary(fields)
        self._document.add_object(made)
        return bytes(made.reference)

    def _stream(self, content: Sequence[bytes], **fields: object) -> bytes:
        made = pydyf.Stream(content, fields, compress=True)
        self._document.add_object(made)
        return bytes(made.reference)

    def _system(self, ordering: str, supplement: int) -> Any:  # noqa: ANN401 - pydyf has no types
        text = pydyf.String
        fields = {"Registry": text("Adobe"), "Ordering": text(ordering), "Supplement": supplement}
        return pydyf.Dictionary(fields)


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
