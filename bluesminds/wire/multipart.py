"""multipart/form-data, read piece by piece (RFC 7578, RFC 2046).

If a server read a form differently from the gateway, it could see another model, or a part that the gateway
did not see. So everything that parsers are known to read differently is refused: bare line ends around a
boundary, text next to the boundary, a repeated header or parameter, folded headers, nested forms, and
encodings of a field's value.
"""

import re
from typing import Final

from msgspec import Struct

from bluesminds.common.errors import InvalidRequest

FORM: Final = b"multipart/form-data"
MAX_PARTS: Final = 1000
MAX_HEAD: Final = 8 * 1024  # bytes of one part's headers
MAX_TAIL: Final = 1024  # bytes of white space after the form

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_HEADER_NAME: Final = re.compile(_TOKEN)
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
# An unquoted value may have characters, such as [ and ], that should be quoted.
_PARAMETER: Final = re.compile(
    rb"[ \t]*;[ \t]*(" + _TOKEN + rb')=(?:"([^"]*)"|([^\x00-\x20\x7f"(),;<=>\\]+))'
)
_BOUNDARY: Final = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_CHARSET: Final = re.compile(rb"charset[ \t]*=[ \t]*\"?([^\";, \t]*)", re.IGNORECASE)
_ASCII_SUPERSETS: Final = frozenset((b"utf-8", b"us-ascii", b"ascii", b"iso-8859-1"))
_PLAIN_ENCODINGS: Final = frozenset((b"7bit", b"8bit", b"binary"))


class PartHead(Struct, frozen=True, gc=False):
    """The beginning of a part. `raw`: its boundary and headers as they were sent."""

    raw: bytes
    name: str
    is_file: bool


class FormEnd(Struct, frozen=True, gc=False):
    """The closing boundary, `raw`. Bytes after it are white space."""

    raw: bytes


FormEvent = PartHead | bytes | FormEnd


def is_form(content_type: bytes) -> bool:
    return content_type.partition(b";")[0].strip().lower() == FORM


def read_boundary(content_type: bytes) -> bytes:
    """The boundary in a request's Content-Type. Raises InvalidRequest."""
    kind, parameters = _split_header(content_type)
    if kind != FORM:
        raise InvalidRequest(
            "unsupported_content_type", "Send this request as multipart/form-data.", status=415
        )
    boundary = parameters.get(b"boundary")
    if boundary is None:
        raise _invalid("The Content-Type has no boundary. Let the HTTP library set this header.")
    if not _BOUNDARY.fullmatch(boundary):
        raise _invalid("The boundary in the Content-Type must have 1 to 70 characters that RFC 2046 allows.")
    return boundary


def write_content_type(boundary: bytes) -> bytes:
    written = boundary if _HEADER_NAME.fullmatch(boundary) else b'"%b"' % boundary
    return FORM + b"; boundary=" + written


def write_field(boundary: bytes, name: str, value: bytes, *, first: bool) -> bytes:
    """A text field, with the boundary before it. `first`: it is the first part of the form."""
    line_end = b"" if first else b"\r\n"
    head = b'Content-Disposition: form-data; name="%b"' % name.encode()
    return b"%b--%b\r\n%b\r\n\r\n%b" % (line_end, boundary, head, value)


