"""Bounded decoding of responses that are compressed although `identity` was requested.

Output comes in pieces of at most PIECE_BYTES, so a compression bomb needs no memory. The total and the ratio
of output to input are limited, so that it needs little time.
"""

import zlib

PIECE_BYTES = 256 * 1024  # bytes returned by one step
MAX_DECODED = 256 * 1024 * 1024  # bytes of one decoded body
MAX_RATIO = 200  # output to input, checked after FREE_BYTES of output; DEFLATE reaches 1032
FREE_BYTES = 1024 * 1024

_GZIP = 31
_ZLIB = 15
_RAW = -15


class DecodeError(Exception):
    """The body does not match its Content-Encoding, or is a compression bomb."""


class Decoder:
    """Incremental decoder. `deflate` accepts the zlib format and the raw one that some servers send."""

    __slots__ = ("_gzip", "_has_more", "_in", "_inflate", "_out", "_pending")

    def __init__(self, coding: bytes) -> None:
        """coding: a Content-Encoding value. Raises DecodeError for anything but one supported coding."""
        if coding not in (b"gzip", b"x-gzip", b"deflate"):
            raise DecodeError("the response has a Content-Encoding that was not requested")
        self._gzip = coding != b"deflate"
        self._inflate = zlib.decompressobj(_GZIP) if self._gzip else None
        self._pending = b""
        self._has_more = False  # the last piece was cut at PIECE_BYTES, so zlib may hold more output
        self._in = 0
        self._out = 0

    @property
    def finished(self) -> bool:
        """Whether everything fed so far forms a complete body."""
        return not (self._pending or self._has_more) and (
            self._in == 0 or (self._inflate is not None and self._inflate.eof)
        )

    def feed(self, data: bytes) -> None:
        self._in += len(data)
        self._pending += data

    def step(self) -> bytes:
        """The next decoded piece; b"" when more input is needed. Raises DecodeError."""
        while self._pending or self._has_more:
            inflate = self._inflate or self._sniff()
            if inflate is None:
                break
            if inflate.eof:
                inflate = self._next_member()
            try:
                piece = inflate.decompress(self._pending, PIECE_BYTES)
            except zlib.error:
                raise DecodeError("the compressed response body is malformed") from None
            self._pending = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
            self._has_more = len(piece) == PIECE_BYTES and not inflate.eof
            if piece:
                self._count(len(piece))
                return piece
        return b""

    def _sniff(self) -> "zlib._Decompress | None":
        if len(self._pending) < 2:
            return None
        first, second = self._pending[:2]
        is_zlib = first & 0x0F == 8 and (first << 8 | second) % 31 == 0
        self._inflate = zlib.decompressobj(_ZLIB if is_zlib else _RAW)
        return self._inflate

    def _next_member(self) -> "zlib._Decompress":
        if not self._gzip:
            raise DecodeError("the compressed response body has bytes after its end")
        self._inflate = zlib.decompressobj(_GZIP)
        return self._inflate

    def _count(self, size: int) -> None:
        self._out += size
        if self._out > MAX_DECODED or self._out > max(FREE_BYTES, MAX_RATIO * self._in):
            raise DecodeError("the compressed response body expands beyond the limit")
