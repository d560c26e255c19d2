"""The two embedded fonts of invoices, regular and bold: glyphs and widths of characters, and subsets."""

from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from io import BytesIO

import font_source_sans_pro
from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont
from msgspec import Struct

# A PDF file has its own map from characters to glyphs, and needs no layout tables (ISO 32000-1, 9.9).
_UNUSED_TABLES = ("BASE", "DSIG", "GDEF", "GPOS", "GSUB", "OS/2", "cmap", "gasp", "name", "post")


class InvoiceFont(Struct, frozen=True):
    """All lengths are in thousandths of the font size. `glyphs`: by code point. `widths`: by glyph."""

    name: str
    content: bytes
    glyphs: dict[int, int]
    widths: list[int]
    box: list[int]
    cap_height: int

    def glyph(self, character: str) -> int:
        """0 if the font does not have it."""
        return self.glyphs.get(ord(character), 0)

    def width(self, character: str) -> int:
        """That of "?" if the font does not have it."""
        return self.widths[self.glyph(character) or self.glyph("?")]

    def subset(self, glyphs: Iterable[int]) -> bytes:
        """A font in which all other glyphs are empty. The numbers of the glyphs stay."""
        subsetter = Subsetter(Options(retain_gids=True, notdef_outline=True, hinting=False))
        subsetter.populate(gids=glyphs)
        output = BytesIO()
        with _opened(self.content) as font:
            font.getGlyphOrder()  # needs `post`
            for tag in _UNUSED_TABLES:  # the subsetter would read them before it drops them
                del font[tag]
            subsetter.subset(font)
            font.save(output)
        return output.getvalue()


@cache
def invoice_font(is_bold: bool) -> InvoiceFont:
    name = "SourceSansPro-Bold" if is_bold else "SourceSansPro-Regular"
    content = files(font_source_sans_pro).joinpath(f"files/{name}.ttf").read_bytes()
    with _opened(content) as font:
        head, metrics, units = font["head"], font["hmtx"].metrics, font["head"].unitsPerEm
        return InvoiceFont(
            name,
            content,
            {code: font.getGlyphID(glyph) for code, glyph in font.getBestCmap().items()},
            [metrics[glyph][0] * 1000 // units for glyph in font.getGlyphOrder()],
            [value * 1000 // units for value in (head.xMin, head.yMin, head.xMax, head.yMax)],
            font["OS/2"].sCapHeight * 1000 // units,
        )


def _opened(content: bytes) -> TTFont:
    """The time of the font stays, so that the same invoice is the same file."""
    return TTFont(BytesIO(content), recalcTimestamp=False)