class MultipartScanner:
    """Splits a form into events, independent of how its bytes arrive: PartHead, the bytes of the part's
    content, and finally FormEnd. The raw bytes of all events together are the form. At most one head, or the
    length of a boundary, is held back.
    """

    __slots__ = ("_before", "_buffer", "_mark", "_parts", "_raw", "_state", "_tail")

    def __init__(self, boundary: bytes) -> None:
        self._mark = b"--" + boundary
        self._buffer = b""
        self._before = b""  # the two bytes before the buffer
        self._raw = b""  # the boundary before the head that is being read
        self._parts = 0
        self._tail = 0
        self._state = self._start

    @property
    def ended(self) -> bool:
        """Whether the closing boundary has arrived."""
        return self._state == self._after_end

    def feed(self, data: bytes) -> list[FormEvent]:
        """The events that the next bytes complete. Raises InvalidRequest."""
        self._buffer = self._buffer + data if self._buffer else data
        events: list[FormEvent] = []
        while self._state(events):
            pass
        return events

    def finish(self) -> None:
        """Call it at the end of the request. Raises InvalidRequest if the form is incomplete."""
        if not self.ended:
            raise _invalid("The form ends before its closing boundary, so its upload is not complete.")

    # The states. Each takes what it can from the buffer and returns whether the next may have more.

    def _start(self, events: list[FormEvent]) -> bool:
        mark, buffer = self._mark, self._buffer
        at = 2 if buffer.startswith(b"\r\n") else 0
        if len(buffer) < at + len(mark) and (b"\r\n" + mark).startswith((buffer, b"\r\n" + buffer)):
            return False
        if not buffer.startswith(mark, at):
            raise _invalid("The form does not begin with the boundary that the Content-Type names.")
        return self._delimiter(events, 0, at)

    def _delimiter(self, events: list[FormEvent], start: int, at: int) -> bool:
        """A boundary at `at`, with its line end from `start` on. It waits for the two bytes after it."""
        end = at + len(self._mark)
        after = self._buffer[end : end + 2]
        if len(after) < 2:
            self._keep(start)
            return False
        raw = self._buffer[start : end + 2]
        self._keep(end + 2)
        if after == b"--":
            events.append(FormEnd(raw))
            self._state = self._after_end
            return True
        if after != b"\r\n":
            raise _invalid("A line with a boundary contains other text after it.")
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise _invalid(f"The form has more than {MAX_PARTS} parts.")
        self._raw = raw
        self._state = self._head
        return True

    def _head(self, events: list[FormEvent]) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end > MAX_HEAD or (end < 0 and len(self._buffer) > MAX_HEAD + 3):
            raise _invalid(f"A part has more than {MAX_HEAD} bytes of headers.")
        if end < 0:
            return False
        head = self._buffer[:end]
        name, is_file = _read_head(head)
        events.append(PartHead(b"%b%b\r\n\r\n" % (self._raw, head), name, is_file))
        self._keep(end + 4)
        self._before = b"\r\n"
        self._state = self._content
        return True

    def _content(self, events: list[FormEvent]) -> bool:
        mark, buffer = self._mark, self._buffer
        at = buffer.find(mark)
        while at >= 0:
            before = (self._before + buffer[max(at - 2, 0) : at])[-2:]
            if before == b"\r\n" and at >= 2:
                if at > 2:
                    events.append(buffer[: at - 2])
                return self._delimiter(events, at - 2, at)
            if before.endswith((b"\r", b"\n")):
                raise _invalid("The line end before a boundary must be CRLF.")
            at = buffer.find(mark, at + 1)
        passed = len(buffer) - len(mark) - 1
        if passed > 0:
            events.append(buffer[:passed])
            self._keep(passed)
        return False

    def _after_end(self, events: list[FormEvent]) -> bool:
        if self._buffer:
            self._tail += len(self._buffer)
            if self._buffer.strip(b" \t\r\n") or self._tail > MAX_TAIL:
                raise _invalid("There is text after the closing boundary.")
            events.append(self._buffer)
            self._keep(len(self._buffer))
        return False

    def _keep(self, start: int) -> None:
        """Drop what comes before `start`."""
        if start:
            self._before = (self._before + self._buffer[max(start - 2, 0) : start])[-2:]
            self._buffer = self._buffer[start:]


def _read_head(head: bytes) -> tuple[str, bool]:
    """The part's name, and whether it is a file. Raises InvalidRequest."""
    headers: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if not (colon and _HEADER_NAME.fullmatch(name)) or _CONTROL.search(value):
            raise _invalid("A part has a malformed header.")
        if (name := name.lower()) in headers:
            raise _invalid("A part has a header twice.")
        headers[name] = value.strip(b" \t")
    kind, parameters = _split_header(headers.get(b"content-disposition", b""))
    if kind != b"form-data" or b"name" not in parameters or b"name*" in parameters:
        raise _invalid("Every part needs the header `Content-Disposition: form-data` with a `name`.")
    encoding = headers.get(b"content-transfer-encoding", b"binary")
    if encoding.lower() not in _PLAIN_ENCODINGS:
        raise _invalid("A part has a Content-Transfer-Encoding. Send the bytes as they are.")
    is_file = b"filename" in parameters or b"filename*" in parameters
    media = headers.get(b"content-type", b"").lower()
    if media.startswith(b"multipart/"):
        raise _invalid("A part is a form itself. Send its parts in the outer form.")
    if not is_file and any(one not in _ASCII_SUPERSETS for one in _CHARSET.findall(media)):
        raise _invalid("A field has a character set other than UTF-8.")
    try:
        return parameters[b"name"].decode(), is_file
    except UnicodeDecodeError:
        raise _invalid("The name of a part is not UTF-8.") from None


def _split_header(value: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """The value before the first `;` in lower case, and the parameters by their names in lower case. Parsers
    treat a backslash before a quotation mark differently.
    """
    kind, semicolon, _ = value.partition(b";")
    parameters: dict[bytes, bytes] = {}
    at = len(kind)
    while semicolon and at < len(value):
        found = _PARAMETER.match(value, at)
        if found is None:
            raise _invalid("A header has a malformed parameter.")
        name, quoted, plain = found.groups()
        if (name := name.lower()) in parameters:
            raise _invalid("A header has a parameter twice.")
        text = plain if quoted is None else quoted
        if text.endswith(b"\\") or (name == b"name" and b"\\" in text):
            raise _invalid("A parameter of a header has a backslash, which servers interpret differently.")
        parameters[name] = text
        at = len(value) if not value[found.end() :].strip(b" \t;") else found.end()
    return kind.strip(b" \t").lower(), parameters


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest("invalid_multipart", message)
