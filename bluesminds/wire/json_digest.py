"""A short JSON object with the same facts as a long one that passes in pieces: its small values, and the
number of items in its lists.
"""

import re
from typing import Final

MAX_VALUE: Final = 256 * 1024  # bytes of a value that is kept
MAX_KEY: Final = 256  # bytes of a key
_MARK: Final = re.compile(rb'["{}\[\],:]')
_SPACE: Final = b" \t\r\n"
_BOM: Final = b"\xef\xbb\xbf"


class JsonDigest:
    """Feed it an object piece by piece. `names` are the keys whose values are kept; of other values, and of
    those above MAX_VALUE, only lists leave something: as many zeros as they have items. It does not check
    that the JSON is valid.
    """

    def __init__(self, *names: str) -> None:
        self._names = {f'"{name}"'.encode() for name in names}
        self._depth = 0
        self._in_string = False
        self._escaping = False  # the last byte of a string so far is a backslash that is not escaped itself
        self._token = bytearray()  # the key, or the value that is being read
        self._key = b""
        self._in_value = False
        self._keeps = True
        self._items = 0  # of the list at depth 2
        self._item_open = False
        self._is_list = False
        self._found: dict[bytes, bytes] = {}
        self._closed = False
        self._broken = False

    @property
    def is_complete(self) -> bool:
        """Whether the object has ended, and nothing but white space followed."""
        return self._closed and not self._broken

    def feed(self, data: bytes) -> None:
        at = 0
        while at < len(data) and not self._broken:
            at = self._skip_string(data, at) if self._in_string else self._step(data, at)

    def write(self) -> bytes:
        """The short object."""
        return b"{" + b",".join(b"%b:%b" % pair for pair in self._found.items()) + b"}"

    def _skip_string(self, data: bytes, at: int) -> int:
        """To the end of a string that has begun."""
        end = data.find(b'"', at)
        stop = len(data) if end < 0 else end
        run = stop - at - len(data[at:stop].rstrip(b"\\"))
        if run == stop - at and self._escaping:
            run += 1
        self._escaping = run % 2 == 1
        if end < 0:
            self._note(data[at:])
            return len(data)
        self._in_string = self._escaping
        self._escaping = False
        self._note(data[at : end + 1])
        return end + 1

    def _step(self, data: bytes, at: int) -> int:
        """Over the bytes before the next mark outside of strings, and over the mark."""
        found = _MARK.search(data, at)
        if found is None:
            self._note(data[at:])
            return len(data)
        end = found.start()
        if end > at:
            self._note(data[at:end])
        mark = found[0]
        if self._closed or (self._depth == 0 and mark != b"{"):
            self._broken = True
        elif mark == b'"':
            self._in_string = True
            self._note(mark)
        elif mark in b"{[":
            self._open(mark)
        elif mark in b"}]":
            self._close(mark)
        elif self._depth == 1:
            self._separate(mark)
        else:
            if mark == b"," and self._depth == 2:
                self._items += 1
                self._item_open = False
            self._note(mark, counts=False)
        return end + 1

    def _open(self, mark: bytes) -> None:
        if self._depth == 1:
            self._is_list = mark == b"["
        if self._depth:
            self._note(mark)
        self._depth += 1
        if self._depth == 2:
            self._items, self._item_open = 0, False

    def _close(self, mark: bytes) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._end_value()
            self._closed = True
            return
        if self._depth == 1 and self._item_open:
            self._items += 1
        self._note(mark, counts=False)

    def _separate(self, mark: bytes) -> None:
        """A colon or a comma between the values of the object."""
        if mark == b",":
            self._end_value()
        elif not self._in_value:
            self._key = bytes(self._token).strip()
            self._token.clear()
            self._in_value, self._is_list = True, False
            self._keeps = self._key in self._names

    def _end_value(self) -> None:
        if self._in_value:
            if self._keeps:
                self._found[self._key] = bytes(self._token).strip()
            elif self._is_list:
                self._found[self._key] = b"[%b]" % b",".join([b"0"] * min(self._items, MAX_VALUE))
        self._token.clear()
        self._in_value = False

    def _note(self, piece: bytes, *, counts: bool = True) -> None:
        """Bytes of a key or a value."""
        if counts and self._depth >= 2 and not self._item_open and piece.strip(_SPACE):
            self._item_open = True
        if self._closed or self._depth == 0:
            self._broken = self._broken or bool(piece.strip(_SPACE + _BOM))
        elif not self._in_value:
            self._token += piece[: MAX_KEY + 1 - len(self._token)]
        elif self._keeps:
            if len(self._token) + len(piece) > MAX_VALUE:
                self._keeps = False
                self._token.clear()
            else:
                self._token += piece
