"""Reads a TrueType font: glyphs and widths of characters, and a smaller font with some of its glyphs.

Format: https://learn.microsoft.com/typography/opentype/spec/otff. The font must have a cmap of format 12 and
long offsets in loca.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

_KEPT: Final = ("head", "hhea", "hmtx", "maxp", "cvt ", "fpgm", "prep", "loca", "glyf")
_CHECKSUM: Final = 0xB1B0AFBA  # of the whole file, for `head`
_WORDS, _MORE, _SCALE, _TWO_SCALES, _MATRIX = 1, 32, 8, 64, 128  # flags of a part of a composite glyph


class TrueTypeFont:
    def __init__(self, content: bytes) -> None:
        self._tables = dict(_tables(content))
        self._units = int(struct.unpack_from(">H", self._tables["head"], 18)[0])
        (self._widths,) = struct.unpack_from(">H", self._tables["hhea"], 34)
        (self._count,) = struct.unpack_from(">H", self._tables["maxp"], 4)
        self._offsets = struct.unpack_from(f">{self._count + 1}I", self._tables["loca"])
        self._glyphs = dict(_glyphs(self._tables["cmap"]))

    def glyph(self, character: str) -> int:
        """0 if the font does not have it."""
        return self._glyphs.get(ord(character), 0)

    def width(self, glyph: int) -> int:
        """In thousandths of the size."""
        at = 4 * min(glyph, self._widths - 1)
        (width,) = struct.unpack_from(">H", self._tables["hmtx"], at)
        return int(width) * 1000 // self._units

    @property
    def box(self) -> tuple[int, int, int, int]:
        """What surrounds all glyphs, in thousandths of the size."""
        x0, y0, x1, y1 = (
            value * 1000 // self._units for value in struct.unpack_from(">4h", self._tables["head"], 36)
        )
        return x0, y0, x1, y1

    def subset(self, glyphs: Iterable[int]) -> bytes:
        """A font in which all other glyphs are empty. The numbers of the glyphs stay."""
        kept, offsets, content = self._with_parts(glyphs), [0], bytearray()
        for glyph in range(self._count):
            if glyph in kept:
                outline = self._outline(glyph)
                content += outline + bytes(-len(outline) % 4)
            offsets.append(len(content))
        loca = struct.pack(f">{len(offsets)}I", *offsets)
        return _font(self._tables | {"glyf": bytes(content), "loca": loca})

    def _outline(self, glyph: int) -> bytes:
        return self._tables["glyf"][self._offsets[glyph] : self._offsets[glyph + 1]]

    def _with_parts(self, glyphs: Iterable[int]) -> set[int]:
        found, waiting = set[int](), [0, *glyphs]
        while waiting:
            glyph = waiting.pop()
            if glyph not in found:
                found.add(glyph)
                waiting += _parts(self._outline(glyph))
        return found


def _tables(content: bytes) -> Iterator[tuple[str, bytes]]:
    (count,) = struct.unpack_from(">H", content, 4)
    for number in range(count):
        tag, _, offset, length = struct.unpack_from(">4sIII", content, 12 + 16 * number)
        yield tag.decode("ascii"), content[offset : offset + length]


def _glyphs(cmap: bytes) -> Iterator[tuple[int, int]]:
    (count,) = struct.unpack_from(">H", cmap, 2)
    for number in range(count):
        _, _, offset = struct.unpack_from(">HHI", cmap, 4 + 8 * number)
        if struct.unpack_from(">H", cmap, offset) == (12,):
            (groups,) = struct.unpack_from(">I", cmap, offset + 12)
            for group in range(groups):
                first, last, glyph = struct.unpack_from(">III", cmap, offset + 16 + 12 * group)
                yield from ((code, glyph + code - first) for code in range(first, last + 1))
            return
    raise ValueError("the font has no cmap of format 12")


def _parts(outline: bytes) -> Iterator[int]:
    """The glyphs that a composite glyph consists of."""
    if len(outline) < 10 or struct.unpack_from(">h", outline) >= (0,):
        return
    at, flags = 10, _MORE
    while flags & _MORE:
        flags, glyph = struct.unpack_from(">HH", outline, at)
        yield glyph
        at += 8 if flags & _WORDS else 6
        at += 2 if flags & _SCALE else 4 if flags & _TWO_SCALES else 8 if flags & _MATRIX else 0


def _font(tables: Mapping[str, bytes]) -> bytes:
    kept = sorted(tag for tag in _KEPT if tag in tables)
    power = 1 << (len(kept).bit_length() - 1)
    search = power * 16
    head = struct.pack(
        ">IHHHH", 0x00010000, len(kept), search, power.bit_length() - 1, len(kept) * 16 - search
    )
    entries, content = bytearray(), bytearray()
    start = len(head) + 16 * len(kept)
    for tag in kept:
        table = tables[tag]
        if tag == "head":
            table = table[:8] + bytes(4) + table[12:]
            head_at = start + len(content) + 8
        entries += struct.pack(">4sIII", tag.encode("ascii"), _sum(table), start + len(content), len(table))
        content += table + bytes(-len(table) % 4)
    font = bytearray(head + entries + content)
    struct.pack_into(">I", font, head_at, (_CHECKSUM - _sum(font)) % 2**32)
    return bytes(font)


def _sum(content: bytes | bytearray) -> int:
    padded = bytes(content) + bytes(-len(content) % 4)
    return int(sum(struct.unpack(f">{len(padded) // 4}I", padded))) % 2**32
