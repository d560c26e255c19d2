"""Bytes of one HTTP/1.x connection to requests, without I/O. llhttp parses, this module validates.

Every request returned has unambiguous framing: one Host, one length or chunked, one reading of its target.
Anything else ends the input with a Rejection, after the valid requests before it. Memory and CPU are bounded
by ListenerLimits and the size of the input. `Upgrade` is ignored, as RFC 9110 allows, except for a WebSocket
handshake, which is the connection's last request.
"""

import re
from collections import deque
from typing import NoReturn
from urllib.parse import unquote

import httptools

from bluesminds.http.server import rejections
from bluesminds.http.server.authority import is_valid_authority
from bluesminds.http.server.limits import ListenerLimits
from bluesminds.http.server.rejections import Rejection

Header = tuple[bytes, bytes]

_FRAMING = frozenset((b"host", b"content-length", b"transfer-encoding", b"expect", b"upgrade"))
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)([^#]*)", re.IGNORECASE)
_BYTES_PER_CHUNK = 12  # a size of eight digits and two line ends


class _Rejected(Exception):
    """Ends parsing from inside a callback; the reason is in RequestParser.rejection."""


class ParsedRequest:
    """One request as far as it has arrived. `pieces`: the body bytes not yet read by the app."""

    __slots__ = (
        "chunked",
        "complete",
        "expects_continue",
        "headers",
        "keep_alive",
        "length",
        "method",
        "pieces",
        "received",
        "target",
        "version",
        "websocket",
    )

    def __init__(self, method: str, version: str, headers: list[Header]) -> None:
        self.method = method
        self.version = version
        self.headers = headers
        self.target = ("", b"", b"")  # decoded path, raw path, query string
        self.length = 0
        self.chunked = False
        self.keep_alive = True
        self.expects_continue = False
        self.websocket = False
        self.pieces: list[bytes] = []
        self.received = 0
        self.complete = False


class RequestParser:
    """The parser of one connection. Feed it, then pop requests from `ready`; the last may be incomplete."""

    __slots__ = (
        "_chunks",
        "_current",
        "_expect",
        "_fed",
        "_head_at",
        "_head_exact",
        "_head_fed",
        "_headers",
        "_host",
        "_length",
        "_limits",
        "_overhead",
        "_parser",
        "_raw",
        "_seen_host",
        "_seen_target",
        "_seen_url",
        "_transfer",
        "_upgrade",
        "_upgrading",
        "_url",
        "ended",
        "leftover",
        "mid_head",
        "ready",
        "rejection",
    )

    def __init__(self, limits: ListenerLimits) -> None:
        self._limits = limits
        self.ready: deque[ParsedRequest] = deque()
        self.rejection: Rejection | None = None
        self.ended = False
        self.mid_head = False
        self.leftover = b""
        self._current: ParsedRequest | None = None
        self._upgrading = False
        self._fed = self._head_fed = self._overhead = self._chunks = 0
        self._seen_host: bytes | None = None
        self._seen_url: bytes | None = None
        self._seen_target = ("", b"", b"")
        self._raw = b""  # the input that holds the next head
        self._head_at = 0  # where that head begins in it
        self._head_exact = True  # False: somewhere after _head_at, behind a chunked body
        self._parser = httptools.HttpRequestParser(self)
        self._begin()

    def _begin(self) -> None:
        self._url = b""
        self._headers: list[Header] = []
        self._host: bytes | None = None
        self._length: bytes | None = None
        self._transfer: bytes | None = None
        self._expect: bytes | None = None
        self._upgrade: bytes | None = None

    def feed(self, data: bytes) -> None:
        """Parse the next bytes. Once `ended`, further input is ignored."""
        current = self._current
        received = current.received if current else 0
        self._fed = len(data)
        self._locate_head(data)
        rest: bytes | None = data
        while rest is not None and not self.ended:
            rest = self._parse(rest)
        if self.ended:
            return
        self._head_fed = self._head_fed + len(data) if self.mid_head else 0
        if self._head_fed > self._limits.header_bytes:
            self._end(rejections.HEADERS_TOO_LARGE)
        elif current is not None and current is self._current and current.chunked:
            self._overhead += len(data) - (current.received - received)
            if self._overhead > self._limits.header_bytes + _BYTES_PER_CHUNK * self._chunks:
                self._end(rejections.TOO_MANY_CHUNKS)

    def _locate_head(self, data: bytes) -> None:
        current = self._current
        if self.mid_head:
            self._raw += data
            return
        self._raw = data
        self._head_exact = current is None or not current.chunked
        self._head_at = 0 if current is None or current.chunked else current.length - current.received

    def _parse(self, data: bytes) -> bytes | None:
        """Feed llhttp once. Returns the bytes after an upgrade request's head, to be fed again."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            return self._after_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if self.ended:
                return None
            cause = error.__context__
            if isinstance(error, httptools.HttpParserCallbackError) and cause is not None:
                raise cause from None
            self._end(rejections.malformed(str(error).replace("`", "")))
        return None

    def _end(self, rejection: Rejection | None) -> None:
        self.ended = True
        self.mid_head = False
        self.rejection = rejection

    def _reject(self, rejection: Rejection) -> NoReturn:
        self._end(rejection)
        raise _Rejected

    def _after_upgrade(self, rest: bytes) -> bytes | None:
        """Continue as if no upgrade had been requested, unless it is a WebSocket handshake."""
        request = self.ready[-1]
        self._upgrading = False
        if request.websocket:
            self.leftover = rest
            self._complete(request)
            self.ended = True
            return None
        self._parser = httptools.HttpRequestParser(self)
        if not (request.length or request.chunked):
            self._complete(request)
            return rest
        framing = b"transfer-encoding: chunked" if request.chunked else b"content-length: %d" % request.length
        self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n\r\n" % framing)
        return rest

    def _complete(self, request: ParsedRequest) -> None:
        request.complete = True
        self._current = None
        self._head_fed = -self._fed  # these bytes do not count for the next head, or only in part
        if not request.keep_alive:
            self.ended = True

    # llhttp's callbacks. While a body is being read, anything but body is a trailer (or the substitute head
    # written by _after_upgrade) and is dropped.

    def on_message_begin(self) -> None:
        if self._current is None:
            if self.ended:
                raise _Rejected
            self.mid_head = True

    def on_url(self, url: bytes) -> None:
        if self._current is None:
            self._url += url
            if len(self._url) > self._limits.url_bytes:
                self._reject(rejections.URL_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._current is not None:
            return
        name = name.lower()
        value = value.rstrip(b" \t")
        self._headers.append((name, value))
        if name in _FRAMING:
            self._keep_framing_header(name, value)

    def _keep_framing_header(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            if self._host is not None:
                self._reject(rejections.malformed("more than one Host"))
            self._host = value
        elif name == b"content-length":
            self._length = value
        elif name == b"transfer-encoding":
            self._transfer = value.lower() if self._transfer is None else b"several"
        elif name == b"expect":
            self._expect = value.lower()
        else:
            self._upgrade = value.lower()

    def on_headers_complete(self) -> None:
        if self._current is not None:
            return
        self.mid_head = False
        self._check_size()
        parser = self._parser
        version = parser.get_http_version()
        request = ParsedRequest(parser.get_method().decode("ascii"), version, self._headers)
        request.keep_alive = parser.should_keep_alive()
        self._check_framing(request)
        self._check_request_line(request)
        request.target = self._target(request)
        if parser.should_upgrade():
            self._upgrading = True
            request.websocket = (
                self._upgrade == b"websocket"
                and request.method == "GET"
                and version == "1.1"
                and not (request.length or request.chunked)
            )
        self._current = request
        self._overhead = self._chunks = 0
        self.ready.append(request)
        self._begin()

    def _check_size(self) -> None:
        limits = self._limits
        if len(self._headers) > limits.header_lines:
            self._reject(rejections.HEADERS_TOO_LARGE)
        if max(self._fed, self._head_fed + self._fed) > limits.header_bytes:
            size = len(self._url) + sum(len(name) + len(value) + 4 for name, value in self._headers)
            if size > limits.header_bytes:
                self._reject(rejections.HEADERS_TOO_LARGE)

    def _check_framing(self, request: ParsedRequest) -> None:
        version = request.version
        if version not in ("1.1", "1.0"):
            self._reject(rejections.UNKNOWN_VERSION)
        if request.method == "CONNECT":
            self._reject(rejections.CONNECT_NOT_SUPPORTED)
        if self._host is None:
            if version == "1.1":
                self._reject(rejections.malformed("a Host header is required"))
        elif self._host != self._seen_host:
            if not is_valid_authority(self._host):
                self._reject(rejections.malformed("the Host header is not a valid host"))
            self._seen_host = self._host
        if self._transfer is not None:
            if version == "1.0":
                self._reject(rejections.malformed("Transfer-Encoding came with HTTP/1.0"))
            if self._transfer != b"chunked":
                self._reject(rejections.UNKNOWN_CODING)
            request.chunked = True
        elif self._length is not None:
            request.length = int(self._length)
            if request.length > self._limits.body_bytes:
                self._check_body_size(request, request.length)
        if self._expect is not None and version == "1.1":
            if self._expect != b"100-continue":
                self._reject(rejections.UNKNOWN_EXPECTATION)
            request.expects_continue = True

    def _check_body_size(self, request: ParsedRequest, size: int) -> None:
        if size > self._limits.largest_body(request.headers):
            self._reject(rejections.BODY_TOO_LARGE)

    def _check_request_line(self, request: ParsedRequest) -> None:
        """llhttp accepts several spaces between the parts, and RTSP/ and ICE/ as the protocol."""
        version = b"1.1" if request.version == "1.1" else b"1.0"
        line = b"%b %b HTTP/%b\r\n" % (self._parser.get_method(), self._url, version)
        raw, start = self._raw, self._head_at
        if not raw.startswith(line, start):
            if self._head_exact:  # empty lines may come before a request
                start = len(raw) - len(raw[start:].lstrip(b"\r\n"))
            else:
                start = raw.find(b"\n" + line, start) + 1
            if not raw.startswith(line, start):
                self._reject(rejections.malformed("the request line is malformed"))
        self._head_at = raw.find(b"\r\n\r\n", start) + 4 + request.length
        self._head_exact = not request.chunked

    def _target(self, request: ParsedRequest) -> tuple[str, bytes, bytes]:
        """The target's decoded path, raw path and query. The last one is cached: clients repeat targets."""
        url = self._url
        if url == self._seen_url:
            return self._seen_target
        absolute = None
        if url == b"*" and request.method == "OPTIONS":
            return ("*", b"*", b"")
        if not url.startswith(b"/"):
            absolute = _ABSOLUTE.fullmatch(url)
            if absolute is None:
                self._reject(rejections.malformed("the request target is neither a path nor a URL"))
            if absolute[1].lower() != (self._host or b"").lower():
                self._reject(rejections.malformed("the URL and the Host header name different hosts"))
            url = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
        if b"#" in url:
            self._reject(rejections.malformed("the request target has a fragment"))
        raw, _, query = url.partition(b"?")
        path = raw.decode("ascii")
        target = (unquote(path) if "%" in path else path, raw, query)
        if absolute is None:
            self._seen_url, self._seen_target = self._url, target
        return target

    def on_chunk_header(self) -> None:
        self._chunks += 1
        if self._chunks > self._limits.body_chunks:
            self._reject(rejections.TOO_MANY_CHUNKS)

    def on_body(self, data: bytes) -> None:
        request = self._current
        if request is None:
            return
        request.received += len(data)
        if request.received > self._limits.body_bytes:
            self._check_body_size(request, request.received)
        request.pieces.append(data)

    def on_message_complete(self) -> None:
        if self._current is not None and not self._upgrading:
            self._complete(self._current)
