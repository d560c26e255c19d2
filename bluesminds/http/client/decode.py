"""Bounded decoding of answers that are compressed although `identity` was asked for.

Output comes in pieces of at most PIECE bytes, so a bomb costs no memory, and both the total and the ratio
of output to input are limited, so it costs little time either.
"""

import zlib

PIECE = 256 * 1024  # bytes returned by one step
MAX_DECODED = 256 * 1024 * 1024  # bytes of one decoded body
MAX_RATIO = 200  # output to input, once FREE bytes are out; DEFLATE itself reaches 1032
FREE = 1024 * 1024

_GZIP = 31
_ZLIB = 15
_RAW = -15


class DecodeError(Exception):
    """The body is not what its Content-Encoding says, or is a bomb."""


class Decoder:
    """Incremental decoder. `deflate` takes zlib's format and the bare one that some servers send."""

    __slots__ = ("_full", "_gzip", "_in", "_inflate", "_out", "_rest")

    def __init__(self, coding: bytes) -> None:
        """coding: a Content-Encoding value. Raises DecodeError for anything but one known coding."""
        if coding not in (b"gzip", b"x-gzip", b"deflate"):
            raise DecodeError("the answer's Content-Encoding was not asked for")
        self._gzip = coding != b"deflate"
        self._inflate = zlib.decompressobj(_GZIP) if self._gzip else None
        self._rest = b""
        self._full = False  # the last piece was cut at PIECE, so zlib may hold more output
        self._in = 0
        self._out = 0

    @property
    def finished(self) -> bool:
        """Whether everything fed so far forms a complete body."""
        return not (self._rest or self._full) and (
            self._in == 0 or (self._inflate is not None and self._inflate.eof)
        )

    def feed(self, data: bytes) -> None:
        self._in += len(data)
        self._rest += data

    def step(self) -> bytes:
        """The next decoded piece; b"" when more input is needed. Raises DecodeError."""
        while self._rest or self._full:
            inflate = self._inflate or self._sniff()
            if inflate is None:
                break
            if inflate.eof:
                inflate = self._next_member()
            try:
                piece = inflate.decompress(self._rest, PIECE)
            except zlib.error:
                raise DecodeError("the answer's compressed body is malformed") from None
            self._rest = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
            self._full = len(piece) == PIECE and not inflate.eof
            if piece:
                self._count(len(piece))
                return piece
        return b""

    def _sniff(self) -> "zlib._Decompress | None":
        if len(self._rest) < 2:
            return None
        first, second = self._rest[:2]
        is_zlib = first & 0x0F == 8 and (first << 8 | second) % 31 == 0
        self._inflate = zlib.decompressobj(_ZLIB if is_zlib else _RAW)
        return self._inflate

    def _next_member(self) -> "zlib._Decompress":
        if not self._gzip:
            raise DecodeError("the answer's compressed body has bytes after its end")
        self._inflate = zlib.decompressobj(_GZIP)
        return self._inflate

    def _count(self, size: int) -> None:
        self._out += size
        if self._out > MAX_DECODED or self._out > max(FREE, MAX_RATIO * self._in):
            raise DecodeError("the answer's compressed body expands too far")
