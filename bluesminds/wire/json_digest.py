"""A short JSON object with the same facts as a long one that passes in pieces: its small values, and the
number of items in its lists.
"""

import re
from typing import Final

MAX_VALUE: Final = 256 * 1024  # bytes of a value that is kept, and items of a list that are counted
MAX_KEY: Final = 256  # bytes of a key
# A string, whose group is empty if its end is missing; or a mark.
_TOKEN: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*("?)|[{}\[\],:]', re.DOTALL)
_QUOTE, _COLON, _COMMA = b'":,'
_OPEN: Final = frozenset(b"{[")
_LIST: Final = b"["[0]
_OBJECT: Final = b"{"[0]
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
        self._token = bytearray()  # of the key, or of the value, as far as it is kept
        self._key = b""
        self._in_value = False
        self._keeps = True
        self._is_list = False
        self._items = 0
        self._in_item = False
        self._found: dict[bytes, bytes] = {}
        self._closed = False
        self._broken = False

    @property
    def is_complete(self) -> bool:
        """Whether the object has ended, and nothing but white space followed."""
        return self._closed and not self._broken

    def feed(self, data: bytes) -> None:
        noted = at = self._end_string(data) if self._in_string else 0
        if self._in_string or self._broken:
            return
        for found in _TOKEN.finditer(data, at):
            start, end = found.span()
            mark = data[start]
            if self._depth == 2 and (mark == _QUOTE or mark in _OPEN or data[at:start].strip(_SPACE)):
                self._in_item = True
            at = end
            if mark == _QUOTE:
                if not found[1]:
                    self._in_string, self._escaping = True, end < len(data)
            elif self._depth < 2 or (self._depth == 2 and mark not in _OPEN):
                if (noted := self._step(mark, data, noted, start)) < 0:
                    return
            elif mark in _OPEN:
                self._depth += 1
            elif mark not in (_COLON, _COMMA):
                self._depth -= 1
        if self._depth == 2 and data[at:].strip(_SPACE):
            self._in_item = True
        self._note(data[noted:])

    def write(self) -> bytes:
        """The short object."""
        return b"{" + b",".join(b"%b:%b" % pair for pair in self._found.items()) + b"}"

    def _end_string(self, data: bytes) -> int:
        """The end of a string that an earlier piece began. The bytes before it are noted."""
        at = 1 if self._escaping else 0
        while (end := data.find(b'"', at)) >= 0:
            run = end - at - len(data[at:end].rstrip(b"\\"))
            if run % 2 == 0:
                self._in_string = self._escaping = False
                self._note(data[: end + 1])
                return end + 1
            at = end + 1
        if data:
            run = len(data) - at - len(data[at:].rstrip(b"\\"))
            self._escaping = run % 2 == 1
        self._note(data)
        return len(data)

    def _step(self, mark: int, data: bytes, noted: int, start: int) -> int:
        """A mark of the object itself, or of a list or an object in it. Returns the offset of the bytes that
        are not noted yet; -1 if this is not an object.
        """
        if self._depth == 2:
            if mark == _COMMA:
                self._items += 1
                self._in_item = False
            elif mark != _COLON:
                self._items += self._in_item
                self._depth = 1
            return noted
        self._note(data[noted:start])
        if self._closed or (self._depth == 0 and mark != _OBJECT):
            self._broken = True
            return -1
        if self._depth == 0:
            self._depth = 1
        elif mark in _OPEN:
            self._is_list = mark == _LIST
            self._depth, self._items, self._in_item = 2, 0, False
            return start
        elif mark == _COLON:
            self._key, self._in_value, self._is_list = bytes(self._token).strip(_SPACE), True, False
            self._token.clear()
            self._keeps = self._key in self._names
        else:
            self._end_value()
            self._closed = mark != _COMMA
            self._depth = 1 if mark == _COMMA else 0
        return start + 1

    def _end_value(self) -> None:
        if self._in_value and self._keeps:
            self._found[self._key] = bytes(self._token).strip(_SPACE)
        elif self._in_value and self._is_list:
            self._found[self._key] = b"[%b]" % b",".join([b"0"] * min(self._items, MAX_VALUE))
        self._token.clear()
        self._in_value = False

    def _note(self, piece: bytes) -> None:
        """Bytes of a key or a value, or outside of the object."""
        if self._depth == 0:
            self._broken = self._broken or bool(piece.strip(_SPACE + _BOM))
        elif not self._in_value:
            self._token += piece[: MAX_KEY + 1 - len(self._token)]
        elif self._keeps:
            self._keeps = len(self._token) + len(piece) <= MAX_VALUE
            if self._keeps:
                self._token += piece
            else:
                self._token.clear()
