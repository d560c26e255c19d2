"""Framing of one response, without I/O: ASGI response messages to HTTP/1.1 bytes.

The head is sent with the first part of the body, so a complete response is one buffer and a streamed part is
one chunk. Line ends in headers and a body that differs from its declared length are errors.
"""

from collections.abc import Iterable
from http import HTTPStatus

from bluesminds.http.server.request_parser import ParsedRequest

_STATUS_LINES = {int(status): f"HTTP/1.1 {status} {status.phrase}\r\n".encode() for status in HTTPStatus}
_HOP = frozenset((b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"content-length", b"date"))
_LAST_CHUNK = b"0\r\n\r\n"
_LENGTH, _CHUNKED, _UNTIL_CLOSE, _NOTHING = range(4)


class ResponseFramer:
    """`close`: whether the connection closes after this response. It may be set until `start` is called."""

    __slots__ = ("_framing", "_remaining", "_request", "close", "done", "started")

    def __init__(self, request: ParsedRequest, close: bool) -> None:
        self._request = request
        self._framing = _NOTHING
        self._remaining = 0
        self.close = close
        self.started = False
        self.done = False

    @property
    def ends_by_close(self) -> bool:
        return self._framing == _UNTIL_CLOSE

    def start(
        self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes, more: bool, date: bytes
    ) -> bytes:
        """The head and the first part. `date`: a full header line. RuntimeError for an invalid response."""
        lines = [_status_line(status)]
        declared: int | None = None
        options = []
        for name, value in headers:
            lower = name.lower()
            if lower not in _HOP:
                lines.append(b"%b: %b\r\n" % (name, value))
            elif lower == b"content-length":
                declared = int(value)
            elif lower == b"date":
                date = b"date: %b\r\n" % value
            elif lower == b"connection" and b"close" in value.lower():
                self.close = True
            elif lower == b"upgrade" and status == HTTPStatus.UPGRADE_REQUIRED:
                lines.append(b"upgrade: %b\r\n" % value)
                options.append(b"upgrade")
        lines.append(date)
        framing = self._frame_line(status, declared, len(body), more)
        if framing:
            lines.append(framing)
        if self.close:
            options.append(b"close")
        elif self._request.version == "1.0":
            options.append(b"keep-alive")
        if options:
            lines.append(b"connection: %b\r\n" % b", ".join(options))
        head = b"".join(lines)
        if not head.count(b"\r\n") == head.count(b"\n") == head.count(b"\r") == len(lines) or b"\0" in head:
            raise RuntimeError("a response header holds a line end or NUL")
        piece = self.continue_(body, more)
        self.started = True
        return b"%b\r\n%b" % (head, piece)

    def _frame_line(self, status: int, declared: int | None, size: int, more: bool) -> bytes:
        """Choose the framing and return its header line."""
        if status in (204, 304) or self._request.method == "HEAD":
            self._framing = _NOTHING
            if declared is None and not more and status not in (204, 304):
                declared = size
            return b"" if declared is None or status == 204 else b"content-length: %d\r\n" % declared
        if declared is None and not more:
            declared = size
        if declared is not None:
            self._framing, self._remaining = _LENGTH, declared
            return b"content-length: %d\r\n" % declared
        if self._request.version == "1.1":
            self._framing = _CHUNKED
            return b"transfer-encoding: chunked\r\n"
        self._framing, self.close = _UNTIL_CLOSE, True
        return b""

    def continue_(self, body: bytes, more: bool) -> bytes:
        """The next part. RuntimeError if it breaks the declared length."""
        framing = self._framing
        if framing == _CHUNKED:
            data = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not more:
                self.done = True
                data += _LAST_CHUNK
            return data
        if framing == _LENGTH:
            self._remaining -= len(body)
            if self._remaining < 0 or (self._remaining and not more):
                raise RuntimeError("the response body differs from its content-length")
        self.done = not more
        return b"" if framing == _NOTHING else body


def _status_line(status: int) -> bytes:
    line = _STATUS_LINES.get(status)
    if line is None or status < 200:
        if not 200 <= status <= 599:
            raise RuntimeError(f"{status} is not a final response status")
        line = b"HTTP/1.1 %d \r\n" % status
    return line
